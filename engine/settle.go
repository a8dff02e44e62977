package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"

	"usher/handlers"
)

// plan is what settling one delivery takes, decided before anything is done.
type plan struct {
	copies    []Outgoing
	parked    *Parked // nil: the message is not parked
	change    Change  // State "": the record belongs to another message and is left alone
	claim     Claim   // of this delivery, for when it is not claimed and has to wait
	until     time.Time
	outcome   string
	detail    string
	followOns int
	handBack  bool
}

// plan turns a decision into copies and a record change.
func (e *Engine) plan(it *item, d decision, copies []Outgoing, now time.Time) plan {
	m := it.msg
	if d.round {
		it.attempts, it.rounds = 0, it.rounds+1
	}
	m.attempts, m.rounds, m.firstFailed = it.attempts, it.rounds, it.firstFailed
	p := plan{copies: copies, outcome: d.outcome, detail: d.fault.detail, followOns: len(copies)}
	p.change = Change{
		ID: m.id, Type: m.typ, Digest: m.digest, Priority: m.priority, Hop: m.hop, NextHop: m.hop,
		Token: e.token(), Attempts: it.attempts, Redeliveries: it.rounds, Crashes: it.crashes, Deaths: it.deaths, Now: now,
	}
	p.claim = it.claimFor("")
	switch d.action {
	case actDone:
		p.change.State, p.change.ExpiresAt = Done, now.Add(FinalTTL)
	case actDrop:
		p.change.State, p.change.ExpiresAt = Cancelled, now.Add(FinalTTL)
	case actDead:
		m.handler = e.handlerOf(it)
		p.copies = []Outgoing{m.deadCopy(d.fault, e.cfg.Queue, now)}
		p.change.State, p.change.Reason, p.change.NextHop = Dead, d.fault.reason, m.hop+1
		p.followOns = 0
	case actDefer:
		p.until = toMillis(now.Add(d.wait))
		p.change.State, p.change.NextHop = Delayed, m.hop+1
		switch d.outcome {
		case OutcomeDelayed, OutcomeHeld:
		case OutcomeHandedOn:
			p.change.State, p.until = Queued, time.Time{}
		case OutcomeLimited:
			p.change.Due, p.change.DueBy = p.until, ByLimit
		default:
			p.change.State, p.change.Due, p.change.DueBy = Retrying, p.until, ByRetry
		}
		e.planWait(&p, m, d.wait, now)
		if d.outcome == OutcomeHandedOn {
			p.copies[0].Headers[HeaderQueuedAt] = millisText(m.queuedAt) // it has waited since then
		}
		if p.parked != nil && d.outcome == OutcomeHeld {
			p.change.Bucket, p.until = HeldBucket(m.typ), time.Time{}
		}
	case actHandBack:
		p.handBack, p.followOns = true, 0
		if it.token != "" {
			p.change.State, p.change.TakeBack = Queued, it.token
		}
	case actAgain: // waits here and is not settled; see ran
	}
	return p
}

// handlerOf says which plugin had a message last, and its version; "": none had it.
func (e *Engine) handlerOf(it *item) string {
	if it.attempts+it.crashes == 0 {
		return ""
	}
	name := it.plugin
	if v, ok := e.cfg.Handler.(Versioned); ok {
		name += " " + v.Version(it.plugin)
	}
	return handlers.OneLine(name, MaxIDBytes)
}

// planWait has a message wait outside: in the broker's scheduler for a short
// time, or where it is too large to be parked.
func (e *Engine) planWait(p *plan, m message, wait time.Duration, now time.Time) {
	out := m.waitingCopy(e.cfg.Queue)
	if wait > e.cfg.ParkAfter && out.size() <= MaxParked {
		p.parked, p.change.Bucket = &Parked{Headers: out.Headers, Body: out.Body}, BucketOf(m.id)
		return
	}
	wait = min(wait, MaxStep)
	out.Headers[HeaderScheduledDelay] = strconv.FormatInt(max(wait.Milliseconds(), 1), 10)
	out.Headers[HeaderQueuedAt] = millisText(now.Add(wait))
	p.copies = []Outgoing{out}
}

// carryOut publishes or parks, then writes. It tries again until both have worked or the
// engine has no more time; ErrGuarded comes with the record of whoever finished
// the message, or has it. Until then it is claimed, or somebody else would run what
// has run; but a claim that is given back is not renewed any more, or it would be
// there again.
func (e *Engine) carryOut(p plan, held *lease) (Record, error) {
	ctx := e.storing
	defer func() { held.end() }()
	if p.handBack {
		held.end()
	}
	var rec Record
	for _, out := range p.copies {
		err := e.persist(ctx, "publish", func() (err error) {
			if err = e.cfg.Broker.Publish(ctx, out); err == nil || held != nil || p.change.State == "" {
				return err
			}
			var taken error
			if held, rec, taken = e.claimMeanwhile(p.claim); errors.Is(taken, ErrGuarded) {
				return taken
			}
			return err
		})
		if err != nil {
			return rec, err
		}
	}
	if p.parked != nil {
		if err := e.persist(ctx, "park", func() error { return e.keepBody(ctx, p) }); err != nil {
			return Record{}, err
		}
	}
	if p.change.State == "" {
		return Record{}, nil
	}
	err := e.persist(ctx, "record", func() (err error) {
		writing, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		rec, err = e.cfg.Records.Write(writing, p.change)
		if errors.Is(err, ErrGuarded) && rec.Token == p.change.Token {
			err = nil // our own write landed; its answer was lost
		}
		return err
	})
	return rec, err
}

// claimMeanwhile claims what has to wait to be settled, and keeps the claim. ErrGuarded
// comes with the record of whoever finished the message, or has it. What is not due
// needs no claim, for nobody runs it.
func (e *Engine) claimMeanwhile(c Claim) (*lease, Record, error) {
	lasts := c.Mark.Until.Sub(c.Now)
	c.Now = time.Now()
	c.Mark.Until, c.Mark.Alone = c.Now.Add(lasts), false
	rec, err := e.claim(&c)
	switch {
	case err == nil:
		return e.keep(e.storing, c), rec, nil
	case errors.Is(err, ErrGuarded) && guard(rec, c.Hop) && rec.of(c.Type, c.Digest) && !rec.Claim.Live(c.Now):
		return nil, rec, nil
	}
	return nil, rec, err
}

func (e *Engine) keepBody(ctx context.Context, p plan) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return e.cfg.Bodies.Keep(ctx, p.change.ID, p.change.NextHop, *p.parked)
}

// persist tries f until it works, its guard does not hold, or ctx ends.
func (e *Engine) persist(ctx context.Context, what string, f func() error) error {
	err := f()
	if err == nil || errors.Is(err, ErrGuarded) {
		return err
	}
	e.cfg.Log.Warn().Err(err).Str("step", what).Msg("settling has to wait; it is tried again until it works")
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.RandomizationFactor = 100*time.Millisecond, 2*time.Second, 0.5
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		err := f()
		if errors.Is(err, ErrGuarded) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0))
	return err
}

// kill dead-letters a message that is not running.
func (e *Engine) kill(it *item, f fault) {
	if it.firstFailed.IsZero() {
		it.firstFailed = time.Now()
	}
	e.settle(it, decision{action: actDead, outcome: OutcomeDeadLettered, fault: f})
}

// handBack takes the claim of a waiting message back.
func (e *Engine) handBack(it *item) {
	if it.stage == waiting {
		e.stopWaiting(it)
	}
	e.settle(it, decision{action: actHandBack, outcome: OutcomeHandedBack})
}

// conflict is the fault of a message that has the id of another one.
func conflict(it *item, otherType string) fault {
	return fault{ReasonIDConflict, fmt.Sprintf("another message has the id %s and another body or type (%s)", it.msg.id, otherType)}
}

// settleAlone dead-letters a message whose id is another one's: the record, and
// the place in the table, belong to the other.
func (e *Engine) settleAlone(it *item, f fault) {
	it.stage = settling
	e.settling++
	e.leaves(it, +1)
	p := plan{
		copies:  []Outgoing{it.msg.deadCopy(f, e.cfg.Queue, time.Now())},
		outcome: OutcomeDeadLettered, detail: f.detail, change: Change{Reason: f.reason},
	}
	e.spawn(func() {
		_, err := e.carryOut(p, nil)
		e.do(func() { e.settled(it, p, Record{}, err) })
	})
}

// ackOnly settles a delivery about which there is nothing left to do.
func (e *Engine) ackOnly(it *item, outcome string) {
	e.observe(it.event(Event{Kind: EventSettled, Outcome: outcome}))
	e.ack(it)
}

// ack tells the broker, and lets go.
func (e *Engine) ack(it *item) {
	e.ackDelivery(it.delivery)
	e.forget(it)
}

func (e *Engine) ackDelivery(d Delivery) {
	if d.Epoch != e.epoch {
		return
	}
	e.lanes.ackedOne(d.Lane, time.Now())
	if err := e.cfg.Broker.Ack(d); err != nil {
		e.cfg.Log.Warn().Err(err).Str("message_id", d.BrokerID).Msg("an ack was lost: the message will be delivered again")
	}
}

// leaves notes that settling an item of this session begins or ends.
func (e *Engine) leaves(it *item, by int) {
	if it.delivery.Epoch == e.epoch {
		e.lanes.leaves(it.delivery.Lane, by, time.Now())
	}
}

// forget takes an item out of the table and looks at its twins anew.
func (e *Engine) forget(it *item) {
	it.gone = true
	e.wasTried(it)
	if e.hand[it.key()] == it {
		delete(e.hand, it.key())
	}
	twins := it.twins
	it.twins = nil
	for _, twin := range twins {
		if twin.delivery.Epoch == e.epoch && !e.draining {
			twin.mustClaim = true
			e.takeInHand(twin)
		}
	}
}

// newSession drops what has not run: the broker delivers it again. What runs,
// or is being settled, goes on; its redelivery finds it in the table.
func (e *Engine) newSession(epoch uint64, now time.Time) {
	e.epoch = epoch
	e.lanes.reset(now)
	e.depthAsked = time.Time{}
	e.observe(Event{Kind: EventSession, Epoch: epoch})
	e.unseen = nil
	for _, it := range e.hand {
		it.twins = nil
		switch it.stage {
		case running, settling:
			continue
		case unseen:
			e.comes(it, -1)
		case waiting:
			e.stopWaiting(it)
		case asked, ready:
		}
		e.letGo(it)
	}
	e.ready = readyQueue{}
}

// storeAnswered notes whether the record table can be reached. While it
// cannot, nothing is started.
func (e *Engine) storeAnswered(err error) {
	switch {
	case err == nil && e.storeDown:
		e.storeDown = false
		e.observe(Event{Kind: EventStoreUp})
		e.cfg.Log.Info().Msg("the record table answers again")
	case err != nil && !e.draining:
		if !e.storeDown {
			e.observe(Event{Kind: EventStoreDown, Err: err})
			e.cfg.Log.Error().Err(err).Msg("the record table does not answer: no message is started until it does")
		}
		e.storeDown = true
		e.retryStore = time.Now().Add(500 * time.Millisecond)
	}
}

func (e *Engine) observe(ev Event) {
	ev.At = time.Now()
	e.cfg.Observer.Observe(ev)
}

// event fills in what an event says of the item.
func (it *item) event(ev Event) Event {
	ev.ID, ev.Type, ev.Plugin = it.msg.id, it.msg.typ, it.plugin
	ev.Level, ev.Lane, ev.Hop, ev.Of = it.level, it.delivery.Lane, it.msg.hop, it.typ.Attempts
	if ev.Kind == EventSettled {
		ev.Wait, ev.Run, ev.Trace = it.waited, it.ran, it.msg.headers[headerTrace]
	}
	if ev.Attempt == 0 {
		ev.Attempt = it.attempts
		if ev.Kind == EventStarted {
			ev.Attempt++
		}
	}
	return ev
}

// attempt is the message as its handler gets it.
func (it *item) attempt() *handlers.Message {
	return &handlers.Message{
		ID: it.msg.id, Type: it.msg.typ, Priority: it.msg.priority, Attempt: it.attempts + 1,
		IdempotencyKey: it.msg.id, Headers: it.msg.authorHeaders(),
		ContentType: orDefault(it.msg.headers[HeaderContentType], "application/json"), Body: slices.Clone(it.msg.body),
	}
}
