package live

import (
	"maps"
	"slices"
	"sync"
	"time"

	"usher/engine"
)

// subscriptions are what one client watches, and what is to be written to it. It
// is safe for concurrent use.
type subscriptions struct {
	mu      sync.Mutex
	subs    map[string]*subscription // by message id, guarded by mu
	pending []string                 // ids of which something is to be written, guarded by mu
	asked   bool                     // there was a subscription, guarded by mu
}

// subscription is what one client knows of one message.
type subscription struct {
	latest engine.Status // the newest one; the zero Status: none yet
	// progress is the last progress that another state came after before it was
	// written; the zero Status: none. It is written first.
	progress engine.Status
	since    *engine.Seq // of what the client had when it came; nil: nothing
	until    time.Time   // end of its token; zero: it has no end
	open     bool        // the snapshot is in, so statuses may be written
	queued   bool        // it is in pending
}

// advance replaces the latest status by a later one.
func (s *subscription) advance(next engine.Status) bool {
	if s.latest.ID != "" && !s.latest.Seq.Less(next.Seq) {
		return false
	}
	if s.queued && s.latest.Progress != nil && next.Progress == nil {
		s.progress = s.latest
	}
	s.latest = next
	return true
}

// news says whether the latest status is later than what the client had.
func (s *subscription) news() bool {
	return s.since == nil || s.since.Less(s.latest.Seq)
}

// over says whether nothing can come any more.
func (s *subscription) over() bool {
	return s.latest.State == engine.Done || s.latest.State == engine.Cancelled
}

// note takes a status of a message, and says whether there is something to
// write. One that is older than the last is dropped.
func (t *subscriptions) note(s engine.Status) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	sub := t.subs[s.ID]
	if sub == nil || !sub.advance(s) || !sub.open || !sub.news() {
		return false
	}
	t.enqueue(s.ID, sub)
	return true
}

// confirm takes the snapshot, after which statuses flow, and says whether there
// is something to write. Asking twice is answered twice, unless it is asked for
// what is later than a status.
func (t *subscriptions) confirm(id string, snapshot engine.Status, since *engine.Seq) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	sub := t.subs[id]
	if sub == nil {
		return false
	}
	sub.advance(snapshot)
	sub.open, sub.since, sub.progress = true, since, engine.Status{}
	if sub.news() {
		t.enqueue(id, sub)
		return true
	}
	t.dequeue(id, sub)
	if sub.over() {
		delete(t.subs, id) // and it has seen that
	}
	return false
}

// enqueue puts a message among those to be written. The lock is held here.
func (t *subscriptions) enqueue(id string, sub *subscription) {
	if !sub.queued {
		sub.queued = true
		t.pending = append(t.pending, id)
	}
}

// dequeue takes it out again. The lock is held here.
func (t *subscriptions) dequeue(id string, sub *subscription) {
	if sub.queued {
		sub.queued = false
		t.pending = slices.DeleteFunc(t.pending, func(other string) bool { return other == id })
	}
}

// take gives the next status to write. One after which nothing can come ends
// its subscription: the entry in the record is never read again.
func (t *subscriptions) take() (engine.Status, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return engine.Status{}, false
	}
	id := t.pending[0]
	sub := t.subs[id]
	if p := sub.progress; p.ID != "" {
		sub.progress = engine.Status{}
		return p, true
	}
	t.pending = t.pending[1:]
	sub.queued = false
	if sub.over() {
		delete(t.subs, id)
	}
	return sub.latest, true
}

// enter makes room for a subscription, or gives the one there is more time; not
// ok if there is no room.
func (t *subscriptions) enter(id string, until time.Time, most int) (isNew, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sub := t.subs[id]; sub != nil {
		if until.After(sub.until) {
			sub.until = until
		}
		return false, true
	}
	if len(t.subs) >= most {
		return false, false
	}
	t.subs[id], t.asked = &subscription{until: until}, true
	return true, true
}

// forget ends a subscription and says whether there was one.
func (t *subscriptions) forget(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drop(id)
}

// drop is forget. The lock is held here.
func (t *subscriptions) drop(id string) bool {
	sub := t.subs[id]
	if sub == nil {
		return false
	}
	delete(t.subs, id)
	t.dequeue(id, sub)
	return true
}

// forgetEnded ends the subscriptions whose tokens have ended, and lists their ids.
func (t *subscriptions) forgetEnded(now time.Time) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id, sub := range t.subs {
		if !sub.until.IsZero() && !now.Before(sub.until) {
			ids = append(ids, id)
			t.drop(id)
		}
	}
	return ids
}

// watched lists the ids subscribed to.
func (t *subscriptions) watched() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.subs))
}

// hasAsked says whether there ever was a subscription.
func (t *subscriptions) hasAsked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.asked
}

// until is when the token of a subscription ends; zero: it has no end.
func (t *subscriptions) until(id string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sub := t.subs[id]; sub != nil {
		return sub.until
	}
	return time.Time{}
}

// untilNext is how long it is until the next token ends, a while if none does.
func (t *subscriptions) untilNext(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := renewEvery
	for _, sub := range t.subs {
		if !sub.until.IsZero() {
			wait = min(wait, sub.until.Sub(now))
		}
	}
	return max(wait, 0)
}
