package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"usher/handlers"
)

// The life of a message, from top to bottom. What is named step by step here
// runs in the loop, which owns all state; what has to wait for a store, a
// broker or a handler runs beside it and comes back with e.do.
//
//	receive → look up → admit: due? → ready → start → run: claim, handle → classify → settle

// receiveAll takes what the broker gives, reads it, and hands it to the loop.
func (e *Engine) receiveAll(ctx context.Context) error {
	for {
		batch, err := e.cfg.Broker.Receive(ctx)
		if err != nil {
			return err
		}
		messages := make([]message, len(batch.Deliveries))
		for i, d := range batch.Deliveries {
			messages[i] = understand(d, e.cfg.MaxBody, time.Now())
		}
		e.do(func() { e.receive(batch, messages) })
	}
}

// receive takes a batch in hand.
func (e *Engine) receive(batch Batch, messages []message) {
	now := time.Now()
	if batch.Epoch != e.epoch {
		e.newSession(batch.Epoch, now)
	}
	if e.draining {
		return // un-acked, it will be delivered again
	}
	for i, d := range batch.Deliveries {
		msg := messages[i]
		first := e.lanes.deliveredOne(d.Lane, msg.queuedAt, now)
		it := e.newItem(msg, d)
		e.observe(Event{Kind: EventReceived, ID: it.msg.id, Type: msg.typ, Lane: d.Lane, Level: msg.priority, Hop: msg.hop})
		it.mustClaim = first || d.Redelivered || msg.hop > 0 || e.cfg.Types[msg.typ].Dedupe == DedupeClaim
		it.late = e.lanes.late(msg.queuedAt, now)
		e.takeInHand(it)
	}
}

// takeInHand begins an item's life, unless its id is in hand already: then it
// is the same delivery again, a twin that has to wait, or another message.
func (e *Engine) takeInHand(it *item) {
	other := e.hand[it.key()]
	switch {
	case other == nil:
		e.hand[it.key()] = it
		e.enqueueLookUp(it)
	case other.delivery.BrokerID == it.delivery.BrokerID && other.delivery.Epoch != it.delivery.Epoch:
		other.delivery = it.delivery
		if other.stage == settling {
			e.leaves(other, +1)
		}
	case other.msg.digest != it.msg.digest || other.msg.typ != it.msg.typ:
		e.settleAlone(it, conflict(it, other.msg.typ))
	default:
		other.twins = append(other.twins, it)
	}
}

func (e *Engine) enqueueLookUp(it *item) {
	it.stage = unseen
	e.comes(it, +1)
	e.unseen = append(e.unseen, it)
}

// lookUp asks the records for what has arrived: due? done? watched?
func (e *Engine) lookUp() {
	for len(e.unseen) > 0 && e.lookUps < lookUpsAtOnce && !e.draining {
		if e.storeDown && (e.lookUps > 0 || time.Now().Before(e.retryStore)) {
			return
		}
		batch := e.unseen[:min(len(e.unseen), lookUpBatch)]
		e.unseen = e.unseen[len(batch):]
		ids := make([]string, len(batch))
		for i, it := range batch {
			it.stage = asked
			ids[i] = it.msg.id
		}
		e.lookUps++
		e.spawn(func() {
			found, err := e.lookUpIDs(ids)
			e.do(func() { e.lookedUp(batch, found, err) })
		})
	}
}

func (e *Engine) lookUpIDs(ids []string) (Found, error) {
	ctx, cancel := context.WithTimeout(e.storing, storeTimeout)
	defer cancel()
	return e.cfg.Records.LookUp(ctx, ids)
}

func (e *Engine) lookedUp(batch []*item, found Found, err error) {
	e.lookUps--
	if err == nil {
		e.storeAnswered(nil)
	}
	for _, it := range batch {
		e.comes(it, -1)
		switch {
		case it.gone || e.draining:
		case err != nil:
			e.storeAnswered(err)
			e.enqueueLookUp(it)
		default:
			rec, exists := found.Records[it.msg.id]
			e.admit(it, rec, exists, found.Now)
		}
	}
}

// admit decides what a message is to us, by its record: over, somebody else's,
// broken, early or ready.
func (e *Engine) admit(it *item, rec Record, exists bool, now time.Time) {
	it.lookedUpAt = time.Now()
	e.recall(it)
	if exists && e.decided(it, rec, now) {
		return
	}
	delete(e.tried, it.msg.id)
	e.follow(it)
	_, known := e.cfg.Types[it.msg.typ]
	known = known && it.plugin != ""
	it.seenAt = later(orTime(rec.GatedAt, it.seenAt), it.msg.notBefore).Add(it.typ.delayAt(it.level))
	switch f := it.msg.fault; {
	case f != nil && it.msg.hop == noHop:
		e.forget(it)
		e.settleAlone(it, *f)
	case f != nil:
		e.kill(it, *f)
	case it.expired(now):
		e.kill(it, fault{ReasonExpired, "it was to be run before " + it.msg.expires.Format(time.RFC3339)})
	case e.early(it, rec, known, now):
	case e.waits(it):
		e.park(it)
	case !known:
		e.kill(it, fault{ReasonUnknownType, fmt.Sprintf("no plugin serves the type %q; add it under types: in the configuration", it.msg.typ)})
	default:
		e.makeReady(it)
	}
}

// decided says whether the record leaves nothing to decide, and acts on it.
func (e *Engine) decided(it *item, rec Record, now time.Time) bool {
	it.watchers = rec.Watchers
	if rec.State != Dead && rec.Redeliveries == it.rounds { // else attempts begin anew
		it.attempts = max(it.attempts, rec.Attempts)
	}
	if rec.State != Dead {
		it.crashes = max(it.crashes, rec.Crashes)
		e.suspect(it, rec, now)
	}
	same := rec.Claim.BrokerID == it.brokerID
	switch {
	case !rec.of(it.msg.typ, it.msg.digest):
		e.forget(it)
		e.settleAlone(it, conflict(it, rec.Type))
	case it.msg.hop == noHop:
		return false
	case rec.Hop > it.msg.hop:
		e.ackOnly(it, OutcomeStale)
	case rec.State.Final() && !guard(rec, it.msg.hop):
		e.ackOnly(it, OutcomeDuplicate)
	case !rec.Claim.Live(now), same && strings.HasPrefix(rec.Claim.Token, e.instance+"-"):
		return false
	case same, rec.Hop < it.msg.hop:
		// Another process had this delivery, or the one that this is a copy of, and
		// may still be at it: look again, at the latest when its claim ends.
		e.startWaiting(it, time.Now().Add(min(rec.Claim.Until.Sub(now), MaxShortWait)))
	default:
		e.ackOnly(it, OutcomeDuplicate) // a twin: the other delivery sees to it
	}
	return true
}

// early says whether the message has to wait, and sees to it. The record's
// time decides; rule and header give it one at first sight only.
func (e *Engine) early(it *item, rec Record, known bool, now time.Time) bool {
	due, by := rec.Due, rec.DueBy
	if rec.GatedAt.IsZero() && by == ByNone {
		wish, wishedBy := e.wish(it, known)
		if wish.After(now) {
			e.gate(it, wish, wishedBy, now)
			return true
		}
	}
	if !due.After(now) {
		return false
	}
	if wait := due.Sub(now); wait <= MaxShortWait && e.mayWait(it) {
		e.startWaiting(it, time.Now().Add(wait))
		e.tell(it, Delayed, due)
		return true
	}
	e.settle(it, decision{action: actDefer, wait: due.Sub(now), outcome: OutcomeDelayed})
	return true
}

// wish is when the message, or the rule of its type, wants it to run. What
// nobody serves waits a while for somebody who does.
func (e *Engine) wish(it *item, known bool) (time.Time, DueBy) {
	byRule := toMillis(it.msg.queuedAt.Add(it.typ.delayAt(it.level)))
	if !known {
		byRule = toMillis(it.msg.queuedAt.Add(e.cfg.UnknownTypeWait))
	}
	if it.msg.notBefore.IsZero() || !known && byRule.After(it.msg.notBefore) {
		return byRule, ByRule
	}
	return it.msg.notBefore, ByHeader
}

// gate writes the wish down, once, and goes on with what the record says then.
func (e *Engine) gate(it *item, due time.Time, by DueBy, now time.Time) {
	it.stage = asked
	g := Gate{ID: it.msg.id, Type: it.msg.typ, Digest: it.msg.digest, Priority: it.msg.priority, Due: due, DueBy: by, Now: now}
	e.spawn(func() {
		ctx, cancel := context.WithTimeout(e.storing, storeTimeout)
		defer cancel()
		rec, err := e.cfg.Records.Gate(ctx, g)
		e.do(func() {
			switch {
			case it.gone || e.draining:
			case err != nil:
				e.storeAnswered(err)
				e.enqueueLookUp(it)
			default:
				e.admit(it, rec, true, now)
			}
		})
	})
}

func (e *Engine) makeReady(it *item) {
	e.follow(it)
	if e.waits(it) {
		e.park(it)
		return
	}
	it.stage, it.readyAt = ready, time.Now()
	e.ready.push(it)
}

// start gives a ready message a slot, if it still may run.
func (e *Engine) start(it *item, now time.Time) {
	if it.expired(now) {
		e.kill(it, fault{ReasonExpired, "it was to be run before " + it.msg.expires.Format(time.RFC3339)})
		return
	}
	it.stage = running
	e.takeSlot(it, now)
	it.waited, it.ran = max(now.Sub(it.waitingSince()), 0), 0
	e.observe(it.event(Event{Kind: EventStarted, Wait: it.waited}))
	stale := now.Sub(it.lookedUpAt) > lookUpAge
	if !it.mustClaim && !stale {
		e.tell(it, Processing, time.Time{})
	}
	var ctx context.Context
	ctx, it.stop = context.WithCancelCause(e.handling)
	e.spawn(func() { e.run(ctx, it, stale) })
}

// run takes a message through its handler, beside the loop.
func (e *Engine) run(ctx context.Context, it *item, stale bool) {
	defer it.stop(nil)
	var held *lease
	if it.mustClaim || stale {
		claim := it.claimFor(it.token)
		rec, err := e.mayRun(it, &claim)
		switch {
		case err != nil:
			e.do(func() { e.notClaimed(it, rec, err) })
			return
		case rec.Deaths >= maxDeaths:
			e.do(func() { e.poisoned(it, claim, rec.Deaths) })
			return
		}
		e.do(func() {
			it.deaths = rec.Deaths
			if it.mustClaim {
				it.token = claim.Mark.Token
			}
			e.tell(it, Processing, time.Time{})
		})
		if it.mustClaim {
			held = e.keep(ctx, claim)
			ctx = held.attempt
		}
	}
	began := time.Now()
	timed := handlers.Timeout(it.typ.Timeout, e.handlerFor(it))
	followOns, err := handlers.Run(ctx, timed, it.attempt(), func(p handlers.Progress) {
		e.do(func() { e.progressed(it, p) })
	})
	if lost := context.Cause(ctx); err != nil && errors.Is(lost, errClaimLost) {
		e.do(func() { e.lostClaim(it, lost) })
		return
	}
	took := time.Since(began)
	d := classify(attempted{
		err: err, ended: it.attempts, rounds: it.rounds, crashes: it.crashes, age: began.Sub(it.seenAt),
		stopping: e.handling.Err() != nil, cancelled: errors.Is(context.Cause(ctx), errCancelled), jitter: rand.Float64(),
	}, it.typ)
	e.do(func() {
		it.held = held
		e.ran(it, d, followOns, took)
	})
}

// ran frees the slot and settles what the attempt came to. Its claim is kept until
// that is done; what waits here for the next attempt renews it then.
func (e *Engine) ran(it *item, d decision, emitted []handlers.FollowOn, took time.Duration) {
	tried := e.triedByBreaker(it)
	e.freeSlot(it)
	it.ran = took
	now := time.Now()
	d = e.judge(it, d, tried, now)
	if d.counted {
		it.attempts++
	}
	e.observe(it.event(Event{Kind: EventRan, Run: took, Outcome: d.outcome, Reason: d.fault.reason, Detail: handlers.OneLine(d.fault.detail, MaxDetailBytes), Attempt: it.attempts}))
	if d.crash {
		it.crashes++
	}
	if d.action != actHandBack && d.outcome != OutcomeNotStarted {
		it.suspect, it.deaths = false, 0 // we live
	}
	if d.fault.detail != "" && it.firstFailed.IsZero() {
		it.firstFailed = now
	}
	if d.action == actAgain && it.delivery.Epoch != e.epoch {
		it.held.drop()
		e.letGo(it) // its session is gone
		return
	}
	if d.action == actAgain && e.draining {
		d.action, d.outcome = actHandBack, OutcomeHandedBack
	}
	if d.action == actAgain && (d.wait == 0 || e.mayWait(it)) {
		it.held.drop()
		it.again = true
		e.startWaiting(it, now.Add(d.wait))
		e.tell(it, Retrying, now.Add(d.wait))
		return
	}
	if d.action == actAgain {
		d.action = actDefer
	}
	if d.action == actDone {
		outs, f := it.msg.followOns(emitted, e.cfg.Queue, now)
		if f != nil {
			d = dead(true, f.reason, f.detail)
		}
		e.settle(it, d, outs...)
		return
	}
	e.settle(it, d)
}

// mayRun makes sure that the message may run: by a claim where it may not be the
// first delivery, by another look at the record where the last one is too old.
// ErrGuarded comes with the record that tells why not.
func (e *Engine) mayRun(it *item, c *Claim) (Record, error) {
	if it.mustClaim {
		return e.claim(c)
	}
	found, err := e.lookUpIDs([]string{it.msg.id})
	if rec := found.Records[it.msg.id]; err == nil && !c.Allowed(rec) {
		return rec, ErrGuarded
	}
	return Record{}, err
}

// claim takes the message for this delivery.
func (e *Engine) claim(c *Claim) (rec Record, err error) {
	if c.Mark.Token == "" {
		c.Mark.Token = e.token()
	}
	for {
		ctx, cancel := context.WithTimeout(e.storing, storeTimeout)
		rec, err = e.cfg.Records.Claim(ctx, *c)
		cancel()
		ours := rec.Claim.BrokerID == c.Mark.BrokerID && strings.HasPrefix(rec.Claim.Token, e.instance+"-")
		if !errors.Is(err, ErrGuarded) || !ours || rec.Claim.Token == c.Mark.Token {
			return rec, err
		}
		c.Mark.Token = rec.Claim.Token // of a session of ours that ended; nobody runs it
	}
}

// errClaimLost is the cause with which an attempt is stopped that somebody else
// may make as well.
var errClaimLost = errors.New("the claim is lost")

// lease is a claim that is being renewed. A nil one is none, and ends at once.
type lease struct {
	attempt context.Context    // ends with that of the run, or with errClaimLost
	stop    context.CancelFunc // of the renewal
	stopped chan struct{}      // closed when nothing more is written
}

// keep renews a claim until the lease is ended. When it is lost, or can no longer
// be renewed, the attempt is stopped: then somebody else may run the message.
func (e *Engine) keep(ctx context.Context, c Claim) *lease {
	attempt, lose := context.WithCancelCause(ctx)
	renewing, stop := context.WithCancel(e.storing)
	l := &lease{attempt, stop, make(chan struct{})}
	e.spawn(func() {
		defer close(l.stopped)
		lose(e.renew(renewing, c))
	})
	return l
}

// drop stops the renewal and does not wait.
func (l *lease) drop() {
	if l != nil {
		l.stop()
	}
}

// end stops the renewal, and returns when nothing of it is under way any more.
func (l *lease) end() {
	if l != nil {
		l.stop()
		<-l.stopped
	}
}

// renew returns nil when ctx ends, and otherwise why the claim is lost. It gives
// up in time for the attempt to be stopped before anybody else may begin one.
func (e *Engine) renew(ctx context.Context, c Claim) error {
	for began, lease := c.Now, c.Mark.Until.Sub(c.Now); ; {
		select {
		case <-time.After(lease / 4):
		case <-ctx.Done():
			return nil
		}
		next, longer := c, min(2*lease, claimLease)
		if c.Mark.Alone {
			longer = min(longer, aloneLease)
		}
		next.Now = time.Now()
		next.Mark.Until = next.Now.Add(longer)
		next.Mark.Alone = c.Mark.Alone && next.Now.Add(longer/4).Sub(began) < aloneFor
		renewing, cancel := context.WithDeadline(ctx, c.Mark.Until.Add(-lease/4))
		_, err := e.cfg.Records.Claim(renewing, next)
		over := renewing.Err() != nil
		cancel()
		switch {
		case err == nil:
			c, lease = next, longer
		case over && ctx.Err() == nil, errors.Is(err, ErrGuarded):
			// Not wrapped: it may be a deadline of ours, which is not the message's.
			return fmt.Errorf("%w (%s): %s", errClaimLost, c.ID, err.Error())
		}
	}
}

// lostClaim looks the message up again, whose attempt was stopped because
// somebody else may run it.
func (e *Engine) lostClaim(it *item, err error) {
	e.cfg.Log.Warn().Err(err).Str("id", it.msg.id).Msg("an attempt was stopped")
	e.freeSlot(it)
	e.observe(it.event(Event{Kind: EventRan, Outcome: OutcomeNotStarted, Detail: err.Error()}))
	it.losses++
	e.lookAgain(it)
}

// lookAgain goes by the record of a message that somebody else may have, if it is still ours.
func (e *Engine) lookAgain(it *item) {
	it.token, it.mustClaim = "", true
	if it.delivery.Epoch != e.epoch || e.draining {
		e.letGo(it)
		return
	}
	e.enqueueLookUp(it)
}

// notClaimed goes by what the record says instead.
func (e *Engine) notClaimed(it *item, rec Record, err error) {
	e.freeSlot(it)
	e.observe(it.event(Event{Kind: EventRan, Outcome: OutcomeNotStarted}))
	switch {
	case it.delivery.Epoch != e.epoch || e.draining:
		e.letGo(it)
	case errors.Is(err, ErrGuarded):
		e.admit(it, rec, true, time.Now())
	default:
		e.storeAnswered(err)
		e.enqueueLookUp(it)
	}
}

// settle acts on a decision, beside the loop: publish the copies, write the
// record, tell the watchers, ack last.
func (e *Engine) settle(it *item, d decision, copies ...Outgoing) {
	it.stage = settling
	e.settling++
	e.leaves(it, +1)
	p, held := e.plan(it, d, copies, time.Now()), it.held
	e.spawn(func() {
		rec, err := e.carryOut(p, held)
		e.do(func() { e.settled(it, p, rec, err) })
	})
}

// settled ends an item's life in our hands.
func (e *Engine) settled(it *item, p plan, rec Record, err error) {
	e.settling--
	e.leaves(it, -1)
	switch {
	case p.handBack || err != nil && !errors.Is(err, ErrGuarded):
		e.forget(it) // un-acked: the broker delivers it again
		e.observe(it.event(Event{Kind: EventSettled, Outcome: OutcomeHandedBack, Err: err}))
		return
	case err != nil && !rec.of(it.msg.typ, it.msg.digest):
		e.settleAlone(it, conflict(it, rec.Type))
		return
	case err != nil && guard(rec, p.change.Hop):
		e.lookAgain(it) // somebody else has it
		return
	case err != nil:
		e.ackOnly(it, OutcomeDuplicate) // somebody else finished it
		return
	}
	if p.change.State != "" {
		it.watchers = rec.Watchers
		if !p.until.IsZero() && rec.Due.After(p.until) {
			p.until = rec.Due // an operator's time is later than ours
		}
		e.tell(it, p.change.State, p.until)
	}
	e.observe(it.event(Event{
		Kind: EventSettled, Outcome: p.outcome, Reason: p.change.Reason, Detail: p.detail,
		Until: p.until, FollowOn: p.followOns,
	}))
	e.ack(it)
}
