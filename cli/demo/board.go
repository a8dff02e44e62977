package demo

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"usher/engine"
	"usher/handlers"
)

// Board notes what happens to each level and type. It is an engine.Observer,
// safe for concurrent use.
type Board struct {
	mu      sync.Mutex // guards the rest
	started time.Time
	levels  [engine.Levels]tally
	types   map[string]*tally
	waits   map[string]pending // what waits until when, by id
	news    []string           // the latest last, at most maxNews
	seen    map[string]bool    // ids that were received
}

// tally counts one level, or one type.
type tally struct {
	Received, Running, Done, Retried, Delayed, Dead, Dropped int
	waits                                                    []time.Duration // the latest maxWaits, a ring
	next                                                     int
}

// pending is one message that waits.
type pending struct {
	typ   string
	until time.Time
	why   string
}

const (
	maxWaits = 1000
	maxNews  = 200
)

// NewBoard makes an empty board.
func NewBoard() *Board {
	return &Board{started: time.Now(), types: map[string]*tally{}, waits: map[string]pending{}, seen: map[string]bool{}}
}

var _ engine.Observer = (*Board)(nil)

// Observe notes one event.
func (b *Board) Observe(ev engine.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev.Kind {
	case engine.EventReceived:
		b.seen[ev.ID] = true
		if ev.Hop == 0 {
			b.both(ev, func(t *tally) { t.Received++ })
		}
	case engine.EventStarted:
		delete(b.waits, ev.ID)
		b.both(ev, func(t *tally) { t.Running++; t.waited(ev.Wait) })
	case engine.EventRan:
		b.both(ev, func(t *tally) { t.Running-- })
		b.ran(ev)
	case engine.EventSettled:
		b.settled(ev)
	case engine.EventSession:
		if ev.Epoch == 0 {
			b.note(ev, "the broker session is lost")
		}
	case engine.EventStoreDown:
		b.note(ev, "the record table does not answer")
	case engine.EventHeld, engine.EventStoreUp, engine.EventReleased:
	}
}

func (b *Board) ran(ev engine.Event) {
	switch ev.Outcome {
	case engine.OutcomeRetried:
		b.both(ev, func(t *tally) { t.Retried++ })
		b.note(ev, fmt.Sprintf("%s %s: attempt %d of %d failed, tried again: %s", ev.Type, ev.ID, ev.Attempt, ev.Of, ev.Detail))
	case engine.OutcomeCrashed:
		b.both(ev, func(t *tally) { t.Retried++ })
		b.note(ev, fmt.Sprintf("%s %s: its plugin crashed, tried again", ev.Type, ev.ID))
	}
}

func (b *Board) settled(ev engine.Event) {
	switch ev.Outcome {
	case engine.OutcomeDone:
		b.both(ev, func(t *tally) { t.Done++ })
	case engine.OutcomeDropped:
		b.both(ev, func(t *tally) { t.Dropped++ })
	case engine.OutcomeDeadLettered:
		b.both(ev, func(t *tally) { t.Dead++ })
		delete(b.waits, ev.ID)
		b.note(ev, fmt.Sprintf("%s %s: dead, %s: %s", ev.Type, ev.ID, ev.Reason, ev.Detail))
	case engine.OutcomeDelayed, engine.OutcomeDeferred, engine.OutcomeRetried:
		if _, again := b.waits[ev.ID]; !again {
			b.both(ev, func(t *tally) { t.Delayed++ })
		}
		b.waits[ev.ID] = pending{handlers.OneLine(ev.Type, 60), ev.Until, ev.Outcome}
	}
}

func (b *Board) both(ev engine.Event, f func(*tally)) {
	if ev.Level >= 0 && ev.Level < engine.Levels {
		f(&b.levels[ev.Level])
	}
	t := b.types[ev.Type]
	if t == nil {
		t = &tally{}
		b.types[ev.Type] = t
	}
	f(t)
}

// Write takes log lines into the news.
func (b *Board) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(engine.Event{At: time.Now()}, string(p))
	return len(p), nil
}

func (b *Board) note(ev engine.Event, text string) {
	// Types and details are other people's words, and this goes to a terminal.
	b.news = append(b.news, ev.At.Format("15:04:05 ")+handlers.OneLine(text, 1000))
	if len(b.news) > maxNews {
		b.news = slices.Delete(b.news, 0, len(b.news)-maxNews)
	}
}

func (t *tally) waited(d time.Duration) {
	if len(t.waits) < maxWaits {
		t.waits = append(t.waits, d)
		return
	}
	t.waits[t.next] = d
	t.next = (t.next + 1) % maxWaits
}

// quantile is the wait that a part q of the latest messages did not exceed.
func (t *tally) quantile(q float64) time.Duration {
	if len(t.waits) == 0 {
		return 0
	}
	sorted := slices.Clone(t.waits)
	slices.Sort(sorted)
	return sorted[int(q*float64(len(sorted)-1))]
}

// Seen lists the ids that the engine has received, follow-ons among them.
func (b *Board) Seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]string, 0, len(b.seen))
	for id := range b.seen {
		ids = append(ids, id)
	}
	return ids
}
