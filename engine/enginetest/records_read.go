package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"usher/engine"
)

func readCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"AbsentIsNotFound": func(c *recordsRig) {
			if _, err := c.r.Record(c.Context(), c.id); !errors.Is(err, engine.ErrNotFound) {
				c.Errorf("Record of an absent id: %v; want ErrNotFound", err)
			}
		},
		"LookUpLeavesAbsentOut": func(c *recordsRig) {
			want := c.claim(c.aClaim(0, "a"))
			c.lookUp([]string{"absent-1", c.id, "absent-2"}, func(f engine.Found) bool {
				return len(f.Records) == 1 && equalRecords(f.Records[c.id], want)
			})
		},
		"LookUpOfNothing":        lookUpOfNothing,
		"LookUpOfAHundred":       lookUpOfAHundred,
		"EveryFieldComesBack":    everyFieldComesBack,
		"IDsAreKeptByteForByte":  idsAreKept,
		"AnswersAreTheCallers":   answersAreTheCallers,
		"EndedContextIsAnswered": endedContextIsAnswered,
		"ClosedTableAnswers":     closedTableAnswers,
	}
}

func lookUpOfNothing(c *recordsRig) {
	found, err := c.r.LookUp(c.Context(), nil)
	if err != nil || len(found.Records) != 0 {
		c.Errorf("LookUp of no ids: %v, %v", found, err)
	}
	if d := time.Since(found.Now).Abs(); d > time.Hour {
		c.Errorf("the store's clock differs from ours by %v", d)
	}
}

func lookUpOfAHundred(c *recordsRig) {
	ids := make([]string, 100)
	for i := range ids {
		ids[i] = fmt.Sprintf("ID:hundred-%d", i)
		change := c.aChange(0, engine.Done)
		change.ID, change.Attempts = ids[i], i
		if _, err := c.r.Write(c.Context(), change); err != nil {
			c.Fatal(err)
		}
	}
	c.lookUp(ids, func(f engine.Found) bool {
		for i, id := range ids {
			if r := f.Records[id]; r.ID != id || r.Attempts != i {
				return false
			}
		}
		return len(f.Records) == 100
	})
}

// everyFieldComesBack sets each field of a record once, with nanoseconds and a
// zone in its times.
func everyFieldComesBack(c *recordsRig) {
	zone := time.FixedZone("somewhere", 3*3600)
	odd := func(d time.Duration) time.Time { return c.now.Add(d + 123456).In(zone) }

	gate := c.aGate(odd(-time.Hour))
	gate.Now = odd(-2 * time.Hour)
	c.gate(gate)
	c.watch("conn-1", odd(time.Hour))
	claim := c.aClaim(2, "t1")
	claim.Now, claim.Mark.Until = odd(0), odd(time.Minute)
	claimed := c.claim(claim)
	c.same("claimed", claimed, engine.Record{
		ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, State: engine.Processing, Hop: 2,
		Due: c.now.Add(-time.Hour), DueBy: engine.ByRule, GatedAt: c.now.Add(-2 * time.Hour),
		Claim: engine.ClaimMark{Token: "t1", BrokerID: "d-t1", Until: c.now.Add(time.Minute)}, Claims: 1,
		Watchers: []engine.Watcher{{Connection: "conn-1", Until: c.now.Add(time.Hour)}}, UpdatedAt: c.now,
	})
	change := c.aChange(2, engine.Dead)
	change.NextHop, change.Attempts, change.Redeliveries, change.Reason = 3, 4, 5, "permanent:no_stock"
	change.Due, change.DueBy, change.Now, change.ExpiresAt = odd(time.Second), engine.ByRetry, odd(time.Second), odd(time.Hour)
	written := c.write(change)
	c.same("written", written, engine.Record{
		ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, State: engine.Dead, Hop: 3,
		Due: c.now.Add(time.Second), DueBy: engine.ByRetry, GatedAt: c.now.Add(-2 * time.Hour),
		Attempts: 4, Redeliveries: 5, Claims: 1, Token: "w-dead", Reason: "permanent:no_stock",
		Watchers:  []engine.Watcher{{Connection: "conn-1", Until: c.now.Add(time.Hour)}},
		UpdatedAt: c.now.Add(time.Second), ExpiresAt: c.now.Add(time.Hour),
	})
	c.lookUp([]string{c.id}, func(f engine.Found) bool { return equalRecords(f.Records[c.id], written) })
}

func idsAreKept(c *recordsRig) {
	ids := []string{
		"a", "A", "a ", " a", `it's "quoted"; DROP TABLE records --`, "100%_*?[x]", "\\", "#a", ":a", "null", "0", "1.0", "1e3",
		strings.Repeat("x", engine.MaxIDBytes), strings.Repeat("x", engine.MaxIDBytes-1) + "y",
	}
	for i, id := range ids {
		change := c.aChange(i, engine.Retrying)
		change.ID = id
		if _, err := c.r.Write(c.Context(), change); err != nil {
			c.Errorf("Write of %q: %v", id, err)
		}
	}
	c.lookUp(ids, func(f engine.Found) bool { return len(f.Records) == len(ids) })
	for i, id := range ids {
		if rec, err := c.r.Record(c.Context(), id); err != nil || rec.ID != id || rec.Hop != i {
			c.Errorf("Record of %q: id %q, hop %d, %v; want hop %d", id, rec.ID, rec.Hop, err, i)
		}
	}
}

func answersAreTheCallers(c *recordsRig) {
	c.watch("conn-1", c.now.Add(time.Hour))
	want := c.record()
	for _, rec := range []engine.Record{c.watch("conn-1", c.now.Add(time.Hour)), c.record()} {
		rec.Watchers[0].Connection = "scribbled"
		_ = append(rec.Watchers[:0], engine.Watcher{Connection: "more"})
	}
	c.same("after the caller wrote into answers", c.record(), want)
}

func endedContextIsAnswered(c *recordsRig) {
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	for name, err := range c.everyCall(ctx) {
		if !errors.Is(err, context.Canceled) {
			c.Errorf("%s with an ended context: %v; want it to be context.Canceled", name, err)
		}
	}
	c.same("after calls with an ended context", c.record(), engine.Record{})
}

func closedTableAnswers(c *recordsRig) {
	c.claim(c.aClaim(0, "a"))
	for range 2 {
		if err := c.r.Close(); err != nil {
			c.Errorf("Close: %v", err)
		}
	}
	for name, err := range c.everyCall(c.Context()) {
		if err == nil || errors.Is(err, engine.ErrNotFound) || errors.Is(err, engine.ErrGuarded) {
			c.Errorf("%s of a closed table: %v; want an error that says so", name, err)
		}
	}
}

// everyCall makes one call of each method that asks the store.
func (c *recordsRig) everyCall(ctx context.Context) map[string]error {
	errs := map[string]error{}
	_, errs["LookUp"] = c.r.LookUp(ctx, []string{c.id})
	_, errs["Record"] = c.r.Record(ctx, c.id)
	_, errs["Waiting"] = c.r.Waiting(ctx, engine.Waits{Limit: 1})
	_, errs["Cancel"] = c.r.Cancel(ctx, c.id, c.now)
	errs["Keep"] = c.r.Keep(ctx, c.id, 1, engine.Parked{})
	_, errs["Kept"] = c.r.Kept(ctx, c.id, 1)
	errs["Drop"] = c.r.Drop(ctx, c.id, 1)
	_, errs["DueIn"] = c.r.DueIn(ctx, "0", 1)
	_, errs["Unpark"] = c.r.Unpark(ctx, engine.Unpark{ID: c.id})
	_, errs["Leases"] = c.r.Leases(ctx)
	errs["SetLeases"] = c.r.SetLeases(ctx, engine.Leases{})
	_, errs["Gate"] = c.r.Gate(ctx, c.aGate(c.now))
	_, errs["Claim"] = c.r.Claim(ctx, c.aClaim(0, "a"))
	_, errs["Write"] = c.r.Write(ctx, c.aChange(0, engine.Done))
	_, errs["SetDue"] = c.r.SetDue(ctx, c.id, c.now)
	_, errs["Watch"] = c.r.Watch(ctx, c.id, engine.Watcher{Connection: "c", Until: c.now.Add(time.Hour)})
	errs["Unwatch"] = c.r.Unwatch(ctx, c.id, "c")
	return errs
}
