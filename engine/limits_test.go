package engine_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// gauge counts what runs at once, and what has run, by type.
type gauge struct {
	mu        sync.Mutex
	now, most map[string]int
	ran       map[string]int
	levels    []int
	work      time.Duration
}

func newGauge(work time.Duration) *gauge {
	return &gauge{now: map[string]int{}, most: map[string]int{}, ran: map[string]int{}, work: work}
}

func (g *gauge) handle(_ context.Context, m *handlers.Message) error {
	g.mu.Lock()
	g.now[m.Type]++
	g.most[m.Type] = max(g.most[m.Type], g.now[m.Type])
	g.levels = append(g.levels, m.Priority)
	g.mu.Unlock()
	pass(g.work)
	g.mu.Lock()
	g.now[m.Type]--
	g.ran[m.Type]++
	g.mu.Unlock()
	return nil
}

func (g *gauge) running(typ string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now[typ]
}

// first are the priorities of the first n that started.
func (g *gauge) first(n int) []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.levels[:min(n, len(g.levels))])
}

func (g *gauge) peak(typ string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most[typ]
}

func (g *gauge) count(typ string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ran[typ]
}

func TestATypesConcurrencyHoldsAndTheOthersHaveTheOtherSlots(t *testing.T) {
	g := newGauge(100 * time.Millisecond)
	run(t, g.handle, func(r *rig) {
		for i := range 200 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "9")
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.after(5500 * time.Millisecond)
		if g.peak("a") != 2 || g.count("a") < 90 {
			t.Errorf("at most %d of type a ran at once, %d in 5 s; want 2 and about 100", g.peak("a"), g.count("a"))
		}
		if g.count("b") != 200 {
			t.Errorf("%d of type b ran, want all 200: slots were free", g.count("b"))
		}
		r.after(time.Minute)
		if g.count("a") != 200 {
			t.Errorf("%d of type a ran in the end, want 200", g.count("a"))
		}
		r.wantEmpty()
	}, func(c *engine.Config) {
		c.Slots = 8
		c.Types["a"] = engine.Type{Concurrency: 2}
	})
}

func TestATypesRateHolds(t *testing.T) {
	g := newGauge(time.Millisecond)
	run(t, g.handle, func(r *rig) {
		for i := range 400 {
			r.send("a"+strconv.Itoa(i), "a")
		}
		r.after(time.Second)
		before := g.count("a")
		r.after(5 * time.Second)
		if got := g.count("a") - before; got < 98 || got > 102 {
			t.Errorf("%d started in 5 s, want 100", got)
		}
		r.after(time.Minute)
		if g.count("a") != 400 {
			t.Errorf("%d ran in the end, want 400", g.count("a"))
		}
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Rate: 20} })
}

// A type at its limit had all of a lane's window, and the others of its level
// stood behind it in the broker.
func TestATypeAtItsLimitKeepsNoMoreThanHalfOfAWindow(t *testing.T) {
	g := newGauge(time.Second)
	run(t, g.handle, func(r *rig) {
		for i := range 300 {
			r.send("a"+strconv.Itoa(i), "a")
		}
		for i := range 20 {
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.after(20 * time.Second)
		if g.count("b") != 20 {
			t.Errorf("%d of type b ran within 20 s, want 20: type a has the window", g.count("b"))
		}
		if n := g.peak("a"); n != 1 {
			t.Errorf("%d of type a ran at once, want 1", n)
		}
		if rec := r.record("a299"); rec.DueBy != engine.ByLimit || rec.Bucket == "" {
			t.Errorf("the last of type a is %+v; want it parked for the limit", rec)
		}
		published := len(r.broker.Published())
		r.after(10 * time.Minute)
		if g.count("a") != 300 {
			t.Errorf("%d of type a ran within 10 minutes, want 300", g.count("a"))
		}
		if n := len(r.broker.Published()) - published; n > 900 {
			t.Errorf("%d copies were sent for 300 messages: they go round", n)
		}
		r.wantEmpty()
	}, func(c *engine.Config) {
		c.Slots, c.Window = 8, 100
		c.Types["a"] = engine.Type{Concurrency: 1}
	})
}

func TestReservedSlotsAreForTheTopLevels(t *testing.T) {
	g := newGauge(time.Second)
	run(t, g.handle, func(r *rig) {
		for i := range 20 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "2")
		}
		r.after(400 * time.Millisecond)
		if n := g.running("a"); n != 6 {
			t.Errorf("%d low messages run in 8 slots of which 2 are reserved, want 6", n)
		}
		r.send("urgent", "b", engine.HeaderPriority, "8")
		r.after(10 * time.Millisecond)
		if g.running("b") != 1 {
			t.Error("the urgent message waits although slots are reserved for it")
		}
		r.after(time.Minute)
	}, func(c *engine.Config) { c.Slots, c.Reserved, c.ReservedFrom = 8, 2, 8 })
}

func TestLowerLevelsHaveTheirShareOfTheStarts(t *testing.T) {
	g := newGauge(time.Millisecond)
	run(t, g.handle, func(r *rig) {
		r.stop()
		for i := range 1000 {
			r.send("high"+strconv.Itoa(i), "a", engine.HeaderPriority, "9")
		}
		for i := range 100 {
			r.send("low"+strconv.Itoa(i), "b", engine.HeaderPriority, "1")
		}
		r.after(time.Second)
		r.start(func(c *engine.Config) { c.Slots, c.Share = 1, 0.05 })
		for g.count("a") < 800 {
			r.after(10 * time.Millisecond)
		}
		low := 0
		for _, level := range g.first(800) {
			if level == 1 {
				low++
			}
		}
		if low < 36 || low > 44 {
			t.Errorf("%d of 800 starts were of the low level, want 5 %%", low)
		}
		r.after(time.Minute)
		if g.count("a")+g.count("b") != 1100 {
			t.Errorf("%d ran in the end, want 1100", g.count("a")+g.count("b"))
		}
	})
}

func TestATypesLevelsAreBounds(t *testing.T) {
	g := newGauge(time.Millisecond)
	low, high := 3, 5
	run(t, g.handle, func(r *rig) {
		r.stop()
		r.send("bounded-up", "bounded", engine.HeaderPriority, "0")
		r.send("bounded-down", "bounded", engine.HeaderPriority, "9")
		r.send("six", "a", engine.HeaderPriority, "6")
		r.send("two", "a", engine.HeaderPriority, "2")
		r.after(time.Second)
		r.start(func(c *engine.Config) {
			c.Slots = 1
			c.Types["bounded"] = engine.Type{MinLevel: &low, MaxLevel: &high}
		})
		r.after(time.Second)
		if got, want := g.first(4), []int{6, 9, 0, 2}; !slices.Equal(got, want) {
			t.Errorf("priorities started in the order %v, want %v", got, want)
		}
	})
}

// Of two engines one had all the messages in its window, and the other nothing to do.
func TestWhatHasNoSlotGoesToAnEngineThatHas(t *testing.T) {
	g := newGauge(10 * time.Second)
	run(t, g.handle, func(r *rig) {
		other := r.beside(func(c *engine.Config) { c.Slots = 2 })
		r.after(3 * time.Second) // both know of each other
		for i := range 20 {
			r.send("m"+strconv.Itoa(i), "a", engine.HeaderPriority, "6")
		}
		r.after(4 * time.Second)
		if n := len(r.broker.Published()); n != 0 {
			t.Errorf("%d copies were sent within 4 s", n)
		}
		r.after(4 * time.Second)
		handed := r.broker.Published()
		if len(handed) != 16 { // 2 run, 2 are next
			t.Fatalf("%d were handed on, want 16", len(handed))
		}
		rec := r.wantState("m19", engine.Queued)
		if rec.Hop != 1 || rec.Attempts != 0 || !rec.Due.IsZero() {
			t.Errorf("the record of one is %+v; want it queued, at hop 1, without an attempt", rec)
		}
		if got, want := handed[0].Headers[engine.HeaderQueuedAt], handed[15].Headers[engine.HeaderQueuedAt]; got != want || got == "" {
			t.Errorf("they are queued at %q and %q; want the time when they were sent", got, want)
		}
		other.close()
		r.after(5 * time.Minute)
		if g.count("a") != 20 {
			t.Errorf("%d ran in the end, want 20", g.count("a"))
		}
		r.wantEmpty()
	}, func(c *engine.Config) { c.Slots = 2 })
}

func TestOneEngineKeepsWhatHasNoSlot(t *testing.T) {
	g := newGauge(10 * time.Second)
	run(t, g.handle, func(r *rig) {
		for i := range 20 {
			r.send("m"+strconv.Itoa(i), "a")
		}
		r.after(time.Minute)
		if n := len(r.broker.Published()); n != 0 {
			t.Errorf("%d copies were sent, and there is nobody else", n)
		}
		r.after(time.Minute)
	}, func(c *engine.Config) { c.Slots = 2 })
}
