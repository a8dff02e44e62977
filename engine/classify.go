package engine

import (
	"errors"
	"fmt"
	"time"

	"usher/handlers"
)

// action is what is done with a delivery after an attempt.
type action int

const (
	actDone     action = iota // the effect is there
	actDrop                   // there was nothing to do
	actAgain                  // wait here, then the next attempt
	actDefer                  // wait outside, then come back
	actDead                   // to the dead-letter queue
	actHandBack               // leave it un-acked: the engine stops
)

// decision is an action with what it needs.
type decision struct {
	action    action
	wait      time.Duration // of actAgain and actDefer
	counted   bool          // it was an attempt
	transient bool          // it failed, and may not another time
	crash     bool          // the plugin's process ended with it in hand
	round     bool          // of actDefer: the next attempt begins a new round
	outcome   string        // for observers
	fault     fault         // of actDead; detail also of the others that failed
}

// attempted is what classify judges: one attempt that ended.
type attempted struct {
	err      error
	ended    int           // attempts of this round that ended before this one
	rounds   int           // redeliveries before this round
	crashes  int           // plugin crashes before this one
	age      time.Duration // since it could first have run
	stopping bool          // the engine cancelled it to stop
	jitter   float64       // 0 to 1

	cancelled bool // by an operator, while it ran
}

// classify decides what becomes of a message after an attempt. Nothing else
// decides that; settle acts on it.
func classify(a attempted, t Type) decision {
	o := handlers.OutcomeOf(a.err)
	switch {
	case o.Kind == handlers.Done:
		return decision{action: actDone, counted: true, outcome: OutcomeDone}
	case o.Kind == handlers.Dropped:
		return decision{action: actDrop, counted: true, outcome: OutcomeDropped}
	case a.cancelled && !a.stopping:
		return decision{action: actDrop, outcome: OutcomeCancelled}
	case errors.Is(a.err, ErrPluginAway):
		return decision{action: actAgain, outcome: OutcomeNotStarted, wait: awayWait}
	case errors.Is(a.err, ErrPluginLost):
		return classifyCrash(a, o)
	case o.Kind == handlers.Rejected:
		return dead(true, permanentReason(o.Code), o.Err.Error())
	case a.stopping:
		return decision{action: actHandBack, outcome: OutcomeHandedBack}
	case o.Kind == handlers.Deferred:
		if o.After > t.MaxAge-a.age {
			return dead(false, ReasonExhausted, fmt.Sprintf("the handler deferred it until it was older than maxAge (%v)", t.MaxAge))
		}
		return decision{action: actDefer, wait: o.After, outcome: OutcomeDeferred}
	}
	d := classifyRetry(a, o, t)
	d.transient = true
	return d
}

func classifyRetry(a attempted, o handlers.Outcome, t Type) decision {
	n := a.ended + 1
	switch {
	case n >= t.Attempts && a.rounds < len(t.Redeliveries):
		wait := t.Redeliveries[a.rounds]
		wait += time.Duration(a.jitter * float64(wait) / 10) // what failed together does not come back together
		return decision{action: actDefer, counted: true, round: true, outcome: OutcomeRetried, wait: max(wait, o.After), fault: fault{detail: oneLine(o.Err)}}
	case n >= t.Attempts:
		reason := ReasonExhausted
		if o.Code == handlers.CodeTimeout {
			reason = ReasonTimeout
		}
		text := fmt.Sprintf("attempt %d of %d", n, t.Attempts)
		if a.rounds > 0 {
			text += fmt.Sprintf(" after redelivery %d of %d", a.rounds, len(t.Redeliveries))
		}
		return dead(true, reason, fmt.Sprintf("%s: %v", text, o.Err))
	}
	d := decision{action: actAgain, counted: true, outcome: OutcomeRetried, wait: o.After, fault: fault{detail: oneLine(o.Err)}}
	if d.wait == 0 {
		d.wait = shortWait(t.Backoff, n, a.jitter)
	}
	if d.wait > MaxShortWait {
		d.action = actDefer
	}
	return d
}

// classifyCrash: a crash is nobody's attempt, but a message that is in hand at
// too many is taken out.
func classifyCrash(a attempted, o handlers.Outcome) decision {
	switch {
	case a.stopping: // we ended the process
		return decision{action: actHandBack, outcome: OutcomeHandedBack}
	case a.crashes+1 >= maxCrashes:
		d := dead(false, ReasonCrashedPlugin, o.Err.Error())
		d.crash = true
		return d
	}
	return decision{action: actAgain, crash: true, outcome: OutcomeCrashed, fault: fault{detail: oneLine(o.Err)}}
}

func dead(counted bool, reason, detail string) decision {
	return decision{
		action: actDead, counted: counted, outcome: OutcomeDeadLettered,
		fault: fault{reason, handlers.OneLine(detail, MaxDetailBytes)},
	}
}

func oneLine(err error) string { return handlers.OneLine(err.Error(), MaxDetailBytes) }

// permanentReason keeps the codes that plugin hosts answer apart from those of
// authors.
func permanentReason(code string) string {
	if code == ReasonBadFollowOn || code == ReasonTooLarge {
		return code
	}
	return ReasonPermanent + code
}

// shortWait is the wait after the nth attempt: full jitter below a bound that
// doubles from first up to MaxShortWait.
func shortWait(first time.Duration, n int, jitter float64) time.Duration {
	bound := first
	for i := 1; i < n && bound < MaxShortWait; i++ {
		bound *= 2
	}
	return time.Duration(jitter * float64(min(bound, MaxShortWait)))
}
