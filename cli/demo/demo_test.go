package demo

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/engine"
	"usher/engine/enginetest"
)

// sent is a Sender that notes what it is given.
type sent struct {
	mu   sync.Mutex
	outs []engine.Outgoing
	err  error
}

func (s *sent) Send(_ context.Context, out engine.Outgoing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outs = append(s.outs, out)
	return s.err
}

func TestThePlayerSendsEveryKindAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sent{}
		p := NewPlayer(s)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := p.Run(ctx); err != nil {
			t.Fatal(err)
		}
		types := map[string]int{}
		for _, out := range s.outs {
			types[out.Headers[engine.HeaderType]]++
		}
		for _, scene := range scenes() {
			if types[scene.typ] == 0 {
				t.Errorf("no %s was sent", scene.typ)
			}
		}
		if got := len(p.Sent()); got != len(s.outs) || got < 900 {
			t.Errorf("%d are said to be sent, %d were", got, len(s.outs))
		}
	})
}

// An interrupt is no failure of the demo.
func TestThePlayerDoesNotReportWhyItWasStopped(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupt signal received"))
	if err := NewPlayer(&sent{}).Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestThePlayerReportsASendThatFails(t *testing.T) {
	err := NewPlayer(&sent{err: errors.New("the broker is full")}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the broker is full") {
		t.Errorf("Run: %v", err)
	}
}

// told is a board after a small shop's day.
func told() *Board {
	b := NewBoard()
	at := time.Now()
	for _, ev := range []engine.Event{
		{Kind: engine.EventReceived, ID: "1", Type: "order.rush", Level: 9},
		{Kind: engine.EventStarted, ID: "1", Type: "order.rush", Level: 9, Wait: 3 * time.Millisecond},
		{Kind: engine.EventRan, ID: "1", Type: "order.rush", Level: 9, Outcome: engine.OutcomeDone},
		{Kind: engine.EventSettled, ID: "1", Type: "order.rush", Level: 9, Outcome: engine.OutcomeDone},
		{Kind: engine.EventReceived, ID: "2", Type: "report.daily", Level: 2},
		{Kind: engine.EventSettled, ID: "2", Type: "report.daily", Level: 2, Outcome: engine.OutcomeDelayed, Until: at.Add(time.Hour)},
		{Kind: engine.EventReceived, ID: "3", Type: "card.charge", Level: 6},
		{Kind: engine.EventStarted, ID: "3", Type: "card.charge", Level: 6},
		{Kind: engine.EventRan, ID: "3", Type: "card.charge", Level: 6, Outcome: engine.OutcomeRetried, Attempt: 1, Of: 2, Detail: "no answer"},
		{Kind: engine.EventStarted, ID: "3", Type: "card.charge", Level: 6},
		{Kind: engine.EventRan, ID: "3", Type: "card.charge", Level: 6, Outcome: engine.OutcomeDeadLettered},
		{Kind: engine.EventSettled, ID: "3", Type: "card.charge", Level: 6, Outcome: engine.OutcomeDeadLettered, Reason: engine.ReasonExhausted, Detail: "\x1b[2Jno answer"},
	} {
		ev.At = at
		b.Observe(ev)
	}
	return b
}

func TestTheScreenShowsEachLevelAndFitsIt(t *testing.T) {
	for _, size := range [][2]int{{110, 40}, {80, 24}, {40, 10}} {
		var out bytes.Buffer
		if err := told().Draw(&out, Facts{Title: "usher dev --demo", Waiting: map[int]int{9: 4}}, size[0], size[1]); err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(out.String(), "\r\n") {
			if n := len([]rune(plain(line))); n > size[0] {
				t.Errorf("on a screen of %d a line has %d: %q", size[0], n, plain(line))
			}
		}
		if strings.Contains(out.String(), "\x1b[2J") {
			t.Error("a message's own escape codes reach the terminal")
		}
		if size[0] < 80 {
			continue
		}
		for _, says := range []string{"LEVEL", "WAITS UNTIL", "report.daily 2", "attempt 1 of 2 failed", "dead, exhausted"} {
			if !strings.Contains(out.String(), says) {
				t.Errorf("the screen does not show %q:\n%s", says, plain(out.String()))
			}
		}
	}
}

// plain takes the colour codes out.
func plain(s string) string {
	var b strings.Builder
	escape := false
	for _, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r == '[' || r >= '0' && r <= '9' || r == ';' || r == '?'
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func TestThePlainLineAndTheSummaryHaveTheSameCounts(t *testing.T) {
	b := told()
	line := b.Plain(Facts{})
	for _, says := range []string{"p9 1 done", "p6 0 done, 1 retried, 1 dead", "1 wait for their time"} {
		if !strings.Contains(line, says) {
			t.Errorf("%q is not in %q", says, line)
		}
	}
	var out bytes.Buffer
	if err := b.Summary(&out); err != nil || !strings.Contains(out.String(), "card.charge") {
		t.Errorf("summary (%v):\n%s", err, out.String())
	}
}

func TestTheAccountIsClosedOnlyWhenNothingIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		records := enginetest.NewMemory()
		write := func(id string, s engine.State) {
			if _, err := records.Write(t.Context(), engine.Change{ID: id, Type: "a", Digest: "d", State: s, Token: id, Now: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		write("done", engine.Done)
		write("dead", engine.Dead)
		write("dropped", engine.Cancelled)
		write("later", engine.Delayed)
		write("queued", engine.Queued)
		ids := func() []string { return []string{"done", "dead", "dropped", "later", "queued", "nowhere"} }
		seen := func() []string { return []string{"done", "followed"} }

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, err := Close(ctx, records, ids, seen)
		if err != nil || a.Closed() || len(a.Open) != 3 {
			t.Fatalf("account %+v (%v), want three open", a, err)
		}
		for _, id := range a.Open {
			write(id, engine.Done)
		}
		a, err = Close(t.Context(), records, ids, seen)
		if err != nil || !a.Closed() || a.Sent != 6 || a.FollowOns != 1 || a.Done != 4 || a.Dead != 1 || a.Cancelled != 1 || a.Waiting != 1 {
			t.Errorf("account %+v (%v)", a, err)
		}
	})
}
