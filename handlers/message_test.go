package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"usher/handlers"
)

// run runs f as a handler.
func run(t *testing.T, f handlers.HandlerFunc) ([]handlers.FollowOn, error) {
	t.Helper()
	return handlers.Run(t.Context(), f, &handlers.Message{ID: "m"}, nil)
}

func TestFollowOnsAreSentWhenDone(t *testing.T) {
	priority := 7
	want := handlers.FollowOn{
		Type: "b", Body: []byte("2"), ContentType: "text/plain", Headers: map[string]string{"x": "y"},
		Priority: &priority, Delay: time.Minute, Key: "k",
	}
	outs, err := run(t, func(_ context.Context, m *handlers.Message) error {
		return errors.Join(m.Emit("a", []byte("1")), m.EmitFollowOn(want))
	})
	if err != nil || len(outs) != 2 {
		t.Fatalf("%d follow-ons, %v; want 2", len(outs), err)
	}
	if outs[0].Type != "a" || string(outs[0].Body) != "1" || outs[0].Priority != nil {
		t.Errorf("the first is %+v", outs[0])
	}
	got := outs[1]
	if got.Type != want.Type || string(got.Body) != "2" || got.ContentType != want.ContentType || got.Headers["x"] != "y" ||
		*got.Priority != 7 || got.Delay != want.Delay || got.Key != want.Key {
		t.Errorf("the second is %+v; want %+v", got, want)
	}
}

func TestFollowOnsAreNotSentUnlessDone(t *testing.T) {
	for _, answer := range []error{errStock, handlers.Drop(), handlers.Defer(time.Minute), handlers.Permanent(errStock, "x"), handlers.RetryAfter(1, errStock)} {
		outs, err := run(t, func(_ context.Context, m *handlers.Message) error {
			if err := m.Emit("a", nil); err != nil {
				t.Error(err)
			}
			return answer
		})
		if len(outs) != 0 || !errors.Is(err, answer) {
			t.Errorf("%v: %d follow-ons, %v; want none", answer, len(outs), err)
		}
	}
}

func TestEmitCopiesWhatItIsGiven(t *testing.T) {
	outs, err := run(t, func(_ context.Context, m *handlers.Message) error {
		body, headers, priority := []byte("before"), map[string]string{"x": "before"}, 3
		if err := m.EmitFollowOn(handlers.FollowOn{Type: "a", Body: body, Headers: headers, Priority: &priority}); err != nil {
			return err
		}
		copy(body, "AFTER!")
		headers["x"], headers["y"], priority = "after", "after", 9
		return nil
	})
	if err != nil || len(outs) != 1 {
		t.Fatal(outs, err)
	}
	if out := outs[0]; string(out.Body) != "before" || len(out.Headers) != 1 || out.Headers["x"] != "before" || *out.Priority != 3 {
		t.Errorf("%+v, priority %d; want all as it was", out, *out.Priority)
	}
}

func TestEmitRefuses(t *testing.T) {
	low, high := -1, 10
	full := func(m *handlers.Message) {
		for range handlers.MaxFollowOns {
			_ = m.Emit("a", nil)
		}
	}
	heavy := func(m *handlers.Message) { _ = m.Emit("a", make([]byte, handlers.MaxFollowOnBytes)) }
	nothing := func(*handlers.Message) {}
	for _, c := range []struct {
		name   string
		before func(*handlers.Message)
		f      handlers.FollowOn
		want   string
		sent   int
	}{
		{"no type", nothing, handlers.FollowOn{}, "needs a type", 0},
		{"priority below 0", nothing, handlers.FollowOn{Type: "b", Priority: &low}, `"b": priority -1 is outside 0 to 9`, 0},
		{"priority above 9", nothing, handlers.FollowOn{Type: "b", Priority: &high}, `"b": priority 10 is outside 0 to 9`, 0},
		{"negative delay", nothing, handlers.FollowOn{Type: "b", Delay: -time.Second}, `"b": the delay -1s is negative`, 0},
		{"too many", full, handlers.FollowOn{Type: "b"}, "100 messages", handlers.MaxFollowOns},
		{"too long", nothing, handlers.FollowOn{Type: "b", Body: make([]byte, handlers.MaxFollowOnBytes+1)}, "1048576 bytes", 0},
		{"too long together", heavy, handlers.FollowOn{Type: "b", Body: []byte{1}}, "1048576 bytes", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			outs, err := run(t, func(_ context.Context, m *handlers.Message) error {
				c.before(m)
				if err := m.EmitFollowOn(c.f); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v; want it to say %q", err, c.want)
				}
				return nil
			})
			if err != nil || len(outs) != c.sent {
				t.Errorf("%d follow-ons, %v; want %d", len(outs), err, c.sent)
			}
		})
	}
}

func TestEmitTakesWhatFits(t *testing.T) {
	outs, err := run(t, func(_ context.Context, m *handlers.Message) error {
		half := make([]byte, handlers.MaxFollowOnBytes/2)
		return errors.Join(m.Emit("a", half), m.Emit("a", half), m.Emit("empty", nil))
	})
	if err != nil || len(outs) != 3 {
		t.Errorf("%d follow-ons, %v; want 3", len(outs), err)
	}
}

func TestNothingHappensAfterTheAttempt(t *testing.T) {
	m := &handlers.Message{}
	reports := 0
	outs, err := handlers.Run(t.Context(), answering(nil), m, func(handlers.Progress) { reports++ })
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Emit("late", nil); !errors.Is(err, handlers.ErrEnded) {
		t.Errorf("Emit: %v; want ErrEnded", err)
	}
	m.Progress(1, "late")
	if len(outs) != 0 || reports != 0 {
		t.Errorf("%d follow-ons, %d reports; want none", len(outs), reports)
	}
}

func TestProgress(t *testing.T) {
	for _, c := range []struct {
		ratio float64
		note  string
		want  handlers.Progress
	}{
		{0.4, "packing", handlers.Progress{Ratio: 0.4, Note: "packing"}},
		{-1, "", handlers.Progress{}},
		{2, "a\nb\x00c", handlers.Progress{Ratio: 1, Note: "a b c"}},
		{math.NaN(), "", handlers.Progress{}},
		{math.Inf(1), "", handlers.Progress{Ratio: 1}},
		{math.Inf(-1), "", handlers.Progress{}},
		{1, strings.Repeat("x", 300), handlers.Progress{Ratio: 1, Note: strings.Repeat("x", 253) + "…"}},
	} {
		var got []handlers.Progress
		m := &handlers.Message{}
		_, err := handlers.Run(t.Context(), handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
			m.Progress(c.ratio, c.note)
			return nil
		}), m, func(p handlers.Progress) { got = append(got, p) })
		if err != nil || len(got) != 1 || got[0] != c.want {
			t.Errorf("Progress(%v, %.10q): %+v, %v; want %+v", c.ratio, c.note, got, err, c.want)
		}
	}
	if _, err := run(t, func(_ context.Context, m *handlers.Message) error { m.Progress(1, "nobody hears it"); return nil }); err != nil {
		t.Error(err)
	}
	(&handlers.Message{}).Progress(1, "outside of a run")
}

func TestEmitAndProgressAreSafeForConcurrentUse(t *testing.T) {
	var mu sync.Mutex
	reports := 0
	outs, err := handlers.Run(t.Context(), handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		var wg sync.WaitGroup
		for i := range handlers.MaxFollowOns * 2 {
			wg.Go(func() {
				_ = m.Emit(fmt.Sprint(i), []byte("x")) // every second one is over the limit
				m.Progress(0.5, "")
			})
		}
		wg.Wait()
		return nil
	}), &handlers.Message{}, func(handlers.Progress) {
		mu.Lock()
		defer mu.Unlock()
		reports++
	})
	if err != nil || len(outs) != handlers.MaxFollowOns || reports != 2*handlers.MaxFollowOns {
		t.Errorf("%d follow-ons, %d reports, %v", len(outs), reports, err)
	}
}

func TestOneLine(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"plain", 10, "plain"},
		{"  a \t\r\n b\x00\x1b[31mc  ", 20, "a b [31mc"},
		{"a\u2028b\u2029c\u00a0d", 20, "a b c d"},
		{"\xff\xfe", 20, "\ufffd\ufffd"},
		{"exactly ten", 11, "exactly ten"},
		{"exactly ten!", 11, "exactly …"},
		{"üüü", 6, "üüü"},
		{"üüüü", 6, "ü…"},
		{"abc   ", 3, "abc"},
		{"abcd", 3, "…"},
		{"a", 0, ""},
		{"a", -1, ""},
	} {
		if got := handlers.OneLine(c.in, c.limit); got != c.want {
			t.Errorf("OneLine(%q, %d) is %q; want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestOneLineIsAlwaysOneLine(t *testing.T) {
	bytes := rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) })
	words := rapid.StringOf(rapid.RuneFrom([]rune{'a', 'ü', '世', '😀', ' ', '\n', '\x00', '\u2028', '\u0085'}))
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(bytes, words, rapid.String()).Draw(t, "in")
		limit := rapid.IntRange(0, 40).Draw(t, "limit")
		out := handlers.OneLine(in, limit)
		switch {
		case len(out) > limit:
			t.Fatalf("%q is %d bytes; at most %d", out, len(out), limit)
		case !utf8.ValidString(out):
			t.Fatalf("%q is no UTF-8", out)
		case strings.ContainsFunc(out, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }):
			t.Fatalf("%q has control characters", out)
		case strings.TrimSpace(out) != out || strings.Contains(out, "  "):
			t.Fatalf("%q has blanks too many", out)
		case handlers.OneLine(out, limit) != out:
			t.Fatalf("%q becomes %q when it is done again", out, handlers.OneLine(out, limit))
		}
		if full := handlers.OneLine(in, len(in)*3+3); len(full) <= limit && out != full {
			t.Fatalf("%q was cut to %q although it fits", full, out)
		}
		if !slices.Contains([]string{"", out}, strings.TrimSuffix(out, "…")) && !strings.HasPrefix(handlers.OneLine(in, len(in)*3+3), strings.TrimSuffix(out, "…")) {
			t.Fatalf("%q does not begin as %q does", out, in)
		}
	})
}
