package engine_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

func (r *rig) pause(typ string) {
	r.t.Helper()
	if err := engine.Pause(context.Background(), r.records, typ, time.Now()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) resume(typ string) {
	r.t.Helper()
	if err := engine.Resume(context.Background(), r.records, typ); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) reconfigure(change func(*engine.Config)) {
	r.t.Helper()
	if err := r.engine.Reconfigure(change, nil); err != nil {
		r.t.Fatal(err)
	}
}

func TestWhatIsPausedWaitsParkedAndTheRestFlows(t *testing.T) {
	g := newGauge(10 * time.Millisecond)
	run(t, g.handle, func(r *rig) {
		r.pause("a")
		r.after(2 * time.Second)
		for i := range 300 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "9")
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.after(5 * time.Second)
		if g.count("a") != 0 || g.count("b") != 300 {
			t.Errorf("%d of the paused type ran and %d of the other, want 0 and 300", g.count("a"), g.count("b"))
		}
		r.wantEmpty() // nothing of it is at the broker
		if rec := r.wantState("a7", engine.Delayed); !rec.Held() || rec.Attempts != 0 {
			t.Errorf("the record of a paused one is %+v; want it held, without an attempt", rec)
		}
		r.after(10 * time.Minute)
		if g.count("a") != 0 {
			t.Errorf("%d ran while their type was paused", g.count("a"))
		}
		r.resume("a")
		r.after(5 * time.Second)
		if g.count("a") != 300 {
			t.Errorf("%d of 300 ran within 5 s of the resume", g.count("a"))
		}
		r.wantEmpty()
		if n := r.records.Bodies(); n != 0 {
			t.Errorf("%d bodies are kept in the end", n)
		}
	})
}

func TestAPauseTakesWhatIsReadyAndLeavesWhatRuns(t *testing.T) {
	g := newGauge(3 * time.Second)
	run(t, g.handle, func(r *rig) {
		for i := range 40 {
			r.send(strconv.Itoa(i), "a")
		}
		r.after(time.Second) // 8 run, the rest is ready
		r.pause("a")
		r.after(time.Minute)
		if g.count("a") != 8 {
			t.Errorf("%d ran; want the 8 that had begun", g.count("a"))
		}
		r.resume("a")
		r.after(time.Minute)
		if g.count("a") != 40 {
			t.Errorf("%d ran in the end, want 40", g.count("a"))
		}
	}, func(c *engine.Config) { c.Slots = 8 })
}

func TestWhatIsHeldIsReleasedAtARate(t *testing.T) {
	g := newGauge(0)
	run(t, g.handle, func(r *rig) {
		r.pause("a")
		r.after(2 * time.Second)
		for i := range 3000 {
			r.send(strconv.Itoa(i), "a")
		}
		r.after(time.Minute)
		r.resume("a")
		r.after(5 * time.Second)
		if n := g.count("a"); n < 1000 || n > 2500 {
			t.Errorf("%d ran within 5 s, want 500 a second", n)
		}
		r.after(5 * time.Second)
		if n := g.count("a"); n != 3000 {
			t.Errorf("%d ran, want all", n)
		}
	})
}

// Before, a retry of a type that had been paused meanwhile went on.
func TestARetryOfAPausedTypeWaitsWithItsAttempts(t *testing.T) {
	var attempts []int
	h := func(_ context.Context, m *handlers.Message) error {
		attempts = append(attempts, m.Attempt)
		return handlers.RetryAfter(2*time.Second, errors.New("failed"))
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(100 * time.Millisecond)
		r.pause("a")
		r.after(time.Minute)
		if len(attempts) != 1 {
			t.Errorf("attempts %v, want the first only", attempts)
		}
		r.resume("a")
		r.after(time.Minute)
		if len(attempts) != 3 || attempts[2] != 3 {
			t.Errorf("attempts %v, want 1, 2, 3", attempts)
		}
		r.wantState("1", engine.Dead)
	})
}

func TestARemovedTypeWaitsAndComesBack(t *testing.T) {
	g := newGauge(time.Second)
	run(t, g.handle, func(r *rig) {
		for i := range 40 {
			r.send(strconv.Itoa(i), "a")
		}
		r.after(500 * time.Millisecond)
		types := map[string]engine.Type{"a": {}, "b": {}}
		r.reconfigure(func(c *engine.Config) { c.Types = map[string]engine.Type{"b": {}} })
		r.send("late", "a")
		r.send("b", "b")
		r.after(time.Minute)
		if g.count("a") != 8 || g.count("b") != 1 {
			t.Errorf("%d of the removed type ran and %d of the other; want the 8 that had begun, and 1", g.count("a"), g.count("b"))
		}
		if n := len(r.broker.Queue(engine.DeadQueue)); n != 0 {
			t.Errorf("%d are dead, want none", n)
		}
		// It outlives the engine.
		r.stop()
		r.start(func(c *engine.Config) { c.Types = map[string]engine.Type{"b": {}} })
		r.after(2 * time.Second)
		r.send("later", "a")
		r.after(10 * time.Second)
		r.wantState("later", engine.Delayed)
		r.reconfigure(func(c *engine.Config) { c.Types = types })
		r.after(time.Minute)
		if g.count("a") != 42 {
			t.Errorf("%d ran in the end, want 42", g.count("a"))
		}
		h, err := r.records.Holds(context.Background())
		if _, held := h.Types["a"]; err != nil || held {
			t.Errorf("the holds are %+v, %v; want a held no more", h, err)
		}
	}, func(c *engine.Config) { c.Slots = 8 })
}

func TestReconfigureOrdersWhatIsReadyAnew(t *testing.T) {
	g := newGauge(time.Second)
	run(t, g.handle, func(r *rig) {
		for i := range 20 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "3")
			r.send("b"+strconv.Itoa(i), "b", engine.HeaderPriority, "4")
		}
		r.after(500 * time.Millisecond) // the first 4 of b run
		nine := 9
		r.reconfigure(func(c *engine.Config) {
			c.Types = map[string]engine.Type{"a": {MinLevel: &nine}, "b": {Concurrency: 1}}
			c.Slots = 6
		})
		r.after(2 * time.Second)
		if a, b := g.peak("a"), g.count("b"); a < 2 || b > 6 {
			t.Errorf("%d of a ran at once and %d of b in all; want a first, and one of b at a time", a, b)
		}
		r.after(time.Minute)
		if g.count("a")+g.count("b") != 40 {
			t.Errorf("%d and %d ran in the end, want 20 each", g.count("a"), g.count("b"))
		}
	}, func(c *engine.Config) { c.Slots = 4 })
}

func TestReconfigureRefusesWhatIsWrongAndChangesNothing(t *testing.T) {
	g := newGauge(0)
	run(t, g.handle, func(r *rig) {
		r.after(time.Second)
		for name, change := range map[string]func(*engine.Config){
			"no slots":   func(c *engine.Config) { c.Slots = -1; c.Types = nil },
			"the window": func(c *engine.Config) { c.Window++; c.Types = nil },
			"the queue":  func(c *engine.Config) { c.Queue = "other"; c.Types = nil },
		} {
			err := r.engine.Reconfigure(change, func() error { t.Errorf("%s: what goes with it was changed", name); return nil })
			if err == nil {
				t.Errorf("%s: there was no error", name)
			}
		}
		failed := errors.New("failed")
		if err := r.engine.Reconfigure(func(c *engine.Config) { c.Types = nil }, func() error { return failed }); !errors.Is(err, failed) {
			t.Errorf("the error is %v, want that of what goes with it", err)
		}
		r.send("1", "a")
		r.after(time.Second)
		r.wantState("1", engine.Done)
		r.stop()
		if err := r.engine.Reconfigure(func(*engine.Config) {}, nil); err == nil {
			t.Error("after Run there was no error")
		}
	})
}
