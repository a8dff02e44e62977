package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

const (
	// backlogSize is how many messages wait on disk before an engine starts.
	backlogSize = 20_000
	orderSlots  = 8
	orderWork   = time.Millisecond
)

// TestNoMessageStartsWhileAHigherOneWaits runs a backlog; each message takes 1 ms.
func TestNoMessageStartsWhileAHigherOneWaits(t *testing.T) {
	r := runBacklog(t, openEmbedded(t), backlogSize)
	t.Logf("%d messages in %v (%.0f/s), slots idle for order's sake %v, out of order %d",
		r.started, r.took.Round(time.Millisecond), backlogSize/r.took.Seconds(), r.held.Round(time.Millisecond), r.early)
	if r.started != backlogSize || r.early != 0 {
		t.Errorf("%d messages started, %d of them while a higher one waited; want %d and 0", r.started, r.early, backlogSize)
	}
}

func order(r *rig) measurement {
	const told, untold, embedded = "ActiveMQ", "ActiveMQ without statistics", "embedded"
	run := func(p *pair) func(t testing.TB) []value {
		return func(t testing.TB) []value {
			o := runBacklog(t, p, *messages)
			return []value{
				{"early", "", float64(o.early)}, {"started again", "", float64(o.again)}, millis("longest hold", o.longest), millis("held in all", o.held),
				rate("all messages", o.started, o.took),
			}
		}
	}
	return measurement{
		name:  "order",
		title: "Order of a backlog",
		how: `20,000 messages of random levels wait on disk when the engine starts; each takes 1 ms of waiting in one of 8 slots, in the
engine's process. A message is *early* if a higher one started after it: that one was ready here, or still in the broker. A *hold* is a time
in which slots were free, something was ready, and the engine waited for a higher lane. *Without statistics* the broker's XML lacks
` + "`<statisticsBrokerPlugin/>`" + `, so the engine knows nothing of what it has not been given. How long a hold takes is up to the broker: it ends when
the broker has answered or delivered.`,
		ways: []way{{told, run(r.active)}, {untold, run(r.silent)}, {embedded, run(r.embedded)}},
		answers: func(res results) []answer {
			share := res.of(untold, "early").times(100 / float64(*messages))
			return []answer{
				{"Early of 20,000, ActiveMQ with statistics", "0", "", res.of(told, "early"), never(0)},
				{"Early, ActiveMQ without statistics", "at most 0.1 %", "%", share, never(0.1)},
				{"Early of 20,000, embedded broker", "0", "", res.of(embedded, "early"), never(0)},
				{"Longest hold, ActiveMQ with statistics", "at most 300 ms", "ms", res.of(told, "longest hold"), never(300)},
				{"Longest hold, ActiveMQ without statistics", "at most 300 ms", "ms", res.of(untold, "longest hold"), never(300)},
				{"Longest hold, embedded broker", "at most 300 ms", "ms", res.of(embedded, "longest hold"), never(300)},
			}
		},
	}
}

// ordered is how a backlog went.
type ordered struct {
	started, early      int
	again               int
	held, longest, took time.Duration
}

// runBacklog lets n messages of random levels wait and runs them.
func runBacklog(t testing.TB, p *pair, n int) ordered {
	t.Helper()
	p.fill(t, n, engine.WorkQueue, typeWork, func(int) int { return rand.IntN(engine.Levels) })
	s := newStarts(n)
	h := handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error { return work(ctx, orderWork) })
	p.run(t, inProcess{h, engine.DefaultSlots, make(chan struct{}, 1)}, s, orderSlots)
	r := ordered{started: len(s.levels), again: s.again, held: s.held, longest: s.longest, took: s.took()}
	highest := -1
	for _, level := range slices.Backward(s.levels) {
		if level < highest {
			r.early++
		}
		highest = max(highest, level)
	}
	return r
}
