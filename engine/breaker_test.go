package engine_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// What the handlers of type a need is away for ten minutes, with a thousand messages of
// it there: the attempts that open the breaker are charged, and no other; other types
// flow; one is tried now and then; and when it is back all are done.
func TestABreakerHasATypeWaitWhileWhatItNeedsIsAway(t *testing.T) {
	const after, slots = 5, 8
	var away atomic.Bool
	var tried, others atomic.Int64
	away.Store(true)
	h := func(_ context.Context, m *handlers.Message) error {
		if m.Type == "b" {
			others.Add(1)
			return nil
		}
		if tried.Add(1); away.Load() {
			return errors.New("it is away")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		for i := range 1000 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "9")
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.after(5 * time.Second)
		if n := others.Load(); n != 1000 {
			t.Errorf("%d of 1000 messages of the other type ran within 5 s", n)
		}
		r.after(10 * time.Minute)
		if n := tried.Load(); n < 20 || n > after+slots+30 {
			t.Errorf("%d attempts were made, want 20 to %d", n, after+slots+30)
		}
		if dead := len(r.broker.Queue(engine.DeadQueue)); dead != 0 {
			t.Errorf("%d are dead", dead)
		}
		if v, _ := r.engine.View(); !v.ByType["a"].Held || v.ByType["b"].Held {
			t.Errorf("held: a %t, b %t", v.ByType["a"].Held, v.ByType["b"].Held)
		}
		away.Store(false)
		r.after(40 * time.Second)
		charged := 0
		for i := range 1000 {
			charged += r.wantState("a"+strconv.Itoa(i), engine.Done).Attempts
		}
		if charged != 1000+after {
			t.Errorf("%d attempts were charged, want one a message and the %d that opened the breaker", charged, after)
		}
		if v, _ := r.engine.View(); v.ByType["a"].Held {
			t.Error("it is held still")
		}
		r.wantEmpty()
	}, func(c *engine.Config) {
		c.Slots = slots
		c.Types["a"] = engine.Type{Breaker: after, Attempts: 3}
	})
}

// Failures of which every few are followed by an answer open nothing, and neither do
// messages that are rejected.
func TestABreakerStaysClosedWhileThereAreAnswers(t *testing.T) {
	n := 0 // there is one slot
	h := func(_ context.Context, m *handlers.Message) error {
		if m.Type == "b" {
			return handlers.Permanent(errors.New("no such order"), "unknown")
		}
		if n++; n%4 != 0 {
			return errors.New("busy")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		for i := range 100 {
			r.send("a"+strconv.Itoa(i), "a")
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.after(time.Minute)
		for i := range 100 {
			if got := r.board.settled("a" + strconv.Itoa(i)); slices.Contains(got, engine.OutcomeHeld) {
				t.Errorf("a%d was %v", i, got)
			}
		}
		r.wantEmpty()
	}, func(c *engine.Config) {
		c.Slots = 1
		c.Types["a"] = engine.Type{Breaker: 8, Attempts: 20}
		c.Types["b"] = engine.Type{Breaker: 8}
	})
}
