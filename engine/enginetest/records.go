package enginetest

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/engine"
)

// RecordsUnderTest is a record table that is ready for use, as RunRecords
// needs it.
type RecordsUnderTest interface {
	engine.Records
	engine.Table
	engine.Schedule
	parking
	Close() error
}

// parking is what waiting outside the broker needs of it.
type parking interface {
	engine.Bodies
	engine.DueIndex
	engine.HoldStore
}

// RunRecords holds a record table to the contract of engine.Records,
// engine.Table, engine.Schedule, engine.Bodies, engine.DueIndex and
// engine.HoldStore. open gives an
// empty table, or fails the test; the suite closes it. Look-ups and listings may lag behind a write for some seconds.
//
// Beyond the words of the ports it asks of every table:
//   - ErrGuarded and ErrFinished come with the record as it is.
//   - A final record whose ExpiresAt has passed is as absent, and the claim of
//     a redriven message clears ExpiresAt.
//   - Watchers whose time is over are not returned, and a watcher changes
//     nothing but the watchers.
//   - Times are UTC, in whole milliseconds.
//   - A call whose context has ended answers its error.
//   - Close is idempotent, and later calls answer an error.
func RunRecords(t *testing.T, open func(t *testing.T) RecordsUnderTest) {
	t.Attr("suite", "records")
	groups := map[string]map[string]func(*recordsRig){
		"Read": readCases(), "Gate": gateCases(), "Claim": claimCases(), "ClaimGuard": claimGuardCases(),
		"Write": writeCases(), "WriteGuard": writeGuardCases(), "Expiry": expiryCases(), "SetDue": setDueCases(), "Waiting": waitingCases(), "Watch": watchCases(), "Race": raceCases(),
		"Cancel": cancelCases(), "Body": bodyCases(), "Park": parkCases(), "Lease": leaseCases(), "Hold": holdCases(),
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		t.Run(group, func(t *testing.T) {
			cases := groups[group]
			for _, name := range slices.Sorted(maps.Keys(cases)) {
				t.Run(name, func(t *testing.T) { cases[name](newRecordsRig(t, open(t))) })
			}
		})
	}
	t.Run("Model", func(t *testing.T) {
		newRecordsRig(t, open(t)).checkModel()
	})
}

// recordsRig is a test with a table and one message.
type recordsRig struct {
	*testing.T
	r   RecordsUnderTest
	id  string
	now time.Time
}

func newRecordsRig(t *testing.T, r RecordsUnderTest) *recordsRig {
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &recordsRig{T: t, r: r, now: millis(time.Now()), id: "ID:suite-1:1:1:7"}
}

// aClaim is a claim of the message in the name of delivery "d-<token>".
func (c *recordsRig) aClaim(hop int, token string) engine.Claim {
	return engine.Claim{
		ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, Hop: hop, Now: c.now,
		Mark: engine.ClaimMark{Token: token, BrokerID: "d-" + token, Until: c.now.Add(time.Minute)},
	}
}

// aChange is a write of the message that keeps its hop.
func (c *recordsRig) aChange(hop int, state engine.State) engine.Change {
	change := engine.Change{
		ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, Hop: hop, NextHop: hop,
		Token: "w-" + string(state), State: state, Attempts: 1, Now: c.now,
	}
	switch state {
	case engine.Dead:
		change.Reason = engine.ReasonExhausted
		change.ExpiresAt = c.now.Add(time.Hour)
	case engine.Done, engine.Cancelled:
		change.ExpiresAt = c.now.Add(time.Hour)
	case engine.Queued, engine.Delayed, engine.Processing, engine.Retrying:
	}
	return change
}

func (c *recordsRig) aGate(due time.Time) engine.Gate {
	return engine.Gate{ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, Due: due, DueBy: engine.ByRule, Now: c.now}
}

func (c *recordsRig) claim(claim engine.Claim) engine.Record {
	c.Helper()
	rec, err := c.r.Claim(c.Context(), claim)
	return c.must("Claim", rec, err)
}

func (c *recordsRig) write(change engine.Change) engine.Record {
	c.Helper()
	rec, err := c.r.Write(c.Context(), change)
	return c.must("Write", rec, err)
}

func (c *recordsRig) gate(gate engine.Gate) engine.Record {
	c.Helper()
	rec, err := c.r.Gate(c.Context(), gate)
	return c.must("Gate", rec, err)
}

func (c *recordsRig) setDue(due time.Time) engine.Record {
	c.Helper()
	rec, err := c.r.SetDue(c.Context(), c.id, due)
	return c.must("SetDue", rec, err)
}

func (c *recordsRig) watch(connection string, until time.Time) engine.Record {
	c.Helper()
	rec, err := c.r.Watch(c.Context(), c.id, engine.Watcher{Connection: connection, Until: until})
	return c.must("Watch", rec, err)
}

// must checks that a call worked and answered what is now in the table.
func (c *recordsRig) must(call string, rec engine.Record, err error) engine.Record {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", call, err)
	}
	c.same(call+" answers the record as it is now", rec, c.record())
	return rec
}

// refusesClaim checks that the claim is refused, with the record, which stays.
func (c *recordsRig) refusesClaim(claim engine.Claim) engine.Record {
	c.Helper()
	before := c.record()
	rec, err := c.r.Claim(c.Context(), claim)
	return c.refused("Claim", engine.ErrGuarded, before, rec, err)
}

// refusesWrite checks that the write is refused, with the record, which stays.
func (c *recordsRig) refusesWrite(change engine.Change) engine.Record {
	c.Helper()
	before := c.record()
	rec, err := c.r.Write(c.Context(), change)
	return c.refused("Write", engine.ErrGuarded, before, rec, err)
}

func (c *recordsRig) refused(call string, want error, before, rec engine.Record, err error) engine.Record {
	c.Helper()
	if !errors.Is(err, want) {
		c.Fatalf("%s: the error is %v; want %v", call, err, want)
	}
	c.same(call+" that is refused answers the record", rec, before)
	c.same(call+" that is refused leaves the record", c.record(), before)
	return rec
}

// record is the message's record; the zero Record if there is none.
func (c *recordsRig) record() engine.Record {
	c.Helper()
	rec, err := c.r.Record(c.Context(), c.id)
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		c.Fatalf("Record: %v", err)
	}
	return rec
}

// same compares records; the order of watchers means nothing.
func (c *recordsRig) same(what string, got, want engine.Record) {
	c.Helper()
	if !equalRecords(got, want) {
		c.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func equalRecords(a, b engine.Record) bool {
	return reflect.DeepEqual(ordered(a), ordered(b))
}

func ordered(r engine.Record) engine.Record {
	if len(r.Watchers) == 0 {
		r.Watchers = nil
		return r
	}
	r.Watchers = slices.Clone(r.Watchers)
	slices.SortFunc(r.Watchers, func(a, b engine.Watcher) int { return strings.Compare(a.Connection, b.Connection) })
	return r
}

// lookUp asks until the answer is good, for an answer may be stale.
func (c *recordsRig) lookUp(ids []string, good func(engine.Found) bool) {
	c.Helper()
	c.eventually("LookUp", func() (any, bool) {
		found, err := c.r.LookUp(c.Context(), ids)
		if err != nil {
			c.Fatalf("LookUp: %v", err)
		}
		return found, good(found)
	})
}

// eventually asks again and again, for at most ten seconds.
func (c *recordsRig) eventually(what string, ask func() (answer any, good bool)) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		answer, good := ask()
		if good {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			c.Fatalf("%s: ten seconds on, the answer is still %+v", what, answer)
		}
	}
}
