package engine

import "time"

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

// item is one message in hand. The loop owns it, but for the fields that the
// goroutine which runs or settles it needs: those do not change meanwhile.
type item struct {
	msg      message
	brokerID string
	delivery Delivery // newest; a redelivery replaces it
	twins    []Delivery
	stage    stage
	gone     bool      // the session ended before it ran: the broker delivers it again
	late     bool      // it came out of a backlog
	seenAt   time.Time // first, over all copies

	// decided at admission
	typ        Type
	plugin     string
	level      int
	lookedUpAt time.Time
	claims     int
	watchers   []Watcher

	// of its attempts
	mustClaim   bool
	token       string // of our claim; "": not claimed
	attempts    int    // that ended, over all copies
	crashes     int
	firstFailed time.Time
	statuses    int // told since this delivery came
	last        Status

	// of its places in queues
	readySeq  uint64
	wakeAt    time.Time
	heapIndex int
}

// key is how the table of items in hand finds it.
func (it *item) key() string { return it.msg.id }

// claimFor asks for the message in the name of this delivery; with the token of
// a claim that it has already, to renew that.
func (it *item) claimFor(token string) Claim {
	now := time.Now()
	return Claim{
		ID: it.msg.id, Type: it.msg.typ, Digest: it.msg.digest, Priority: it.msg.priority, Hop: it.msg.hop,
		Mark: ClaimMark{Token: token, BrokerID: it.brokerID, Until: now.Add(claimLease)}, Now: now,
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

// levelOf is the level a message is ordered by.
func (e *Engine) levelOf(m message) int {
	if t, ok := e.cfg.Types[m.typ]; ok && t.Priority != nil {
		return *t.Priority
	}
	return m.priority
}

// newItem is a delivery at the beginning of its life in our hands.
func (e *Engine) newItem(m message, d Delivery) *item {
	it := &item{
		msg: m, brokerID: d.BrokerID, delivery: d, attempts: m.attempts, seenAt: m.queuedAt,
		level: e.levelOf(m), mustClaim: true,
	}
	it.plugin, _ = e.cfg.Handler.Plugin(m.typ)
	return it
}

// comes counts an item that is looked up and came out of a backlog: lower
// levels wait for those. Of messages that have just been sent, none is known
// to be older than the one that would overtake it.
func (e *Engine) comes(it *item, n int) {
	if it.late {
		e.coming[it.level][it.plugin] += n
	}
}

// isComing says whether a message of the level is being looked up that could
// take a slot now.
func (e *Engine) isComing(level int, credit func(plugin string) bool) bool {
	for plugin, n := range e.coming[level] {
		if n > 0 && credit(plugin) {
			return true
		}
	}
	return false
}

// statusesPerClaim keeps the counters of a message's statuses apart that were
// made before and after a crash, so that they only grow within a hop.
const statusesPerClaim = 10_000

// status makes the next status of the item.
func (it *item) status(s State, now time.Time) Status {
	it.statuses = min(it.statuses+1, statusesPerClaim-2)
	st := Status{
		V: StatusVersion, ID: it.msg.id, State: s, At: now.UTC(),
		Seq:     Seq{it.msg.hop, it.claims*statusesPerClaim + it.statuses},
		Attempt: it.attempts, Of: it.typ.Attempts,
	}
	if s == Processing {
		st.Attempt++
	}
	it.last = st
	return st
}

// Snapshot is the record as a status, for somebody who begins to watch. It
// sorts before what the engine tells next, and after what it told before.
func (r Record) Snapshot(now time.Time) Status {
	s := Status{
		V: StatusVersion, ID: r.ID, State: r.State, At: now.UTC(),
		Seq: Seq{r.Hop, r.Claims * statusesPerClaim}, Attempt: r.Attempts,
	}
	if r.State.Final() {
		s.Seq.Count += statusesPerClaim - 1
	}
	if (r.State == Delayed || r.State == Retrying) && !r.Due.IsZero() {
		due := r.Due
		s.NextAt = &due
	}
	return s
}
