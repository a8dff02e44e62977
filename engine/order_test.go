package engine_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// started lists the levels in the order in which their messages got a slot.
// (Two that get slots at the same moment may reach their handlers in any order.)
func (e *events) started() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	var levels []int
	for _, ev := range e.all {
		if ev.Kind == engine.EventStarted {
			levels = append(levels, ev.Level)
		}
	}
	return levels
}

// inversions counts the messages that started while a higher one, which
// starts later in the list, had not: all of them were there from the beginning.
func inversions(started []int) (n int) {
	highest := -1 // of those that start later
	for _, level := range slices.Backward(started) {
		if level < highest {
			n++
		}
		highest = max(highest, level)
	}
	return n
}

// backlog runs an engine on n mixed messages that wait.
func backlog(t *testing.T, n int, work time.Duration, statistics bool) (started []int, took time.Duration) {
	t.Helper()
	h := func(context.Context, *handlers.Message) error { pass(work); return nil }
	run(t, h, func(r *rig) {
		r.stop()
		r.broker.SetStatistics(statistics)
		for i := range n {
			r.send(strconv.Itoa(i), "a", engine.HeaderPriority, strconv.Itoa(rand.IntN(engine.Levels)))
		}
		r.after(time.Second)
		r.start(func(c *engine.Config) { c.Slots = 8 })
		began := time.Now()
		for len(r.board.started()) < n {
			r.after(10 * time.Millisecond)
			if time.Since(began) > time.Hour {
				t.Fatalf("%d of %d started within an hour", len(r.board.started()), n)
			}
		}
		took = time.Since(began)
		r.after(5 * time.Second)
		r.wantEmpty()
		started = r.board.started()
	})
	return started, took
}

func TestNoMessageStartsWhileAHigherOneWaitsInTheBroker(t *testing.T) {
	const n = 2000
	started, took := backlog(t, n, time.Millisecond, true)
	if got := inversions(started); got != 0 {
		t.Errorf("%d of %d messages started while a higher one waited, want 0", got, n)
	}
	// 300 ms to let all lanes deliver, and little more than the work itself.
	if most := 300*time.Millisecond + n/8*time.Millisecond + 500*time.Millisecond; took > most {
		t.Errorf("it took %v, want at most %v: slots idled", took, most)
	}
}

func TestWithoutStatisticsOrderHoldsAllTheSame(t *testing.T) {
	const n = 2000
	started, _ := backlog(t, n, time.Millisecond, false)
	if got := inversions(started); got > n/1000 {
		t.Errorf("%d of %d messages started while a higher one waited, want at most one in a thousand", got, n)
	}
}
