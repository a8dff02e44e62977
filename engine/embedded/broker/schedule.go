package broker

import (
	"container/heap"
	"time"
)

// byDue is a heap of scheduled messages, the next due on top.
type byDue []*message

func (h byDue) Len() int { return len(h) }
func (h byDue) Less(i, j int) bool {
	return h[i].due < h[j].due || h[i].due == h[j].due && h[i].seq < h[j].seq
}
func (h byDue) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byDue) Push(x any)   { *h = append(*h, x.(*message)) }
func (h *byDue) Pop() any     { return popLast((*[]*message)(h)) }

// plan puts a message into the schedule. The core's lock is held, or the broker
// is not running yet.
func (b *Broker) plan(m *message) {
	m.queue.scheduled++
	heap.Push(&b.schedule, m)
	if b.schedule[0] == m {
		signal(b.scheduled)
	}
}

// releaseLoop sends scheduled messages to their queues when they are due.
func (b *Broker) releaseLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-b.scheduled:
		case <-b.closing:
			return
		}
		wait, ok := b.release()
		if !ok {
			wait = time.Second // the disk failed; then try again
		}
		timer.Reset(min(wait, clockEvery))
	}
}

// release moves what is due and returns how long it is until the next.
func (b *Broker) release() (wait time.Duration, ok bool) {
	for {
		now := time.Now()
		moves, next := b.takeDue(now.UnixMilli())
		if len(moves) == 0 {
			return next.Sub(now), true // by the wall clock, which due is by
		}
		if !b.settleMoves(moves) {
			return 0, false
		}
	}
}

// takeDue takes what is due out of the schedule, and tells when the next is.
func (b *Broker) takeDue(now int64) (moves []move, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.schedule) > 0 && b.schedule[0].due <= now && len(moves) < releaseAtOnce {
		m := heap.Pop(&b.schedule).(*message)
		m.queue.scheduled--
		moves = append(moves, move{from: m, to: m.releasedAt(now)})
	}
	if len(b.schedule) == 0 {
		return moves, time.UnixMilli(now).Add(time.Hour)
	}
	return moves, time.UnixMilli(b.schedule[0].due)
}

// releasedAt is the message as it comes out of the schedule: sent now, and with
// its expiry moved by the time it has spent there, as ActiveMQ's scheduler does it.
func (m *message) releasedAt(now int64) *message {
	to := *m
	to.due, to.flags, to.stamp = 0, m.flags|released, now
	if m.expires > 0 {
		to.expires += now - m.stamp
	}
	return &to
}

// settleMoves has moves made and waits for it. It says whether they are durable.
func (b *Broker) settleMoves(moves []move) bool {
	done := make(chan error, 1)
	b.submit(&request{moves: moves, done: done})
	select {
	case err := <-done:
		return err == nil
	case <-b.closing:
		return true // the committer does what is left
	}
}

// bury makes the move of a message, which is in no queue now, to the
// dead-letter queue of its queue (ActiveMQ's individualDeadLetterStrategy). A
// message that was never durable has none: then ok is false and it is gone. The
// core's lock is held.
func (b *Broker) bury(m *message, expired bool) (_ move, ok bool) {
	m.queue.dequeued++
	if m.queue.kind != kindQueue {
		b.forgetData(m)
		return move{}, false
	}
	return move{from: m, to: m.buriedIn(b.queueNamed(prefixDead+m.queue.name), expired)}, true
}

func (m *message) buriedIn(q *queue, expired bool) *message {
	to := *m
	to.queue, to.origin, to.due = q, m.queue, 0
	to.flags = dead | m.flags&released
	if expired {
		to.flags |= late
	}
	if m.flags&dead != 0 {
		to.expires = 0 // it was void, and what it was belongs to another queue
	}
	return &to
}

// sweepLoop looks for expired messages that nobody takes.
func (b *Broker) sweepLoop() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			b.sweep(time.Now().UnixMilli())
		case <-b.closing:
			return
		}
	}
}

func (b *Broker) sweep(now int64) {
	b.mu.Lock()
	var queues []*queue
	for _, q := range b.queues {
		if q.expiring > 0 {
			queues = append(queues, q)
		}
	}
	b.mu.Unlock()
	for _, q := range queues {
		for p := range q.levels {
			if !b.sweepLevel(q, p, now) {
				return // the disk fails, or the broker closes
			}
		}
	}
}

// sweepBlocks is how many blocks are looked through before the lock is let go.
const sweepBlocks = 16

// sweepLevel buries what has expired in one level, a few blocks at a time. A
// block that is used up meanwhile has only holes, and leads on.
func (b *Broker) sweepLevel(q *queue, p int, now int64) bool {
	b.mu.Lock()
	late := q.takeLate(p, now)
	at := q.levels[p].fresh.head
	for {
		for n := 0; at != nil && n < sweepBlocks; n++ {
			late = append(late, q.takeLateFrom(at, now)...)
			at = at.next
		}
		var moves []move
		for _, m := range late {
			if v, ok := b.bury(m, true); ok {
				moves = append(moves, v)
			}
		}
		b.mu.Unlock()
		late = nil
		if len(moves) > 0 && !b.settleMoves(moves) {
			return false
		}
		if at == nil {
			return true
		}
		b.mu.Lock()
	}
}
