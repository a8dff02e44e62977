package engine

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Bodies keeps what parked messages need to be sent again, apart from the
// records: who edits records never sees payloads. Methods are safe for
// concurrent use, block until the store has answered or ctx ends, and do not
// retry; after an error a change may or may not have landed.
type Bodies interface {
	// Keep stores the copy of a hop durably. The caller's map and slice are read
	// until it returns. One that is there already is replaced.
	Keep(ctx context.Context, id string, hop int, p Parked) error
	// Kept reads it; what it returns is the caller's. ErrNotFound if there is none.
	Kept(ctx context.Context, id string, hop int) (Parked, error)
	// Drop forgets it. It is no error if it is not there. A body that was
	// forgotten here, because its process died, is dropped by the store: one that
	// no parked record of its hop belongs to, an hour after it was kept.
	Drop(ctx context.Context, id string, hop int) error
}

// Parked is a copy that waits outside the broker.
type Parked struct {
	Headers map[string]string // STOMP header names, as they will be sent
	Body    []byte
}

// DueIndex finds what is parked by when it is due. The same rules hold as for
// [Bodies].
type DueIndex interface {
	// DueIn lists parked records of a bucket that are due by the store's clock,
	// the earliest first, at most limit of them; perhaps some seconds late.
	DueIn(ctx context.Context, bucket string, limit int) ([]Record, error)
	// Unpark notes that the copy of a hop has been sent: see [Unpark.Allowed] and
	// [Unpark.Apply]. ErrGuarded comes with the record as it is; it is the zero
	// Record if there is none.
	Unpark(ctx context.Context, u Unpark) (Record, error)
	// Leases reads who releases which bucket; the zero Leases if nobody ever did.
	Leases(ctx context.Context) (Leases, error)
	// SetLeases replaces the leases if they still have the Version given, and adds
	// one to it. ErrGuarded if somebody else was first.
	SetLeases(ctx context.Context, l Leases) error
}

const (
	// Buckets is how many parts the due index has: as many engines can release at once.
	Buckets = 8
	// MaxParked is the longest copy that is parked, in bytes of body and headers;
	// a longer one takes the broker's scheduler in steps of MaxStep. (An item of
	// DynamoDB has 400 KiB.)
	MaxParked = 300 << 10
)

// BucketOf is the part of the due index that a message is parked in.
func BucketOf(id string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return strconv.Itoa(int(h.Sum32() % Buckets))
}

// Unpark is the write after a parked copy was sent.
type Unpark struct {
	ID  string
	Hop int
	Now time.Time
}

// Allowed is its guard: the record is parked with that very copy.
func (u Unpark) Allowed(r Record) bool { return r.Bucket != "" && r.Hop == u.Hop }

// Apply is the record after it: out of the index, and in the broker's hands.
func (u Unpark) Apply(r Record) Record {
	r.Bucket, r.UpdatedAt = "", u.Now
	if r.State == Delayed {
		r.State = Queued
	}
	return r
}

// Leases say who releases what is due. They only save work: two engines that
// release the same message send two copies of one hop, of which one has effect.
type Leases struct {
	Version int
	// Owners are the engines that are there, each with when it counts as gone.
	Owners map[string]time.Time
	// Held is the owner of each bucket that has one.
	Held map[string]string
}

// Share is the leases after an engine has said that it is there until the given
// time: who is gone has lost its buckets, and each has at most its fair share.
// The receiver is left as it is.
func (l Leases) Share(owner string, now, until time.Time) Leases {
	next := Leases{Version: l.Version, Owners: maps.Clone(l.Owners), Held: map[string]string{}}
	if next.Owners == nil {
		next.Owners = map[string]time.Time{}
	}
	maps.DeleteFunc(next.Owners, func(_ string, end time.Time) bool { return !end.After(now) })
	next.Owners[owner] = until
	fair := (Buckets + len(next.Owners) - 1) / len(next.Owners)
	has := map[string]int{}
	for i := range Buckets {
		bucket := strconv.Itoa(i)
		holder := l.Held[bucket]
		if _, there := next.Owners[holder]; !there || has[holder] >= fair {
			continue
		}
		has[holder]++
		next.Held[bucket] = holder
	}
	for i := range Buckets {
		bucket := strconv.Itoa(i)
		if next.Held[bucket] == "" && has[owner] < fair {
			has[owner]++
			next.Held[bucket] = owner
		}
	}
	return next
}

// Of lists the buckets that an engine holds, in order.
func (l Leases) Of(owner string) []string {
	var held []string
	for bucket, holder := range l.Held {
		if holder == owner {
			held = append(held, bucket)
		}
	}
	slices.Sort(held)
	return held
}
