package session

import (
	"strconv"
	"sync"
)

// receipts are the requests that wait for the broker's answer, each under its
// receipt id. An answer that nobody waits for any more is ignored. It is safe for
// concurrent use.
type receipts struct {
	mu      sync.Mutex // guards the rest
	last    uint64
	waiting map[string]chan<- error
}

// add gives an id, and the channel of capacity 1 that its answer comes on.
func (r *receipts) add() (string, <-chan error) {
	answer := make(chan error, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	id := "r-" + strconv.FormatUint(r.last, 10)
	if r.waiting == nil {
		r.waiting = map[string]chan<- error{}
	}
	r.waiting[id] = answer
	return id, answer
}

// resolve answers the request; nil is a RECEIPT.
func (r *receipts) resolve(id string, err error) {
	r.mu.Lock()
	answer, ok := r.waiting[id]
	delete(r.waiting, id)
	r.mu.Unlock()
	if ok {
		answer <- err // it has room for the one answer
	}
}

// drop forgets the request: whoever asked does not wait any more.
func (r *receipts) drop(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
}

// count is how many requests wait.
func (r *receipts) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}
