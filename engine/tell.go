package engine

import (
	"time"

	"usher/handlers"
)

// progressEvery is how often watchers are told of the progress of one message:
// what comes faster is merged, whichever way they are told.
const progressEvery = 250 * time.Millisecond

// tell gives watchers the item's next status, after the progress that they have
// not been told yet.
func (e *Engine) tell(it *item, s State, next time.Time) {
	e.tellOwed(it)
	status := it.status(s, time.Now())
	if !next.IsZero() {
		t := next.UTC()
		status.NextAt = &t
		it.last = status
	}
	e.notify(it)
}

// progressed passes on what a handler said of its progress, at once or when the
// last time is long enough ago.
func (e *Engine) progressed(it *item, p handlers.Progress) {
	if it.stage != running {
		return
	}
	now := time.Now()
	status := it.status(Processing, now)
	status.Progress, status.Note = &p.Ratio, p.Note
	it.last = status
	wait := progressEvery - now.Sub(it.progressAt)
	switch {
	case it.owed != nil || len(it.watchers) == 0:
	case wait <= 0:
		it.progressAt = now
		e.notify(it)
	default:
		var owed *time.Timer
		owed = time.AfterFunc(wait, func() {
			e.do(func() {
				if it.owed == owed {
					e.tellOwed(it)
				}
			})
		})
		it.owed = owed
	}
}

// tellOwed tells the progress that was held back, which is the item's last
// status. What is out of our hands somebody else tells of.
func (e *Engine) tellOwed(it *item) {
	if it.owed == nil {
		return
	}
	it.owed.Stop()
	it.owed = nil
	it.progressAt = time.Now()
	if !it.gone {
		e.notify(it)
	}
}

func (e *Engine) notify(it *item) {
	if len(it.watchers) > 0 {
		e.cfg.Notifier.Notify(it.watchers, it.last)
	}
}
