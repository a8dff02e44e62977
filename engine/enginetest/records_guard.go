package enginetest

import (
	"time"

	"usher/engine"
)

func claimCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"MakesAMissingRecord": func(c *recordsRig) {
			claim := c.aClaim(0, "a")
			c.same("claimed", c.claim(claim), engine.Record{
				ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, State: engine.Processing,
				Claim: claim.Mark, Claims: 1, UpdatedAt: c.now,
			})
		},
		"IsRenewedByItsToken": func(c *recordsRig) {
			claim := c.aClaim(0, "a")
			c.claim(claim)
			claim.Mark.Until = claim.Mark.Until.Add(time.Minute)
			if rec := c.claim(claim); rec.Claim != claim.Mark || rec.Claims != 1 {
				c.Errorf("renewed: %+v, %d claims; want %+v, 1", rec.Claim, rec.Claims, claim.Mark)
			}
		},
		"IsRenewedByItsTokenAfterItsEnd": func(c *recordsRig) {
			claim := c.aClaim(0, "a")
			c.claim(claim)
			claim.Now, claim.Mark.Until = claim.Mark.Until.Add(time.Second), claim.Mark.Until.Add(time.Minute)
			if rec := c.claim(claim); rec.Claim != claim.Mark || rec.Claims != 1 {
				c.Errorf("renewed: %+v, %d claims; want %+v, 1", rec.Claim, rec.Claims, claim.Mark)
			}
		},
		"OfAnotherHoldsAfterTheEnd": func(c *recordsRig) {
			first, second := c.aClaim(0, "a"), c.aClaim(0, "b")
			c.claim(first)
			second.Now = first.Mark.Until // void from this moment
			second.Mark.Until = second.Now.Add(time.Minute)
			if rec := c.claim(second); rec.Claim != second.Mark || rec.Claims != 2 {
				c.Errorf("claimed: %+v, %d claims; want %+v, 2", rec.Claim, rec.Claims, second.Mark)
			}
			late := c.aClaim(0, "a")
			late.Now = second.Now
			c.refusesClaim(late) // the first one cannot be renewed any more
		},
		"OfAHigherHopMovesTheRecord": func(c *recordsRig) {
			c.write(c.aChange(1, engine.Queued))
			c.claim(c.aClaim(4, "a"))
			c.refusesWrite(c.aChange(1, engine.Done))
			c.refusesClaim(c.aClaim(3, "b"))
			if rec := c.record(); rec.Hop != 4 {
				c.Errorf("the hop is %d; want 4", rec.Hop)
			}
		},
		"OverOneThatNobodyEndedAloneIsADeath": func(c *recordsRig) {
			for i, token := range []string{"one-1", "one-2", "two-1", "three-1"} {
				claim := c.aClaim(0, token)
				claim.Now = c.now.Add(time.Duration(i) * time.Hour)
				claim.Mark.Until, claim.Mark.Alone = claim.Now.Add(time.Minute), true
				if rec, want := c.claim(claim), max(i-1, 0); rec.Deaths != want || !rec.Claim.Alone || rec.Claims != i+1 {
					c.Errorf("claim %d: %+v; want %d deaths: an engine that comes back to its own claim has not died", i, rec, want)
				}
			}
			back := c.aChange(0, engine.Queued)
			back.TakeBack, back.Deaths, back.Crashes = "three-1", 2, 1
			if rec := c.write(back); rec.Deaths != 2 || rec.Crashes != 1 || rec.Claim.Alone {
				c.Errorf("given back: %+v; want 2 deaths and 1 crash, and no claim", rec)
			}
			again := c.aClaim(0, "four-1")
			again.Now, again.Mark.Until = c.now.Add(5*time.Hour), c.now.Add(6*time.Hour)
			if rec := c.claim(again); rec.Deaths != 2 || rec.Crashes != 1 {
				c.Errorf("claimed after it was given back: %+v; want no further death", rec)
			}
			if rec := c.write(c.dead(0, 1)); rec.Deaths != 0 || rec.Crashes != 0 {
				c.Errorf("written: %+v; want the counts replaced", rec)
			}
		},
		"KeepsWhatTheFirstSightSaid": func(c *recordsRig) {
			c.gate(c.aGate(c.now))
			claim := c.aClaim(0, "a")
			claim.Priority = 0
			if rec := c.claim(claim); rec.Type != "order.placed" || rec.Digest != "abc" || rec.Priority != 6 {
				c.Errorf("claimed: %s, %s, %d; want order.placed, abc, 6", rec.Type, rec.Digest, rec.Priority)
			}
		},
	}
}

func claimGuardCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"OfAnotherIsRefusedWhileLive": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			if rec := c.refusesClaim(c.aClaim(0, "b")); rec.Claim.Token != "a" {
				c.Errorf("the answer has the claim of %q; want that of a", rec.Claim.Token)
			}
		},
		"OfAnotherIsRefusedWhileLiveAtAHigherHop": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			c.refusesClaim(c.aClaim(1, "b"))
		},
		"OfTheSameDeliveryIsRefusedAndRecognised": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			again := c.aClaim(0, "b")
			again.Mark.BrokerID = "d-a"
			if rec := c.refusesClaim(again); rec.Claim.BrokerID != "d-a" || !rec.Claim.Live(c.now) {
				c.Errorf("the answer has the claim %+v; want a live one of d-a", rec.Claim)
			}
		},
		"BeforeItIsDueIsRefused": func(c *recordsRig) {
			c.gate(c.aGate(c.now.Add(time.Hour)))
			claim := c.aClaim(0, "a")
			c.refusesClaim(claim)
			claim.Now = c.now.Add(time.Hour - time.Millisecond)
			c.refusesClaim(claim)
			claim.Now, claim.Mark.Until = c.now.Add(time.Hour), c.now.Add(2*time.Hour)
			c.claim(claim)
		},
		"BeforeAnOperatorsTimeIsRefused": func(c *recordsRig) {
			c.setDue(c.now.Add(time.Hour))
			c.refusesClaim(c.aClaim(3, "a"))
			c.setDue(c.now)
			c.claim(c.aClaim(3, "a"))
		},
		"OfAStaleHopIsRefused": func(c *recordsRig) {
			c.write(c.moved(0, 2))
			c.refusesClaim(c.aClaim(1, "a"))
			if rec := c.claim(c.aClaim(2, "a")); rec.Hop != 2 || rec.State != engine.Processing {
				c.Errorf("claimed: hop %d, %s; want 2, processing", rec.Hop, rec.State)
			}
		},
		"OfAnotherMessageIsRefused": func(c *recordsRig) {
			c.gate(c.aGate(c.now))
			other := c.aClaim(3, "a")
			other.Digest = "other"
			c.refusesClaim(other)
			other = c.aClaim(3, "a")
			other.Type = "other"
			if rec := c.refusesClaim(other); rec.Type != "order.placed" || rec.Digest != "abc" || rec.Claims != 0 {
				c.Errorf("the answer is %+v; want the record as it was", rec)
			}
		},
		"OfAFinishedMessageIsRefused": func(c *recordsRig) { c.finishedStaysShut(c.refusesClaimOf) },
		"OfARedrivenMessageOpensIt": func(c *recordsRig) {
			c.write(c.dead(2, 3))
			c.refusesClaim(c.aClaim(2, "a"))
			c.refusesClaim(c.aClaim(3, "a"))
			rec := c.claim(c.aClaim(4, "a"))
			if rec.State != engine.Processing || rec.Hop != 4 || rec.Reason != "" || !rec.ExpiresAt.IsZero() || rec.Attempts != 0 || rec.Redeliveries != 0 {
				c.Errorf("reopened: %+v; want processing at hop 4, no reason, no end, attempts from the start", rec)
			}
		},
	}
}

func writeCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"MakesAMissingRecord": func(c *recordsRig) {
			c.same("written", c.write(c.aChange(0, engine.Done)), engine.Record{
				ID: c.id, Type: "order.placed", Digest: "abc", Priority: 6, State: engine.Done, GatedAt: c.now,
				Attempts: 1, Token: "w-done", UpdatedAt: c.now, ExpiresAt: c.now.Add(time.Hour),
			})
		},
		"FillsInARecordMadeBefore": func(c *recordsRig) {
			c.watch("conn-1", c.now.Add(time.Hour))
			c.setDue(c.now)
			if rec := c.write(c.aChange(0, engine.Done)); rec.Type != "order.placed" || rec.Digest != "abc" || rec.Priority != 6 || rec.DueBy != engine.ByOperator {
				c.Errorf("written: %+v; want the message's type, digest and priority, and the operator's time", rec)
			}
		},
		"KeepsWhatTheFirstSightSaid": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			change := c.aChange(0, engine.Retrying)
			change.Digest, change.Priority = "", 0
			if rec := c.write(change); rec.Type != "order.placed" || rec.Digest != "abc" || rec.Priority != 6 {
				c.Errorf("written: %s, %s, %d; want order.placed, abc, 6", rec.Type, rec.Digest, rec.Priority)
			}
		},
		"EndsTheClaim": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			if rec := c.write(c.aChange(0, engine.Retrying)); rec.Claim != (engine.ClaimMark{}) || rec.Claims != 1 {
				c.Errorf("written: claim %+v, %d claims; want none, 1", rec.Claim, rec.Claims)
			}
			c.claim(c.aClaim(0, "b"))
		},
		"TakesTheClaimBack": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			back := c.aChange(0, engine.Queued)
			back.TakeBack = "a"
			if rec := c.write(back); rec.Claim != (engine.ClaimMark{}) || rec.Claims != 0 || rec.State != engine.Queued {
				c.Errorf("took back: claim %+v, %d claims, %s; want none, 0, queued", rec.Claim, rec.Claims, rec.State)
			}
			c.claim(c.aClaim(0, "b"))
			c.refusesWrite(back)
		},
		"KeepsTheTimeWithoutAHand": func(c *recordsRig) {
			c.gate(c.aGate(c.now.Add(-time.Hour)))
			change := c.aChange(0, engine.Retrying)
			change.Due = c.now.Add(time.Hour)
			if rec := c.write(change); !rec.Due.Equal(c.now.Add(-time.Hour)) || rec.DueBy != engine.ByRule {
				c.Errorf("written: due %v by %q; want it as it was", rec.Due, rec.DueBy)
			}
			change.DueBy = engine.ByRetry
			if rec := c.write(change); !rec.Due.Equal(c.now.Add(time.Hour)) || rec.DueBy != engine.ByRetry {
				c.Errorf("written: due %v by %q; want an hour on, by retry", rec.Due, rec.DueBy)
			}
		},
		"ReplacesCounts": func(c *recordsRig) {
			change := c.aChange(0, engine.Retrying)
			change.Attempts, change.Redeliveries = 7, 3
			c.write(change)
			change.Attempts, change.Redeliveries = 1, 0
			if rec := c.write(change); rec.Attempts != 1 || rec.Redeliveries != 0 {
				c.Errorf("written: %d attempts, %d redeliveries; want 1, 0", rec.Attempts, rec.Redeliveries)
			}
		},
		"ReturnsTheWatchers": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			c.watch("conn-1", c.now.Add(time.Hour))
			c.watch("conn-2", c.now.Add(time.Hour))
			for _, state := range []engine.State{engine.Retrying, engine.Done} {
				if rec := c.write(c.aChange(0, state)); len(rec.Watchers) != 2 {
					c.Errorf("%s: %d watchers; want 2", state, len(rec.Watchers))
				}
			}
		},
	}
}

func writeGuardCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"OfAStaleHopIsRefused": func(c *recordsRig) {
			if rec := c.write(c.moved(0, 1)); rec.Hop != 1 {
				c.Errorf("the hop is %d after a copy was sent; want 1", rec.Hop)
			}
			c.refusesWrite(c.moved(0, 1))
			c.refusesWrite(c.aChange(0, engine.Done))
			c.write(c.aChange(1, engine.Done))
		},
		"OfAHigherHopIsAccepted": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			if rec := c.write(c.aChange(5, engine.Done)); rec.Hop != 5 {
				c.Errorf("the hop is %d; want 5", rec.Hop)
			}
		},
		"OwnTokenTellsThatItLanded": func(c *recordsRig) {
			change := c.aChange(0, engine.Done)
			change.Token = "mine"
			c.write(change)
			if rec := c.refusesWrite(change); rec.Token != "mine" {
				c.Errorf("the token is %q; want mine", rec.Token)
			}
			moved := c.moved(0, 1)
			c.id, moved.ID, moved.Token = "another", "another", "mine too"
			c.write(moved)
			if rec := c.refusesWrite(moved); rec.Token != "mine too" {
				c.Errorf("the token is %q; want mine too", rec.Token)
			}
		},
		"OfAnotherMessageIsRefused": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			other := c.aChange(3, engine.Done)
			other.Digest = "other"
			c.refusesWrite(other)
			other = c.aChange(3, engine.Done)
			other.Type = "other"
			if rec := c.refusesWrite(other); rec.State != engine.Processing || rec.Claim.Token != "a" {
				c.Errorf("the answer is %+v; want the record as it was", rec)
			}
		},
		"OfAFinishedMessageIsRefused": func(c *recordsRig) { c.finishedStaysShut(c.refusesWriteOf) },
		"OfARedrivenMessageOpensIt": func(c *recordsRig) {
			c.write(c.dead(0, 1))
			c.refusesWrite(c.aChange(0, engine.Done))
			c.refusesWrite(c.aChange(1, engine.Done))
			rec := c.write(c.moved(2, 3))
			if rec.State != engine.Delayed || rec.Hop != 3 || rec.Reason != "" || !rec.ExpiresAt.IsZero() {
				c.Errorf("reopened: %+v; want delayed at hop 3, no reason, no end", rec)
			}
		},
	}
}

// moved is a write after a copy was sent.
func (c *recordsRig) moved(hop, next int) engine.Change {
	change := c.aChange(hop, engine.Delayed)
	change.NextHop = next
	return change
}

// dead is a write after a dead letter was sent.
func (c *recordsRig) dead(hop, next int) engine.Change {
	change := c.aChange(hop, engine.Dead)
	change.NextHop, change.Redeliveries = next, 2
	return change
}

func (c *recordsRig) refusesClaimOf(hop int) { c.refusesClaim(c.aClaim(hop, "late")) }

func (c *recordsRig) refusesWriteOf(hop int) {
	for _, state := range []engine.State{engine.Queued, engine.Delayed, engine.Retrying, engine.Done, engine.Dead, engine.Cancelled} {
		c.refusesWrite(c.aChange(hop, state))
	}
}

// finishedStaysShut checks that done and cancelled are refused at any hop, dead
// up to its own.
func (c *recordsRig) finishedStaysShut(refuses func(hop int)) {
	for state, hops := range map[engine.State][]int{
		engine.Done: {1, 2, 3, 99}, engine.Cancelled: {1, 2, 3, 99}, engine.Dead: {1, 2},
	} {
		c.id = "finished-" + string(state)
		c.write(c.aChange(2, state))
		for _, hop := range hops {
			refuses(hop)
		}
	}
}
