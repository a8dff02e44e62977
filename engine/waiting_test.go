package engine_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// times notes when each message ran, counted from the beginning of the bubble.
type times struct {
	mu    sync.Mutex
	began time.Time
	ran   map[string]time.Duration
}

func newTimes() *times {
	// The time at which every synctest bubble begins (its package documentation).
	return &times{began: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), ran: map[string]time.Duration{}}
}

func (x *times) handle(_ context.Context, m *handlers.Message) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ran[m.ID] = time.Since(x.began)
	return nil
}

func (x *times) want(t *testing.T, id string, from, to time.Duration) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	at, ran := x.ran[id]
	if !ran {
		t.Errorf("%s has not run", id)
	} else if at < from || at > to {
		t.Errorf("%s ran at %v, want %v to %v", id, at, from, to)
	}
}

func TestTheDelayGate(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		now := time.Now()
		r.send("rule", "late")
		r.send("header", "late", engine.HeaderDelay, "20s")
		r.send("short", "a", engine.HeaderDelay, "1500")
		r.send("long", "a", engine.HeaderNotBefore, now.Add(2*time.Minute).UTC().Format(time.RFC3339Nano))
		r.send("past", "a", engine.HeaderNotBefore, "2000-01-01T00:00:00Z")
		r.after(5 * time.Second)
		for id, by := range map[string]engine.DueBy{"rule": engine.ByRule, "header": engine.ByHeader, "long": engine.ByHeader} {
			if rec := r.wantState(id, engine.Delayed); rec.DueBy != by {
				t.Errorf("%s is due by %q, want %q", id, rec.DueBy, by)
			}
		}
		if n := r.broker.InHand(); n != 0 {
			t.Errorf("%d wait un-acked, want 0", n)
		}
		r.after(3 * time.Minute)
		ran.want(t, "past", 0, time.Second)
		ran.want(t, "short", 1500*time.Millisecond, 2*time.Second)
		ran.want(t, "rule", 10*time.Second, 11*time.Second)
		ran.want(t, "header", 20*time.Second, 21*time.Second)
		ran.want(t, "long", 2*time.Minute, 2*time.Minute+time.Second)
		r.wantEmpty()
	})
}

func TestAnOperatorMovesAWaitingMessageEarlierAndLater(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		r.send("earlier", "a", engine.HeaderDelay, "1h")
		r.send("later", "a", engine.HeaderDelay, "50s")
		r.after(10 * time.Second)
		now := time.Now()
		for id, due := range map[string]time.Time{"earlier": now, "later": now.Add(5 * time.Minute)} {
			if _, err := r.records.SetDue(context.Background(), id, due); err != nil {
				t.Fatal(err)
			}
		}
		r.after(10 * time.Minute)
		ran.want(t, "earlier", 10*time.Second, 12*time.Second)
		ran.want(t, "later", 5*time.Minute+10*time.Second, 5*time.Minute+12*time.Second)
	})
}

func TestAnOperatorWhoComesFirstOverrulesRuleAndHeader(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		for _, id := range []string{"rule", "header"} {
			if _, err := r.records.SetDue(context.Background(), id, time.Now().Add(30*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		r.send("rule", "late")
		r.send("header", "a", engine.HeaderDelay, "1h")
		r.after(2 * time.Minute)
		ran.want(t, "rule", 30*time.Second, 31*time.Second)
		ran.want(t, "header", 30*time.Second, 31*time.Second)
	})
}

func TestTheRuleIsAppliedOnceAndNotToRetries(t *testing.T) {
	attempts := 0
	h := func(context.Context, *handlers.Message) error {
		if attempts++; attempts == 1 {
			return handlers.RetryAfter(5*time.Second, context.Canceled)
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "late") // 10 s by its rule
		r.after(16 * time.Second)
		if attempts != 2 {
			t.Errorf("%d attempts after 16 s, want 2: one at 10 s, one at 15 s", attempts)
		}
	})
}

func TestHighLevelsBypassTheRuleAndNothingElse(t *testing.T) {
	ran := newTimes()
	seven := 7
	run(t, ran.handle, func(r *rig) {
		if _, err := r.records.SetDue(context.Background(), "operator", time.Now().Add(30*time.Second)); err != nil {
			t.Fatal(err)
		}
		r.send("low", "late", engine.HeaderPriority, "6")
		r.send("high", "late", engine.HeaderPriority, "7")
		r.send("header", "late", engine.HeaderPriority, "9", engine.HeaderDelay, "20s")
		r.send("operator", "late", engine.HeaderPriority, "9")
		r.after(time.Minute)
		ran.want(t, "high", 0, time.Second)
		ran.want(t, "low", 10*time.Second, 11*time.Second)
		ran.want(t, "header", 20*time.Second, 21*time.Second)
		ran.want(t, "operator", 30*time.Second, 31*time.Second)
	}, func(c *engine.Config) { c.Types["late"] = engine.Type{Delay: 10 * time.Second, Bypass: &seven} })
}

func TestAnUnknownTypeWaitsIfItIsToldTo(t *testing.T) {
	run(t, ok, func(r *rig) {
		r.send("1", "zebra")
		r.after(30 * time.Second)
		r.wantState("1", engine.Delayed)
		r.after(45 * time.Second)
		r.wantDead("1", engine.ReasonUnknownType)
	}, func(c *engine.Config) { c.UnknownTypeWait = time.Minute })
}
