package bench

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

// backlogSize is how many mixed messages wait on disk before an engine starts.
const backlogSize = 20_000

// TestNoMessageStartsWhileAHigherOneWaits runs a backlog; each message takes 1 ms.
func TestNoMessageStartsWhileAHigherOneWaits(t *testing.T) {
	r := runBacklog(t, openPair(t, t.TempDir()))
	t.Logf("%d messages in %v (%.0f/s), slots idle for order's sake %v, out of order %d",
		r.started, r.took.Round(time.Millisecond), backlogSize/r.took.Seconds(), r.held.Round(time.Millisecond), r.early)
	if r.started != backlogSize || r.early != 0 {
		t.Errorf("%d messages started, %d of them while a higher one waited; want %d and 0", r.started, r.early, backlogSize)
	}
}

// BenchmarkBacklog measures the same on both brokers; early counts the messages
// that started while a higher one waited.
func BenchmarkBacklog(b *testing.B) {
	for name, open := range map[string]func(testing.TB, string) *pair{"embedded": openPair, "ActiveMQ": openActiveMQ} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				r := runBacklog(b, open(b, b.TempDir()))
				b.ReportMetric(backlogSize/r.took.Seconds(), "messages/s")
				b.ReportMetric(float64(r.early), "early")
				b.ReportMetric(float64(r.held.Milliseconds()), "idle-ms")
			}
		})
	}
}

// backlogRun is how a backlog went.
type backlogRun struct {
	started, early int
	held, took     time.Duration
}

func runBacklog(t testing.TB, p *pair) backlogRun {
	t.Helper()
	p.send(t, backlogSize, func(i int) engine.Outgoing {
		return engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{
			engine.HeaderType: "work", engine.HeaderID: strconv.Itoa(i), engine.HeaderPriority: strconv.Itoa(rand.IntN(engine.Levels)),
		}}
	})
	s := newStarts(backlogSize)
	h := handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		select {
		case <-time.After(time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	r := backlogRun{took: p.run(t, inProcess{h, 32, make(chan struct{}, 1)}, s, 8), started: len(s.levels), held: s.held}
	highest := -1
	for _, level := range slices.Backward(s.levels) {
		if level < highest {
			r.early++
		}
		highest = max(highest, level)
	}
	return r
}
