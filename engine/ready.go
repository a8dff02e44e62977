package engine

import (
	"container/heap"
	"slices"
	"time"
)

// kind is what decides together whether messages may run: their type, whose
// limits count, the plugin that serves it, whose credit does, and beside which others.
type kind struct {
	typ, plugin string
	company     company
}

// company is beside which others a message may run.
type company int

const (
	anybody      company = iota
	probing              // any: its plugin is tried with it
	ownProcess           // any, but in a plugin process of its own: it is suspected of crashing plugins
	nobodyBeside         // none in this engine: it is suspected of ending engines
)

// readyQueue holds the messages that may run, by level and kind; within one
// level and kind, by arrival. The loop owns it.
type readyQueue struct {
	levels [Levels]map[kind]*fifo
	counts [Levels]int
	seq    uint64
}

// fifo is a queue whose head is found and taken in constant time.
type fifo struct{ items []*item }

func (q *readyQueue) push(it *item) {
	k := it.kind()
	if q.levels[it.level] == nil {
		q.levels[it.level] = map[kind]*fifo{}
	}
	f := q.levels[it.level][k]
	if f == nil {
		f = &fifo{}
		q.levels[it.level][k] = f
	}
	q.seq++
	it.readySeq = q.seq
	f.items = append(f.items, it)
	q.counts[it.level]++
}

// pop takes the oldest item of the level whose kind may run, or nil.
func (q *readyQueue) pop(level int, may func(kind) bool) *item {
	return q.take(q.oldest(level, may))
}

// popBelow takes the oldest item of all levels below the given one.
func (q *readyQueue) popBelow(level int, may func(kind) bool) *item {
	var best *fifo
	for l := range level {
		if f := q.oldest(l, may); f != nil && (best == nil || f.items[0].readySeq < best.items[0].readySeq) {
			best = f
		}
	}
	return q.take(best)
}

// oldest is the queue of the level whose head came first, of those that may run.
func (q *readyQueue) oldest(level int, may func(kind) bool) *fifo {
	if q.counts[level] == 0 {
		return nil
	}
	var best *fifo
	for k, f := range q.levels[level] {
		if len(f.items) == 0 || best != nil && best.items[0].readySeq < f.items[0].readySeq {
			continue
		}
		if may(k) {
			best = f
		}
	}
	return best
}

func (q *readyQueue) take(f *fifo) *item {
	if f == nil {
		return nil
	}
	it := f.items[0]
	f.items[0] = nil
	f.items = f.items[1:]
	q.counts[it.level]--
	return it
}

// takeIf takes all that is of such kinds.
func (q *readyQueue) takeIf(is func(kind) bool) []*item {
	var taken []*item
	for level := range q.levels {
		for k, f := range q.levels[level] {
			if len(f.items) > 0 && is(k) {
				taken = append(taken, f.items...)
				q.counts[level] -= len(f.items)
				f.items = nil
			}
		}
	}
	return taken
}

// overfull takes what each kind that does not stay has in the queue of a level
// beyond keep: the newest, which would stand longest.
func (q *readyQueue) overfull(level, keep int, stays func(kind) bool) []*item {
	var over []*item
	for k, f := range q.levels[level] {
		if len(f.items) > keep && !stays(k) {
			over = append(over, f.items[keep:]...)
			f.items = f.items[:keep:keep]
		}
	}
	q.counts[level] -= len(over)
	return over
}

// stale takes what each kind has had in the queue of a level since before then, beyond
// the first keep.
func (q *readyQueue) stale(level, keep int, then time.Time) []*item {
	var taken []*item
	for k, f := range q.levels[level] {
		end := slices.IndexFunc(f.items, func(it *item) bool { return !it.readyAt.Before(then) })
		if end < 0 {
			end = len(f.items)
		}
		if k.company == anybody && end > keep {
			taken = append(taken, f.items[keep:end]...)
			f.items = slices.Concat(f.items[:keep], f.items[end:])
		}
	}
	q.counts[level] -= len(taken)
	return taken
}

// waitHeap orders items by when they go on.
type waitHeap []*item

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].wakeAt.Before(h[j].wakeAt) }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

// Push is for package heap.
func (h *waitHeap) Push(x any) {
	it, ok := x.(*item)
	if !ok {
		panic("engine: waitHeap takes items")
	}
	it.heapIndex = len(*h)
	*h = append(*h, it)
}

// Pop is for package heap.
func (h *waitHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

func (h *waitHeap) remove(it *item) { heap.Remove(h, it.heapIndex) }
