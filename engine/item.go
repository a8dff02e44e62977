package engine

import (
	"context"
	"time"
)

// stage is where an item is in its life.
type stage int

const (
	unseen   stage = iota // waits for a look-up
	asked                 // something is asked of the records or the broker about it
	waiting               // here, for a short time
	ready                 // may run
	running               // has a slot
	settling              // its outcome is being written
)

// item is one message in hand. The loop owns it; the goroutine that runs it
// reads what does not change meanwhile (msg, brokerID, typ, attempts, crashes,
// suspect, mustClaim, and token before it has claimed).
type item struct {
	msg      message
	brokerID string
	delivery Delivery // newest; a redelivery replaces it
	twins    []*item  // the same message in other deliveries
	stage    stage
	gone     bool      // it is out of our hands: an answer about it comes too late
	late     bool      // it came out of a backlog
	seenAt   time.Time // first, over all copies

	// decided at admission
	typ        Type
	plugin     string
	level      int
	lookedUpAt time.Time
	watchers   []Watcher

	// of its attempts
	mustClaim   bool
	token       string // of our claim; "": not claimed
	held        *lease // renews it; nil: nothing does
	stop        context.CancelCauseFunc
	again       bool // it waits here for its next attempt
	losses      int  // of claims, since the store was too slow to renew them
	attempts    int  // of this round that ended, over all copies
	rounds      int  // redeliveries before this round
	crashes     int  // of its plugin, over all copies
	deaths      int  // of engines that ran it alone, one after the other
	suspect     bool // an engine died with it in hand: it runs alone
	probe       bool // its plugin is tried with it; see Engine.probes
	firstFailed time.Time
	waited, ran time.Duration // before the last one, and in it

	// of what its watchers are told
	last       Status
	progressAt time.Time   // when they were last told of progress
	owed       *time.Timer // until the last one, which is progress, is told; nil: it was

	// of its places in queues
	readySeq  uint64
	readyAt   time.Time // when it came into the ready queue
	wakeAt    time.Time
	heapIndex int
}

// key is how the table of items in hand finds it.
func (it *item) key() string { return it.msg.id }

// claimFor asks for the message in the name of this delivery; with the token of
// a claim that it has already, to renew that. After losses it asks for more time,
// or it would never be done on a slow store.
func (it *item) claimFor(token string) Claim {
	now := time.Now()
	return Claim{
		ID: it.msg.id, Type: it.msg.typ, Digest: it.msg.digest, Priority: it.msg.priority, Hop: it.msg.hop,
		Mark: ClaimMark{Token: token, BrokerID: it.brokerID, Until: now.Add(min(firstLease<<min(it.losses, 3), claimLease)), Alone: it.suspect}, Now: now,
	}
}

// expired says whether it is too late to begin.
func (it *item) expired(now time.Time) bool {
	return !it.msg.expires.IsZero() && !now.Before(it.msg.expires)
}

// waitingSince is when it could first have run: for what is tried again, since
// its wait here was over.
func (it *item) waitingSince() time.Time {
	return later(it.msg.queuedAt, it.wakeAt)
}

// kind is what decides with others like it whether it may run.
func (it *item) kind() kind {
	k := kind{typ: it.msg.typ, plugin: it.plugin}
	switch {
	case it.suspect:
		k.company = nobodyBeside
	case it.crashes >= maxCrashes-1:
		k.company = ownProcess
	case it.probe:
		k.company = probing
	}
	return k
}

// levelOf is the level a message is ordered by.
func (e *Engine) levelOf(m message) int {
	level := m.priority
	if t, ok := e.cfg.Types[m.typ]; ok {
		if t.MinLevel != nil {
			level = max(level, *t.MinLevel)
		}
		if t.MaxLevel != nil {
			level = min(level, *t.MaxLevel)
		}
	}
	return level
}

// tries is what was tried of a message that a lost session took out of our hands.
type tries struct {
	hop, attempts, crashes int
	firstFailed            time.Time
}

// letGo forgets an item that the broker delivers again, but not what was tried.
func (e *Engine) letGo(it *item) {
	e.remember(it)
	e.forget(it)
}

// remember keeps what was tried for when the message is delivered again.
func (e *Engine) remember(it *item) {
	if it.attempts == it.msg.attempts && it.crashes == 0 {
		return
	}
	if len(e.tried) >= maxTried {
		clear(e.tried)
	}
	e.tried[it.msg.id] = tries{it.msg.hop, it.attempts, it.crashes, it.firstFailed}
}

// recall gives an item what was tried of its message.
func (e *Engine) recall(it *item) {
	if t, ok := e.tried[it.msg.id]; ok && t.hop == it.msg.hop {
		it.attempts, it.crashes, it.firstFailed = max(it.attempts, t.attempts), max(it.crashes, t.crashes), orTime(t.firstFailed, it.firstFailed)
	}
}

// newItem is a delivery at the beginning of its life in our hands.
func (e *Engine) newItem(m message, d Delivery) *item {
	if _, copied := m.headers[HeaderHop]; !copied && e.cfg.Types[m.typ].Dedupe == DedupeOff {
		m.id = d.BrokerID
	}
	it := &item{
		msg: m, brokerID: d.BrokerID, delivery: d, attempts: m.attempts, rounds: m.rounds, seenAt: m.queuedAt,
		level: e.levelOf(m), mustClaim: true, firstFailed: m.firstFailed,
	}
	it.plugin, _ = e.cfg.Handler.Plugin(m.typ)
	return it
}

// comes counts an item that is looked up and came out of a backlog: lower
// levels wait for those. Of messages that have just been sent, none is known
// to be older than the one that would overtake it.
func (e *Engine) comes(it *item, n int) {
	if it.late {
		e.coming[it.level][it.kind()] += n
	}
}

// isComing says whether a message of the level is being looked up that could
// take a slot now.
func (e *Engine) isComing(level int, may func(kind) bool) bool {
	for k, n := range e.coming[level] {
		if n > 0 && may(k) {
			return true
		}
	}
	return false
}

// finalSeq is added to the counter of a final status, so that nothing of the
// same hop comes after it, whatever the clocks of other engines say.
const finalSeq = 1 << 52

// seqAt is the place of a status among those of its message: by hop, and within
// it by the time it was told, in microseconds since 1970. So it only grows over
// restarts and from one engine to the next.
func seqAt(hop int, at time.Time, s State) Seq {
	seq := Seq{hop, int(at.UnixMicro())}
	if s.Final() {
		seq.Count += finalSeq
	}
	return seq
}

// status makes the next status of the item.
func (it *item) status(s State, now time.Time) Status {
	st := Status{
		V: StatusVersion, ID: it.msg.id, State: s, At: now.UTC(), Seq: seqAt(it.msg.hop, now, s),
		Attempt: it.attempts, Of: it.typ.Attempts,
	}
	if !it.last.Seq.Less(st.Seq) {
		st.Seq.Count = it.last.Seq.Count + 1 // the same microsecond
	}
	if s == Processing {
		st.Attempt++
	}
	it.last = st
	return st
}

// Snapshot is the record as a status, for somebody who begins to watch. One that
// is queued may have been made by that watching, so it sorts before all that the
// engine has told.
func (r Record) Snapshot(now time.Time) Status {
	s := Status{
		V: StatusVersion, ID: r.ID, State: r.State, At: now.UTC(), Seq: seqAt(r.Hop, r.UpdatedAt, r.State), Attempt: r.Attempts,
	}
	if r.State == Queued {
		s.Seq.Count = 0
	}
	if (r.State == Delayed || r.State == Retrying) && !r.Due.IsZero() {
		due := r.Due
		s.NextAt = &due
	}
	return s
}
