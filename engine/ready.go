package engine

import "container/heap"

// readyQueue holds the messages that may run, by level and plugin; within one
// level and plugin, by arrival. The loop owns it.
type readyQueue struct {
	levels [Levels]map[string]*fifo
	counts [Levels]int
	seq    uint64
}

// fifo is a queue whose head is found and taken in constant time.
type fifo struct{ items []*item }

func (q *readyQueue) push(it *item) {
	if q.levels[it.level] == nil {
		q.levels[it.level] = map[string]*fifo{}
	}
	f := q.levels[it.level][it.plugin]
	if f == nil {
		f = &fifo{}
		q.levels[it.level][it.plugin] = f
	}
	q.seq++
	it.readySeq = q.seq
	f.items = append(f.items, it)
	q.counts[it.level]++
}

// pop takes the oldest item of the level whose plugin has credit, or nil.
func (q *readyQueue) pop(level int, credit func(plugin string) bool) *item {
	if q.counts[level] == 0 {
		return nil
	}
	var best *fifo
	for plugin, f := range q.levels[level] {
		if len(f.items) == 0 || best != nil && best.items[0].readySeq < f.items[0].readySeq {
			continue
		}
		if credit(plugin) {
			best = f
		}
	}
	if best == nil {
		return nil
	}
	it := best.items[0]
	best.items[0] = nil
	best.items = best.items[1:]
	q.counts[level]--
	return it
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
