package engine

import (
	"context"
	"fmt"
	"time"

	"usher/handlers"
)

// A message that an engine died with may be what ended it: its second claim says so.
// It runs with nothing beside it, so that a death that follows is its own; after
// maxDeaths of them in a row it is dead-lettered as poison. A message that plugins
// crashed with runs in a process of its own, for the same reason.

// alone is the message that runs alone, and what makes it quiet enough for one to begin.
type alone struct {
	it    *item     // nil: none runs
	until time.Time // others wait until then

	since time.Time     // no other of its level, or below, is started since then; zero: they are
	least time.Duration // for so long at the most
	rest  time.Time     // it was in vain: others are started until then
}

// suspect goes by a record for whether a message is suspected of ending engines.
func (e *Engine) suspect(it *item, rec Record, now time.Time) {
	died := rec.Claim.Token != "" && !rec.Claim.Live(now) && owner(rec.Claim.Token) != e.instance
	it.suspect, it.deaths = died || rec.Deaths > 0, rec.Deaths
	it.mustClaim = it.mustClaim || it.suspect
}

// runsAlone says whether a message runs beside which none is started.
func (e *Engine) runsAlone(now time.Time) bool { return e.alone.it != nil && now.Before(e.alone.until) }

// startsAlone sees to the messages of a level that are to run alone. It says whether
// nothing else of the level, or below, may start: one has begun, or is about to when
// what runs has ended. If that takes too long the others go on for a while.
func (e *Engine) startsAlone(level int, now time.Time) bool {
	could := func(k kind) bool { return k.company == nobodyBeside && e.couldStart(k, now) }
	if e.ready.oldest(level, could) == nil || now.Before(e.alone.rest) {
		return false
	}
	if e.busy == 0 {
		it := e.ready.pop(level, could)
		e.cfg.Log.Warn().Str("id", it.msg.id).Str("type", it.msg.typ).Int("deaths", it.deaths).
			Msg("an engine died with this message in hand: it runs with nothing beside it")
		e.start(it, now)
		return true
	}
	q := &e.alone
	if q.since.IsZero() {
		q.since, q.least = now, max(q.least, aloneFor)
	}
	if now.Sub(q.since) < q.least {
		return true
	}
	q.since, q.rest, q.least = time.Time{}, now.Add(q.least), min(2*q.least, quietMost)
	return false
}

// poisoned ends a message with which too many engines have died.
func (e *Engine) poisoned(it *item, c Claim, deaths int) {
	e.freeSlot(it)
	e.observe(it.event(Event{Kind: EventRan, Outcome: OutcomeNotStarted}))
	it.token, it.deaths = c.Mark.Token, deaths
	e.kill(it, fault{ReasonPoison, fmt.Sprintf("%d engines died one after the other while they ran it alone", deaths)})
}

// handlerFor is what runs a message: for one that plugins crashed with a process of
// its own, where the Handler has one.
func (e *Engine) handlerFor(it *item) handlers.Handler {
	p, can := e.cfg.Handler.(Prober)
	if !can || it.kind().company != ownProcess {
		return e.cfg.Handler
	}
	return handlers.HandlerFunc(func(ctx context.Context, m *handlers.Message) error { return p.HandleAlone(ctx, m) })
}
