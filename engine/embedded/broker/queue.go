package broker

import (
	"container/heap"
	"math/bits"

	"usher/engine"
)

// kind is what sort of destination a queue is.
type kind uint8

const (
	kindQueue kind = iota // durable
	kindTemp              // of one connection, in memory
	kindTopic             // handed to who listens, and forgotten
)

// queue is a destination. The core's lock guards all that changes.
type queue struct {
	kind  kind
	id    int64  // in the store
	name  string // without its kind's prefix
	owner *conn  // of a temporary queue: who made it

	levels    [engine.Levels]level
	occupied  uint16 // a bit for each level that may have messages
	waiting   int
	expiring  int // of the waiting ones, those that expire some day
	inFlight  int
	scheduled int
	enqueued  uint64
	dequeued  uint64

	subs []*subscription
	next int // whose turn it is

	touched bool // it is in the core's list of that name
	stored  bool // it has its row in the store; the committer's
}

// level is the messages of one priority: those that came back, in their old
// order, before the others by arrival.
type level struct {
	returned bySeq
	fresh    fifo
}

// put adds a message that arrived.
func (q *queue) put(m *message) {
	q.levels[m.priority].fresh.push(m)
	q.count(m, 1)
}

// putBack adds a message that was given out before. All that were given out are
// older than all that were not.
func (q *queue) putBack(m *message) {
	heap.Push(&q.levels[m.priority].returned, m)
	q.count(m, 1)
}

func (q *queue) count(m *message, n int) {
	q.occupied |= 1 << m.priority
	q.waiting += n
	if m.expires > 0 && m.flags&dead == 0 {
		q.expiring += n
	}
}

// take removes the first message of the highest level; nil if there is none.
func (q *queue) take() *message {
	for q.occupied != 0 {
		p := bits.Len16(q.occupied) - 1
		l := &q.levels[p]
		var m *message
		if len(l.returned) > 0 {
			m = heap.Pop(&l.returned).(*message)
		} else {
			m = l.fresh.pop()
		}
		if m != nil {
			q.count(m, -1)
			return m
		}
		q.occupied &^= 1 << p
	}
	return nil
}

// oldest is the stamp of the message that waits the longest, by the heads of
// the levels; 0 if nothing waits.
func (q *queue) oldest() int64 {
	var stamp int64
	for i := range q.levels {
		l := &q.levels[i]
		m := l.fresh.peek()
		if len(l.returned) > 0 {
			m = l.returned[0]
		}
		if m != nil && (stamp == 0 || m.stamp < stamp) {
			stamp = m.stamp
		}
	}
	return stamp
}

// turn picks who gets the next message: in rotation, of those with a free place
// in their window and room on their connection.
func (q *queue) turn() *subscription {
	for range q.subs {
		q.next++
		if q.next >= len(q.subs) {
			q.next = 0
		}
		if s := q.subs[q.next]; s.used < s.window && s.conn.out.room() {
			return s
		}
	}
	return nil
}

// takeLate removes what has expired from a level's messages that came back.
func (q *queue) takeLate(p int, now int64) (late []*message) {
	l := &q.levels[p]
	kept := l.returned[:0]
	for _, m := range l.returned {
		if m.expired(now) {
			late = append(late, m)
			q.count(m, -1)
		} else {
			kept = append(kept, m)
		}
	}
	clear(l.returned[len(kept):])
	l.returned = kept
	heap.Init(&l.returned)
	return late
}

// takeLateFrom removes what has expired from a block, and leaves holes.
func (q *queue) takeLateFrom(at *block, now int64) (late []*message) {
	for i, m := range at.msgs {
		if m != nil && m.expired(now) {
			at.msgs[i] = nil
			q.count(m, -1)
			late = append(late, m)
		}
	}
	return late
}

// bySeq is a heap, the first to have arrived on top.
type bySeq []*message

func (h bySeq) Len() int           { return len(h) }
func (h bySeq) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h bySeq) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *bySeq) Push(x any)        { *h = append(*h, x.(*message)) }
func (h *bySeq) Pop() any          { return popLast((*[]*message)(h)) }

func popLast(list *[]*message) *message {
	old := *list
	m := old[len(old)-1]
	old[len(old)-1] = nil
	*list = old[:len(old)-1]
	return m
}

// fifo is a queue of messages in blocks, so that it never copies and gives its
// memory back. A message taken out of the middle leaves a hole, a nil.
type fifo struct {
	head, tail *block
	first, end int // the next to pop in head, the next free in tail
}

const blockLen = 256

type block struct {
	next *block
	msgs [blockLen]*message
}

func (f *fifo) push(m *message) {
	switch {
	case f.tail == nil:
		f.head = &block{}
		f.tail, f.first, f.end = f.head, 0, 0
	case f.end == blockLen:
		f.tail.next = &block{}
		f.tail, f.end = f.tail.next, 0
	}
	f.tail.msgs[f.end] = m
	f.end++
}

// peek returns the first message, and drops the holes before it; nil if the
// fifo is empty.
func (f *fifo) peek() *message {
	for f.head != nil {
		if f.head == f.tail && f.first == f.end {
			*f = fifo{}
			return nil
		}
		if f.first == blockLen {
			f.head, f.first = f.head.next, 0
			continue
		}
		if m := f.head.msgs[f.first]; m != nil {
			return m
		}
		f.first++
	}
	return nil
}

func (f *fifo) pop() *message {
	m := f.peek()
	if m != nil {
		f.head.msgs[f.first] = nil
		f.first++
	}
	return m
}
