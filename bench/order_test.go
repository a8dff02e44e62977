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

// TestNoMessageStartsWhileAHigherOneWaits puts 20,000 mixed messages on disk
// before the engine starts; each takes 1 ms.
func TestNoMessageStartsWhileAHigherOneWaits(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { testOrder(t, openPair(t, t.TempDir())) })
	t.Run("ActiveMQ", func(t *testing.T) { testOrder(t, openActiveMQ(t, t.TempDir())) })
}

func testOrder(t *testing.T, p *pair) {
	t.Helper()
	const n = 20_000
	p.send(t, n, func(i int) engine.Outgoing {
		return engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{
			engine.HeaderType: "work", engine.HeaderID: strconv.Itoa(i), engine.HeaderPriority: strconv.Itoa(rand.IntN(engine.Levels)),
		}}
	})
	s := newStarts(n)
	h := handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		select {
		case <-time.After(time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	took := p.run(t, inProcess{h, 32, make(chan struct{}, 1)}, s, 8)
	wrong, highest := 0, -1
	for _, level := range slices.Backward(s.levels) {
		if level < highest {
			wrong++
		}
		highest = max(highest, level)
	}
	t.Logf("%d messages in %v (%.0f/s), slots idle for order's sake %v, out of order %d", len(s.levels), took.Round(time.Millisecond), n/took.Seconds(), s.held.Round(time.Millisecond), wrong)
	if len(s.levels) != n || wrong != 0 {
		t.Errorf("%d messages started, %d of them while a higher one waited; want %d and 0", len(s.levels), wrong, n)
	}
}
