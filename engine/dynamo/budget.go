package dynamo

import (
	"context"
	"errors"
	"sync"
)

// errBudget ends the repetitions of a call whose first answer was an error.
var errBudget = errors.New("too much was repeated lately")

// budget bounds repetitions: what is repeated takes one from it, each call that
// works at once gives a tenth back. So of calls that fail for long there are at most
// a tenth more than without.
type budget struct {
	mu    sync.Mutex
	left  float64 // guarded by mu
	limit float64
}

// refund is what a call that worked gives back.
const refund = 0.1

func newBudget(limit int) *budget { return &budget{left: float64(limit), limit: float64(limit)} }

// GetToken takes what a repetition costs.
func (b *budget) GetToken(context.Context, uint) (func() error, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 1 {
		return nil, errBudget
	}
	b.left--
	return func() error { b.add(1); return nil }, nil // it worked after all
}

// AddTokens gives back for a call that worked.
func (b *budget) AddTokens(uint) error {
	b.add(refund)
	return nil
}

func (b *budget) add(n float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.left+n, b.limit)
}
