package server

import (
	"context"
	"time"
)

// cached keeps an answer for a short time: however many ask, whoever knows is
// asked once. The zero value is not usable; see newCached.
type cached[T any] struct {
	turn  chan struct{} // capacity 1: who holds it owns the rest
	fetch func(context.Context) (T, error)
	limit time.Duration // for one fetch

	at    time.Time
	value T
	err   error
}

// maxAge is how old an answer may be.
const maxAge = time.Second

func newCached[T any](limit time.Duration, fetch func(context.Context) (T, error)) *cached[T] {
	return &cached[T]{turn: make(chan struct{}, 1), fetch: fetch, limit: limit}
}

// get gives the answer, fresh or at most maxAge old. It waits for one that is
// being fetched, until ctx ends. A fetch goes on for others if its asker leaves.
func (c *cached[T]) get(ctx context.Context) (T, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
	if c.at.IsZero() || time.Since(c.at) >= maxAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.limit)
		defer cancel()
		c.value, c.err = c.fetch(ctx)
		c.at = time.Now()
	}
	return c.value, c.err
}
