package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// NudgeKind is what a Nudge is about.
type NudgeKind string

// The kinds of nudges.
const (
	NudgeWatch  NudgeKind = "watch"  // somebody watches the message
	NudgeDelay  NudgeKind = "delay"  // it has another time
	NudgeCancel NudgeKind = "cancel" // it is cancelled, or is to be stopped
)

// Nudge tells engines what somebody else has done with a message, for the one that
// has it in hand. It may be lost: what it tells is in the records as well, but that a
// running message is to be stopped.
type Nudge struct {
	V       int       `json:"v"`
	Kind    NudgeKind `json:"kind"`
	ID      string    `json:"id"`
	Watcher *Watcher  `json:"watcher,omitempty"` // of NudgeWatch
	Stop    bool      `json:"stop,omitempty"`    // of NudgeCancel: although it runs
}

// NudgeVersion is the V of every Nudge; it changes only when a field changes its meaning.
const NudgeVersion = 1

// MaxNudgeBytes is how long the text of a nudge may be.
const MaxNudgeBytes = 4 << 10

// Marshal is the nudge as other engines read it.
func (n Nudge) Marshal() []byte {
	n.V = NudgeVersion
	text, err := json.Marshal(n)
	if err != nil {
		panic(err) // it has only what JSON has
	}
	return text
}

// ParseNudge reads what Marshal wrote. The error says what is wrong with it.
func ParseNudge(text []byte) (Nudge, error) {
	var n Nudge
	if len(text) > MaxNudgeBytes {
		return n, fmt.Errorf("engine: a nudge of %d bytes; at most %d are read", len(text), MaxNudgeBytes)
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return n, fmt.Errorf("engine: a nudge that is no JSON: %w", err)
	}
	known := slices.Contains([]NudgeKind{NudgeWatch, NudgeDelay, NudgeCancel}, n.Kind)
	if n.V != NudgeVersion || !known || !ValidID(n.ID) || n.Kind == NudgeWatch && (n.Watcher == nil || n.Watcher.Connection == "") {
		return n, fmt.Errorf("engine: a nudge of version %d and kind %.20q that this program does not know", n.V, n.Kind)
	}
	return n, nil
}

// tellWithin is how long telling others may take: what they are told gets old.
const tellWithin = 2 * time.Second

// Nudge does what a nudge says if the message is in hand here, and else tells the
// other engines. It does not wait for them.
func (e *Engine) Nudge(n Nudge) {
	here := false
	ran := e.ask(func() { here = e.nudged(n) })
	if here || !ran || e.cfg.Control == nil {
		return
	}
	e.ask(func() {
		if e.draining {
			return
		}
		e.spawn(func() {
			ctx, cancel := context.WithTimeout(e.storing, tellWithin)
			defer cancel()
			if err := e.cfg.Control.Tell(ctx, n); err != nil && e.storing.Err() == nil {
				e.cfg.Log.Debug().Err(err).Str("id", n.ID).Msg("the other engines were not told; the record tells")
			}
		})
	})
}

// Watch adds a watcher to a message, wherever it is in hand; see [Engine.Nudge].
func (e *Engine) Watch(id string, w Watcher) {
	e.Nudge(Nudge{Kind: NudgeWatch, ID: id, Watcher: &w})
}

// followNudges does what other engines tell until ctx ends.
func (e *Engine) followNudges(ctx context.Context) {
	if e.cfg.Control == nil {
		return
	}
	for {
		select {
		case n := <-e.cfg.Control.Nudges():
			e.do(func() { e.nudged(n) })
		case <-ctx.Done():
			return
		}
	}
}

// nudged does what a nudge says, and says whether the message is in hand.
func (e *Engine) nudged(n Nudge) bool {
	it := e.hand[n.ID]
	if it == nil || e.draining {
		return it != nil
	}
	switch {
	case n.Kind == NudgeWatch:
		e.watched(it, *n.Watcher)
	case it.stage == running && n.Stop:
		it.stop(errCancelled)
	case it.stage == waiting && !it.again:
		e.stopWaiting(it)
		e.enqueueLookUp(it)
	default:
		it.lookedUpAt = time.Time{} // it is looked up again before it starts
	}
	return true
}

// errCancelled is the cause with which a handler is stopped whose message an operator
// has cancelled.
var errCancelled = errors.New("an operator has cancelled the message")

// watched adds a watcher to a message in hand, and tells him where it is. The
// record has the watcher already; without this he would wait for the next step.
func (e *Engine) watched(it *item, w Watcher) {
	watchers := slices.DeleteFunc(slices.Clone(it.watchers), func(o Watcher) bool { return o.Connection == w.Connection })
	watchers = append(watchers, w)
	it.watchers = watchers[max(len(watchers)-MaxWatchers, 0):]
	if it.last.ID != "" && (it.stage == running || it.stage == waiting) {
		e.cfg.Notifier.Notify([]Watcher{w}, it.last)
	}
}
