package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"usher/engine"
)

// Lookups is the part of the records that accounting needs.
type Lookups interface {
	LookUp(ctx context.Context, ids []string) (engine.Found, error)
}

// Account is where every message is: what was sent, and what followed from it.
type Account struct {
	Sent, FollowOns       int
	Done, Dead, Cancelled int
	Waiting               int // delayed, or to be tried again, with a time
	Open                  []string
}

// Closed says whether every message is accounted for: finished, or waiting for
// a known time.
func (a Account) Closed() bool { return len(a.Open) == 0 }

// String is the account in one line.
func (a Account) String() string {
	s := fmt.Sprintf("%d sent and %d that followed = %d done + %d dead + %d cancelled + %d waiting for their time",
		a.Sent, a.FollowOns, a.Done, a.Dead, a.Cancelled, a.Waiting)
	if a.Closed() {
		return s + "; every message is accounted for"
	}
	return s + fmt.Sprintf(" + %d NOT ACCOUNTED FOR: %v", len(a.Open), a.Open[:min(len(a.Open), 10)])
}

// Close makes the account of what was sent and seen. What is on its way gets
// until ctx ends to arrive; what is open then stays open. The error is of the
// records.
func Close(ctx context.Context, records Lookups, sent func() []string, seen func() []string) (Account, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		// The look-up is not cut short by the end of the waiting.
		a, err := account(context.WithoutCancel(ctx), records, sent(), seen())
		if err != nil || a.Closed() {
			return a, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return a, nil
		}
	}
}

func account(ctx context.Context, records Lookups, sent, seen []string) (Account, error) {
	a := Account{Sent: len(sent)}
	ids := append(slices.Clone(sent), seen...)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	a.FollowOns = len(ids) - len(sent)
	for batch := range slices.Chunk(ids, 100) {
		found, err := records.LookUp(ctx, batch)
		if err != nil {
			return a, fmt.Errorf("demo: the account cannot be closed: %w", err)
		}
		for _, id := range batch {
			switch found.Records[id].State {
			case engine.Done:
				a.Done++
			case engine.Dead:
				a.Dead++
			case engine.Cancelled:
				a.Cancelled++
			case engine.Delayed, engine.Retrying:
				a.Waiting++
			case engine.Queued, engine.Processing:
				a.Open = append(a.Open, id)
			default: // no record yet
				a.Open = append(a.Open, id)
			}
		}
	}
	return a, nil
}
