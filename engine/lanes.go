package engine

import (
	"errors"
	"time"
)

// Times of the hold. The measurements behind them are in docs/decisions.md.
const (
	depthEvery     = time.Second             // how often depths are asked for
	depthFresh     = 1500 * time.Millisecond // how old an answer may be
	depthStale     = 5 * time.Second         // how old it may be while the next is on its way
	depthHurry     = 10 * time.Millisecond   // least time between questions while slots idle for order's sake
	lateAfter      = 250 * time.Millisecond  // what waited longer came out of a backlog
	lateFor        = 250 * time.Millisecond  // how long that says something of what follows, while a place is free
	silentAfter    = 2 * time.Second         // a free window this long without a delivery is not behind
	subscribeGrace = 300 * time.Millisecond  // to let every lane deliver after (re)subscribing
	answerGrace    = 2 * time.Second         // to let the session's first answer come, which a cold broker takes long for
)

// lanes knows what the broker has in store for us, lane by lane, as far as it
// can be known. The loop owns it.
//
// A window for each lane is not order enough: a fast handler empties the low
// windows while the high lane is still full. So a level may be taken only
// while no higher lane is behind.
type lanes struct {
	window   int
	since    time.Time // of the session
	level    [Levels]lane
	unsorted lane
	came     uint64  // deliveries in this session
	asking   bool    // a question is under way, or was not answered, or its answer not applied yet
	answered bool    // the broker has told in this session
	mute     bool    // the broker never tells, as far as we know; outlives the session
	answer   *Depths // to be applied when what it counts as in flight has come
}

type lane struct {
	inHand    int       // delivered in this session and not acked
	delivered int       // in this session
	leaving   int       // of those in hand, being settled: their places are as good as free
	freeSince time.Time // the window has had a free place since
	last      time.Time // the last delivery
	lateAt    time.Time // the last delivery that had waited long

	asked   time.Time // when the depth we know was asked for
	waiting int       // what the broker still had then, less what came since
	filled  bool      // the window was full since asked: there may be more than we know
}

func newLanes(window int) lanes { return lanes{window: window} }

func (l *lanes) lane(i int) *lane {
	if i < 0 || i >= Levels {
		return &l.unsorted
	}
	return &l.level[i]
}

// reset begins a session: nothing is in hand, and nothing is known.
func (l *lanes) reset(now time.Time) {
	*l = lanes{window: l.window, since: now, mute: l.mute}
	for i := range l.level {
		l.level[i].freeSince, l.level[i].last = now, now
	}
}

// deliveredOne notes a delivery that was queued at the given time, and says
// whether it belongs to the first window of the session.
func (l *lanes) deliveredOne(i int, queuedAt, now time.Time) (first bool) {
	n := l.lane(i)
	n.inHand++
	n.delivered++
	n.last = now
	l.came++
	n.waiting = max(n.waiting-1, 0)
	if l.late(queuedAt, now) {
		n.lateAt = now
	}
	if n.inHand >= l.window {
		n.filled = true
	}
	if l.answer != nil && l.came >= l.answer.After {
		l.depths(*l.answer)
	}
	return n.delivered <= l.window
}

// late says whether a message comes out of a backlog: it waited long, or was
// there before we were.
func (l *lanes) late(queuedAt, now time.Time) bool {
	return now.Sub(queuedAt) > lateAfter || queuedAt.Before(l.since)
}

// ackedOne notes that a place in the window is free again.
func (l *lanes) ackedOne(i int, now time.Time) {
	n := l.lane(i)
	l.freed(n, now)
	n.inHand--
}

// leaves notes that a message in hand begins to be settled (+1), or no longer is (-1).
func (l *lanes) leaves(i, by int, now time.Time) {
	n := l.lane(i)
	l.freed(n, now)
	n.leaving += by
}

// freed is called before a place becomes free.
func (l *lanes) freed(n *lane, now time.Time) {
	if l.full(n) {
		n.freeSince = now
	}
}

// full says whether the window is taken by messages that have not run yet.
func (l *lanes) full(n *lane) bool { return n.inHand-n.leaving >= l.window }

// told takes what became of a question in this session. One that the broker was
// too slow for stays open: it has not said that nothing waits.
func (l *lanes) told(d Depths, err error) {
	switch {
	case err == nil:
		l.mute = false
		l.depths(d)
	case errors.Is(err, ErrNoStatistics):
		l.asking, l.mute = false, true
	}
}

// depths takes the broker's answer to a question asked at d.At, or keeps it
// until the deliveries have come that were on their way before it.
func (l *lanes) depths(d Depths) {
	l.answer = nil
	if l.came < d.After {
		l.answer = &d
		return
	}
	l.asking, l.answered = false, true
	for i, depth := range d.Lanes {
		n := l.lane(i)
		n.asked = d.At
		n.waiting = max(depth.Size-depth.InFlight, 0)
		n.filled = n.inHand >= l.window
	}
}

// settled says whether it is known since the session began where messages wait:
// every lane has delivered, or has had the time to and the broker has answered,
// or is not expected to answer any more.
func (l *lanes) settled(now time.Time) bool {
	since := now.Sub(l.since)
	if since >= answerGrace || since >= subscribeGrace && (l.answered || l.mute) {
		return true
	}
	for i := range l.level {
		if l.level[i].delivered == 0 {
			return false
		}
	}
	return true
}

// behind says whether lane i has a free place and, for all we know, the broker
// has a message for it that we do not have.
func (l *lanes) behind(i int, now time.Time) bool {
	n := &l.level[i]
	if l.full(n) {
		return false // full of messages that may not run: it holds nobody
	}
	if now.Sub(later(n.last, n.freeSince)) >= silentAfter {
		return false
	}
	known := now.Sub(n.asked) < depthFresh || l.asking && now.Sub(n.asked) < depthStale
	if known && (n.waiting > 0 || n.filled) {
		return true
	}
	if n.lateAt.IsZero() || n.lateAt.Before(n.last) || !n.asked.Before(n.lateAt) {
		return false // what came last had not waited, or the broker has told since
	}
	return now.Sub(later(n.lateAt, n.freeSince)) < lateFor || l.asking && now.Sub(n.lateAt) < depthStale
}

// floor is the lowest level that may be taken now: that of the highest lane
// that is behind.
func (l *lanes) floor(now time.Time) int {
	for i := Levels - 1; i > 0; i-- {
		if l.behind(i, now) {
			return i
		}
	}
	return 0
}

// empty says whether the broker has told lately that it has no more for lane i.
func (l *lanes) empty(i int, now time.Time) bool {
	n := &l.level[i]
	return now.Sub(n.asked) < depthFresh && n.waiting == 0 && !n.filled
}

// crowded says whether lane i has no free place, or had none until just now, and the
// broker has more for it.
func (l *lanes) crowded(i int) bool {
	n := &l.level[i]
	return n.filled && (n.waiting > 0 || l.full(n))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
