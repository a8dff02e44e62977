package engine

import "time"

const (
	// firstTry is how long after a breaker opens one message is tried; each that
	// fails doubles the wait for the next, up to longestTry.
	firstTry   = time.Second
	longestTry = 30 * time.Second
)

// breaker has the messages of a type wait while what their handler needs is away: it
// opens after so many attempts in a row that failed and may be made again. Then one
// message at a time is tried, no attempt is charged, and an answer closes it. The loop
// owns it.
type breaker struct {
	failed int           // attempts in a row
	detail string        // on the last of them
	since  time.Time     // when it opened
	wait   time.Duration // between tries; 0: it is closed
	next   time.Time     // when the next may be
	tried  *item         // nil: none now
}

func (b *breaker) open() bool { return b != nil && b.wait > 0 }

func (b *breaker) mayTry(now time.Time) bool { return b.tried == nil && !now.Before(b.next) }

// judge counts what an attempt came to for the breaker of its type. What fails while
// that is open waits with the others; tried says that this was the one it was tried with.
func (e *Engine) judge(it *item, d decision, tried bool, now time.Time) decision {
	after := e.cfg.Types[it.msg.typ].Breaker
	b := e.breakers[it.msg.typ]
	switch {
	case after == 0 || d.counted && !d.transient:
		e.closeBreaker(it.msg.typ)
	case !d.transient: // it says nothing of what the handler needs
	case b.open():
		b.detail = d.fault.detail
		if tried {
			b.wait = min(2*b.wait, longestTry)
			b.next = now.Add(b.wait)
		}
		return decision{action: actDefer, wait: MaxStep, outcome: OutcomeHeld, fault: fault{detail: d.fault.detail}}
	default:
		if b == nil {
			b = &breaker{}
			e.breakers[it.msg.typ] = b
		}
		b.detail = d.fault.detail
		if b.failed++; b.failed >= after {
			b.since, b.wait, b.next = now, firstTry, now.Add(firstTry)
			e.cfg.Log.Warn().Str("type", it.msg.typ).Int("failed", b.failed).Str("detail", d.fault.detail).
				Msg("attempts of a type fail, one after the other: its messages wait, and one at a time is tried")
			e.parkHeld()
		}
	}
	return d
}

// closeBreaker lets the messages of a type go on, if they wait for its breaker.
func (e *Engine) closeBreaker(typ string) {
	b := e.breakers[typ]
	delete(e.breakers, typ)
	if b.open() {
		e.cfg.Log.Info().Str("type", typ).Msg("the messages of a type whose attempts failed wait no longer")
		e.parkHeld()
	}
}

// triedByBreaker says whether an open breaker is being tried with the message.
func (e *Engine) triedByBreaker(it *item) bool {
	b := e.breakers[it.msg.typ]
	return b.open() && b.tried == it
}
