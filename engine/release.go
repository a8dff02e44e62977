package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// BindsWithin is how soon a message that is parked follows a change of its time.
const BindsWithin = 2 * time.Second

const (
	// releaseEvery is how often an engine looks for what is due.
	releaseEvery = 500 * time.Millisecond
	// releaseBatch is how many parked messages of a bucket are released in one
	// look, and releaseAtOnce how many of them are on their way at once.
	releaseBatch  = 500
	releaseAtOnce = 64
	// heldEvery is how often is looked whether anything is still parked of types that
	// are not held, and heldRate how many of it are released a second.
	heldEvery = 2 * time.Second
	heldRate  = 500
	// LeaseFor is how long an engine counts as there, and leaseEvery how often it
	// says that it is: the buckets of a dead one are taken over within both.
	LeaseFor   = 7 * time.Second
	leaseEvery = 2 * time.Second
)

// releaser sends what was parked when it is due. One goroutine runs it.
type releaser struct {
	owner   string // this engine
	queue   string
	broker  Broker
	bodies  Bodies
	index   DueIndex
	free    *atomic.Pointer[map[string]int] // how many of each type that was held may start
	engines *atomic.Int64                   // that are there
	log     zerolog.Logger
	observe func(Event)

	held    []string
	leaseAt time.Time // when to say again that we are here
	heldAt  time.Time // when to look again at what was held
	freed   []string  // of the types that may start, those of which some is still parked
	failing bool      // the last look failed, and was logged
}

// run releases until ctx ends. What it was about to send then is still parked.
func (r *releaser) run(ctx context.Context) {
	tick := time.NewTicker(releaseEvery)
	defer tick.Stop()
	for {
		if err := r.look(ctx); ctx.Err() == nil {
			r.report(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// report logs that releasing fails, and that it works again, once each.
func (r *releaser) report(err error) {
	switch {
	case err != nil && !r.failing:
		r.log.Error().Err(err).Msg("what is parked cannot be released; it is tried again")
	case err == nil && r.failing:
		r.log.Info().Msg("what is parked is released again")
	}
	r.failing = err != nil
}

// look releases what is due in the buckets that are ours.
func (r *releaser) look(ctx context.Context) error {
	if now := time.Now(); !now.Before(r.leaseAt) {
		if err := r.lease(ctx, now); err != nil {
			return err
		}
	}
	var errs []error
	for _, bucket := range r.held {
		_, err := r.releaseIn(ctx, bucket, releaseBatch)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, r.releaseFreed(ctx, time.Now()))...)
}

// releaseFreed releases what was held of types that are held no more: as many a
// second as heldRate in all, so that what comes meanwhile is not put off; of one that
// is held by its plugin, but to be tried, a single one at a look.
func (r *releaser) releaseFreed(ctx context.Context, now time.Time) error {
	free := r.free.Load()
	if free == nil {
		return nil
	}
	if !now.Before(r.heldAt) {
		r.heldAt, r.freed = now.Add(heldEvery), nil
		for typ := range *free {
			if slices.Contains(r.held, BucketOf(typ)) {
				r.freed = append(r.freed, typ)
			}
		}
	}
	budget := int(heldRate * releaseEvery / time.Second)
	var errs []error
	r.freed = slices.DeleteFunc(r.freed, func(typ string) bool {
		most, still := (*free)[typ]
		if budget <= 0 || !still {
			return !still
		}
		n, err := r.releaseIn(ctx, HeldBucket(typ), min(budget, most))
		budget -= n
		errs = append(errs, err)
		return err == nil && (n == 0 || most == 1)
	})
	return errors.Join(errs...)
}

// lease says that we are here, and learns which buckets are ours.
func (r *releaser) lease(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	leases, err := r.index.Leases(ctx)
	if err == nil {
		leases = leases.Share(r.owner, now, now.Add(LeaseFor))
		err = r.index.SetLeases(ctx, leases)
	}
	if errors.Is(err, ErrGuarded) {
		return nil // another engine was first; the next look tries again
	}
	if err == nil {
		r.held, r.leaseAt = leases.Of(r.owner), now.Add(leaseEvery)
		r.engines.Store(int64(len(leases.Owners)))
	}
	return err
}

// releaseIn releases what is due in a bucket, at most so many, urgent messages
// first, and tells how many there were. One that cannot be released keeps no other.
func (r *releaser) releaseIn(ctx context.Context, bucket string, most int) (found int, err error) {
	asking, cancel := context.WithTimeout(ctx, storeTimeout)
	due, err := r.index.DueIn(asking, bucket, most)
	cancel()
	if err != nil {
		return 0, err
	}
	slices.SortStableFunc(due, func(a, b Record) int { return cmp.Compare(b.Priority, a.Priority) })
	var g errgroup.Group
	g.SetLimit(releaseAtOnce)
	for _, rec := range due {
		g.Go(func() error { return r.release(ctx, rec) })
	}
	return len(due), g.Wait()
}

// release sends one parked message: the copy first, then the record, the body last.
func (r *releaser) release(ctx context.Context, rec Record) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	parked, err := r.bodies.Kept(ctx, rec.ID, rec.Hop)
	if errors.Is(err, ErrNotFound) {
		return nil // another engine has just released it; or the index is late
	}
	if err != nil {
		return err
	}
	waitsSince := rec.Due
	if rec.Held() {
		waitsSince = time.Now()
	}
	parked.Headers[HeaderQueuedAt] = millisText(waitsSince)
	if err := r.broker.Publish(ctx, Outgoing{Queue: r.queue, Headers: parked.Headers, Body: parked.Body}); err != nil {
		return err
	}
	_, err = r.index.Unpark(ctx, Unpark{ID: rec.ID, Hop: rec.Hop, Now: time.Now()})
	switch {
	case err == nil:
		r.observe(Event{Kind: EventReleased, ID: rec.ID, Type: rec.Type, Level: rec.Priority, Hop: rec.Hop, Wait: time.Since(waitsSince)})
	case !errors.Is(err, ErrGuarded): // else it has gone on already
		return err
	}
	return r.bodies.Drop(ctx, rec.ID, rec.Hop)
}
