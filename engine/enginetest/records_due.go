package enginetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"usher/engine"
)

func gateCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"MakesAMissingRecord": func(c *recordsRig) {
			due := c.now.Add(time.Hour)
			c.same("gated", c.gate(c.aGate(due)), engine.Record{
				ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, State: engine.Queued,
				Due: due, DueBy: engine.ByRule, GatedAt: c.now, UpdatedAt: c.now,
			})
		},
		"FirstWins": func(c *recordsRig) {
			want := c.gate(c.aGate(c.now.Add(time.Hour)))
			second := c.aGate(c.now)
			second.DueBy, second.Now = engine.ByHeader, c.now.Add(time.Second)
			c.same("gated again", c.gate(second), want)
		},
		"OperatorBeforeItStays": func(c *recordsRig) {
			due := c.now.Add(2 * time.Hour)
			c.setDue(due)
			rec := c.gate(c.aGate(c.now.Add(time.Hour)))
			if !rec.Due.Equal(due) || rec.DueBy != engine.ByOperator || !rec.GatedAt.Equal(c.now) || rec.Type != "order.placed" || rec.Digest != "abc" {
				c.Errorf("gated: %+v; want the operator's time, gated now, with the message's type and digest", rec)
			}
		},
		"OperatorAfterItStays": func(c *recordsRig) {
			c.gate(c.aGate(c.now.Add(time.Hour)))
			due := c.now.Add(-time.Hour)
			c.setDue(due)
			if rec := c.gate(c.aGate(c.now.Add(time.Hour))); !rec.Due.Equal(due) || rec.DueBy != engine.ByOperator {
				c.Errorf("gated: due %v by %q; want the operator's", rec.Due, rec.DueBy)
			}
		},
		"AfterAWatcher": func(c *recordsRig) {
			c.watch("conn-1", c.now.Add(time.Hour))
			if rec := c.gate(c.aGate(c.now.Add(time.Hour))); rec.DueBy != engine.ByRule || rec.GatedAt.IsZero() || len(rec.Watchers) != 1 {
				c.Errorf("gated: %+v; want the rule's time, and the watcher", rec)
			}
		},
		"IsNotAppliedToWhatComesBack": func(c *recordsRig) {
			want := c.write(c.moved(0, 1))
			c.same("gated", c.gate(c.aGate(c.now.Add(time.Hour))), want)
		},
		"LeavesStateAndHop": func(c *recordsRig) {
			c.claim(c.aClaim(3, "a"))
			if rec := c.gate(c.aGate(c.now.Add(time.Hour))); rec.Hop != 3 || rec.State != engine.Processing || rec.Claim.Token != "a" {
				c.Errorf("gated: hop %d, %s, claim %q; want 3, processing, a", rec.Hop, rec.State, rec.Claim.Token)
			}
		},
		"OfAFinishedMessageReturnsItAsItIs": func(c *recordsRig) {
			for _, state := range []engine.State{engine.Done, engine.Dead, engine.Cancelled} {
				c.id = "finished-" + string(state)
				want := c.write(c.aChange(0, state))
				c.same(string(state), c.gate(c.aGate(c.now.Add(time.Hour))), want)
			}
		},
	}
}

func setDueCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"BeforeTheFirstSight": func(c *recordsRig) {
			due := c.now.Add(time.Hour)
			rec := c.setDue(due)
			if d := rec.UpdatedAt.Sub(c.now).Abs(); d > time.Hour {
				c.Errorf("UpdatedAt is %v away", d)
			}
			rec.UpdatedAt = time.Time{}
			c.same("set", rec, engine.Record{ID: c.id, State: engine.Queued, Due: due, DueBy: engine.ByOperator})
		},
		"OverRuleHeaderAndRetry": func(c *recordsRig) {
			c.gate(c.aGate(c.now.Add(time.Hour)))
			change := c.moved(0, 1)
			change.Due, change.DueBy = c.now.Add(time.Hour), engine.ByRetry
			c.write(change)
			if rec := c.setDue(c.now); !rec.Due.Equal(c.now) || rec.DueBy != engine.ByOperator || rec.State != engine.Delayed || rec.Hop != 1 {
				c.Errorf("set: %+v; want due now by operator, delayed at hop 1 as before", rec)
			}
			if rec := c.setDue(c.now.Add(time.Minute)); !rec.Due.Equal(c.now.Add(time.Minute)) {
				c.Errorf("set again: due %v; want a minute on", rec.Due)
			}
		},
		"LeavesAClaim": func(c *recordsRig) {
			before := c.claim(c.aClaim(2, "a"))
			if rec := c.setDue(c.now.Add(time.Hour)); rec.Claim != before.Claim || rec.State != engine.Processing || rec.Hop != 2 {
				c.Errorf("set: %+v; want the claim, processing, at hop 2", rec)
			}
			c.write(c.aChange(2, engine.Done)) // what runs may finish
		},
		"OfAFinishedMessageIsRefused": func(c *recordsRig) {
			for _, state := range []engine.State{engine.Done, engine.Dead, engine.Cancelled} {
				c.id = "finished-" + string(state)
				before := c.write(c.aChange(0, state))
				rec, err := c.r.SetDue(c.Context(), c.id, c.now)
				c.refused("SetDue", engine.ErrFinished, before, rec, err)
			}
		},
	}
}

func expiryCases() map[string]func(*recordsRig) {
	// expired makes the record one that the store may have forgotten.
	expired := func(c *recordsRig, state engine.State) {
		c.Helper()
		c.watch("old", c.now.Add(time.Hour))
		change := c.aChange(9, state)
		change.Now, change.ExpiresAt = c.now.Add(-2*time.Hour), c.now.Add(-time.Hour)
		if _, err := c.r.Write(c.Context(), change); err != nil {
			c.Fatal(err)
		}
	}
	return map[string]func(*recordsRig){
		"ExpiredIsAbsent": func(c *recordsRig) {
			expired(c, engine.Done)
			if _, err := c.r.Record(c.Context(), c.id); !errors.Is(err, engine.ErrNotFound) {
				c.Errorf("Record: %v; want ErrNotFound", err)
			}
			c.lookUp([]string{c.id}, func(f engine.Found) bool { return len(f.Records) == 0 })
			if err := c.r.Unwatch(c.Context(), c.id, "old"); err != nil {
				c.Errorf("Unwatch: %v", err)
			}
		},
		"ExpiredIsClaimedAnew": func(c *recordsRig) {
			expired(c, engine.Done)
			claim := c.aClaim(0, "a")
			c.same("claimed", c.claim(claim), engine.Record{
				ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, State: engine.Processing,
				Claim: claim.Mark, Claims: 1, UpdatedAt: c.now,
			})
		},
		"ExpiredIsWrittenAnew": func(c *recordsRig) {
			expired(c, engine.Dead)
			if rec := c.write(c.moved(0, 1)); rec.Hop != 1 || rec.State != engine.Delayed || len(rec.Watchers) != 0 {
				c.Errorf("written: %+v; want a new record at hop 1", rec)
			}
		},
		"ExpiredIsGatedAnew": func(c *recordsRig) {
			expired(c, engine.Cancelled)
			if rec := c.gate(c.aGate(c.now)); rec.Hop != 0 || rec.State != engine.Queued || !rec.GatedAt.Equal(c.now) || rec.Attempts != 0 {
				c.Errorf("gated: %+v; want a new record", rec)
			}
		},
		"ExpiredIsMovedAndWatchedAnew": func(c *recordsRig) {
			expired(c, engine.Done)
			if rec := c.setDue(c.now); rec.State != engine.Queued || rec.Token != "" {
				c.Errorf("set: %+v; want a new record", rec)
			}
			c.id = "another"
			expired(c, engine.Done)
			if rec := c.watch("new", c.now.Add(time.Hour)); rec.State != engine.Queued || len(rec.Watchers) != 1 {
				c.Errorf("watched: %+v; want a new record with one watcher", rec)
			}
		},
		"FinalWithoutAnEndStays": func(c *recordsRig) {
			change := c.aChange(0, engine.Done)
			change.ExpiresAt = time.Time{}
			c.write(change)
			c.refusesClaim(c.aClaim(0, "a"))
		},
		"ReopenedDoesNotExpire": func(c *recordsRig) {
			change := c.dead(0, 1)
			change.ExpiresAt = c.now.Add(time.Hour)
			c.write(change)
			if rec := c.claim(c.aClaim(2, "a")); !rec.ExpiresAt.IsZero() {
				c.Errorf("claimed: it expires at %v; want never", rec.ExpiresAt)
			}
		},
	}
}

func waitingCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"PagesInOrder": waitingPagesInOrder,
		"ListsDelayedAndRetryingOnly": func(c *recordsRig) {
			var want []string
			for _, state := range []engine.State{engine.Queued, engine.Delayed, engine.Retrying, engine.Done, engine.Dead, engine.Cancelled} {
				c.waits(string(state), state, c.now)
				if state == engine.Delayed || state == engine.Retrying {
					want = append(want, string(state))
				}
			}
			c.id = "processing"
			c.claim(c.aClaim(0, "a"))
			c.lists(engine.Place{}, 100, want...)
		},
		"FollowsAnOperator": func(c *recordsRig) {
			c.waits("a", engine.Delayed, c.now.Add(1*time.Minute))
			c.waits("b", engine.Delayed, c.now.Add(2*time.Minute))
			c.waits("c", engine.Retrying, c.now.Add(3*time.Minute))
			c.lists(engine.Place{}, 100, "a", "b", "c")
			c.id = "c"
			c.setDue(c.now)
			c.lists(engine.Place{}, 100, "c", "a", "b")
			c.id = "a"
			c.setDue(c.now.Add(time.Hour))
			c.lists(engine.Place{}, 100, "c", "b", "a")
		},
		"ForgetsWhatGoesOn": func(c *recordsRig) {
			c.waits("a", engine.Delayed, c.now)
			c.waits("b", engine.Delayed, c.now)
			c.id = "a"
			c.claim(c.aClaim(1, "t"))
			c.lists(engine.Place{}, 100, "b")
			c.write(c.moved(1, 2))
			c.lists(engine.Place{}, 100, "a", "b")
			c.write(c.aChange(2, engine.Done))
			c.lists(engine.Place{}, 100, "b")
		},
		"ListsWholeRecords": func(c *recordsRig) {
			c.watch("conn-1", c.now.Add(time.Hour))
			want := c.waits(c.id, engine.Retrying, c.now.Add(time.Hour))
			c.eventually("Waiting", func() (any, bool) {
				recs, err := c.r.Waiting(c.Context(), engine.Waits{Limit: 10})
				return recs, err == nil && len(recs) == 1 && equalRecords(recs[0], want)
			})
		},
		"Filters": func(c *recordsRig) {
			for i, typ := range []string{"a", "b", "a", "b", "a"} {
				c.id = fmt.Sprintf("%s-%d", typ, i)
				change := c.aChange(0, engine.Delayed)
				change.Type, change.Priority, change.Due, change.DueBy = typ, i%2, c.now.Add(time.Duration(i)*time.Minute), engine.ByRule
				c.write(change)
			}
			level := 1
			c.answers(engine.Waits{Limit: 10}, "a-0", "b-1", "a-2", "b-3", "a-4")
			c.answers(engine.Waits{Limit: 10, Type: "a"}, "a-0", "a-2", "a-4")
			c.answers(engine.Waits{Limit: 2, Type: "a"}, "a-0", "a-2")
			c.answers(engine.Waits{Limit: 10, Type: "a", After: engine.Place{Due: c.now, ID: "a-0"}}, "a-2", "a-4")
			c.answers(engine.Waits{Limit: 10, Level: &level}, "b-1", "b-3")
			c.answers(engine.Waits{Limit: 10, Before: c.now.Add(2 * time.Minute)}, "a-0", "b-1")
			c.answers(engine.Waits{Limit: 10, Type: "a", Before: c.now.Add(3 * time.Minute)}, "a-0", "a-2")
			c.answers(engine.Waits{Limit: 10, Type: "a", Level: &level})
			c.answers(engine.Waits{Limit: 10, Type: "c"})
		},
		"OfNothing": func(c *recordsRig) {
			c.lists(engine.Place{}, 10)
			c.waits("a", engine.Delayed, c.now)
			c.lists(engine.Place{}, 0)
			c.lists(engine.Place{Due: c.now.Add(time.Hour)}, 10)
		},
	}
}

func waitingPagesInOrder(c *recordsRig) {
	var want []string
	for i := range 25 {
		id := fmt.Sprintf("m-%02d", i)
		want = append(want, id)
		state := engine.Delayed
		if i%3 == 0 {
			state = engine.Retrying
		}
		// Each time is that of five, so pages end between equals; made from the back.
		c.waits(fmt.Sprintf("m-%02d", 24-i), state, c.now.Add(time.Duration((24-i)/5)*time.Millisecond))
	}
	c.lists(engine.Place{}, 100, want...)
	var got []string
	var after engine.Place
	for len(got) <= len(want) { // a page that comes twice ends it
		page, err := c.r.Waiting(c.Context(), engine.Waits{After: after, Limit: 7})
		if err != nil {
			c.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, rec := range page {
			got = append(got, rec.ID)
			after = engine.Place{Due: rec.Due, ID: rec.ID}
		}
	}
	if !slices.Equal(got, want) {
		c.Errorf("pages of seven:\n got %v\nwant %v", got, want)
	}
}

// waits makes a record of the state with the time.
func (c *recordsRig) waits(id string, state engine.State, due time.Time) engine.Record {
	c.Helper()
	c.id = id
	change := c.aChange(0, state)
	change.Due, change.DueBy = due, engine.ByRetry
	return c.write(change)
}

// lists checks what waits, for a listing may lag behind.
func (c *recordsRig) lists(after engine.Place, limit int, want ...string) {
	c.Helper()
	c.answers(engine.Waits{After: after, Limit: limit}, want...)
}

func (c *recordsRig) answers(q engine.Waits, want ...string) {
	c.Helper()
	c.eventually("Waiting", func() (any, bool) {
		recs, err := c.r.Waiting(c.Context(), q)
		if err != nil {
			c.Fatalf("Waiting: %v", err)
		}
		got := make([]string, len(recs))
		for i, rec := range recs {
			got[i] = rec.ID
		}
		return got, slices.Equal(got, want)
	})
}
