package shop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/handlers"
	"usher/handlers/plugin/plugintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func message(typ, id string, attempt int) *handlers.Message {
	return &handlers.Message{ID: id, Type: typ, Attempt: attempt, Priority: 4, IdempotencyKey: "key-" + id, ContentType: "application/json"}
}

func TestWhatEachTypeAnswers(t *testing.T) {
	ends := message("crash.test", "m", 1)
	ends.Body = []byte(`{"exit": 0}`)
	broken := message("crash.test", "m", 1)
	broken.Body = []byte(`{`)
	tests := []struct {
		message *handlers.Message
		kind    handlers.Kind
		code    string
	}{
		{message("order.rush", "m", 1), handlers.Done, ""},
		{message("order.placed", "m", 1), handlers.Done, ""},
		{message("receipt.email", "m", 1), handlers.Done, ""},
		{message("report.daily", "m", 1), handlers.Done, ""},
		{message("card.charge", "m", 1), handlers.Retry, ""},
		{message("card.charge", "m", 9), handlers.Retry, ""},
		{message("address.check", "m", 1), handlers.Rejected, "no_such_street"},
		{message("legacy.import", "m", 1), handlers.Retry, handlers.CodePanic},
		{message("crash.test", "m", 1), handlers.Done, ""},
		{ends, handlers.Done, ""},
		{broken, handlers.Rejected, "bad_body"},
		{message("order.lost", "m", 1), handlers.Rejected, handlers.CodeNoHandler},
	}
	sides := map[string]handlers.Handler{
		"in process": handlers.Recover(Mux()),
		"across":     plugintest.Across(t, Mux()),
	}
	for side, h := range sides {
		for _, test := range tests {
			o := handlers.OutcomeOf(h.HandleMessage(t.Context(), test.message))
			if o.Kind != test.kind || o.Code != test.code {
				t.Errorf("%s: %s, attempt %d: got %+v", side, test.message.Type, test.message.Attempt, o)
			}
		}
	}
}

// Every type of the package comment has a handler, and the other way round.
func TestTypesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(doc)) {
		if rest, ok := strings.CutPrefix(line, "//\t"); ok && !strings.HasPrefix(rest, "<") {
			documented = append(documented, strings.Fields(rest)[0])
		}
	}
	slices.Sort(documented)
	if types := Mux().Types(); !slices.Equal(documented, types) {
		t.Errorf("documented %v, handled %v", documented, types)
	}
}

func TestOrderTakesItsTimeAndEmitsOneReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := map[string]bool{}
		for i := range 50 {
			id := fmt.Sprintf("order-%d", i)
			var notes []string
			began := time.Now()
			followOns, err := handlers.Run(t.Context(), Mux(), message("order.placed", id, 1), func(p handlers.Progress) {
				notes = append(notes, p.Note)
			})
			if took := time.Since(began); err != nil || took < 20*time.Millisecond || took > 40*time.Millisecond {
				t.Errorf("%s: %v after %v", id, err, took)
			}
			if !slices.Equal(notes, []string{"picking", "packing"}) {
				t.Errorf("%s: notes %v", id, notes)
			}
			if len(followOns) != 1 || followOns[0].Type != "receipt.email" || string(followOns[0].Body) != fmt.Sprintf(`{"order":%q}`, id) {
				t.Fatalf("%s: emitted %+v", id, followOns)
			}
			keys[followOns[0].Key] = true
		}
		if !maps.Equal(keys, map[string]bool{"receipt": true}) {
			t.Errorf("keys %v", keys)
		}
	})
}

func TestStockFailsTwiceForTwoOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flaky := 0
		for i := range 300 {
			id := fmt.Sprintf("stock-%d", i)
			var failed []int
			for attempt := 1; attempt <= 4; attempt++ {
				switch o := handlers.OutcomeOf(Mux().HandleMessage(t.Context(), message("stock.sync", id, attempt))); o.Kind {
				case handlers.Retry:
					failed = append(failed, attempt)
				case handlers.Done:
				case handlers.Deferred, handlers.Rejected, handlers.Dropped:
					t.Errorf("%s: %+v", id, o)
				}
			}
			switch {
			case slices.Equal(failed, []int{1, 2}):
				flaky++
			case len(failed) != 0:
				t.Errorf("%s failed at the attempts %v", id, failed)
			}
		}
		if flaky < 170 || flaky > 230 {
			t.Errorf("%d of 300 are flaky", flaky)
		}
	})
}

func TestWorkStopsWhenItIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("stop")
		for _, typ := range []string{"order.rush", "order.placed", "receipt.email", "report.daily", "stock.sync"} {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(stop)
			began := time.Now()
			if err := Mux().HandleMessage(ctx, message(typ, "m", 3)); !errors.Is(err, stop) {
				t.Errorf("%s: %v", typ, err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%s went on for %v", typ, took)
			}
		}
	})
}

func TestEffectsAreWrittenOnceForEachSuccess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "effects")
	book, err := openEffects(path)
	if err != nil {
		t.Fatal(err)
	}
	defer book.file.Close()
	across := plugintest.Across(t, newMux(book))
	began := time.Now().UnixNano()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for _, typ := range []string{"order.rush", "card.charge", "address.check", "legacy.import"} {
				across.HandleMessage(t.Context(), message(typ, fmt.Sprintf("a b/%d", i), 2)) //nolint:errcheck // the file tells
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for line := range strings.Lines(string(text)) {
		var id, key, typ string
		var attempt int
		var at int64
		if _, err := fmt.Sscanf(line, "%s %s %s %d %d\n", &id, &key, &typ, &attempt, &at); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if typ != "order.rush" || attempt != 2 || at < began || key != "key-"+id {
			t.Errorf("line %q", line)
		}
		seen[id]++
	}
	for i := range 20 {
		if n := seen[fmt.Sprintf("a%%20b%%2F%d", i)]; n != 1 {
			t.Errorf("message %d has %d effects", i, n)
		}
	}
}

func TestEffectThatCannotBeWrittenIsNotDone(t *testing.T) {
	book, err := openEffects(filepath.Join(t.TempDir(), "effects"))
	if err != nil {
		t.Fatal(err)
	}
	if err := book.file.Close(); err != nil {
		t.Fatal(err)
	}
	if o := handlers.OutcomeOf(newMux(book).HandleMessage(t.Context(), message("order.rush", "m", 1))); o.Kind != handlers.Retry {
		t.Errorf("got %+v", o)
	}
	if _, err := openEffects(filepath.Join(t.TempDir(), "no", "effects")); err == nil || !strings.Contains(err.Error(), EffectsVariable) {
		t.Errorf("got %v", err)
	}
}
