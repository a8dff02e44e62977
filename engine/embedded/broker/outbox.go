package broker

import (
	"sync"

	"github.com/go-stomp/stomp/v3/frame"
)

// outItem is one frame to write: a delivery, or a frame that is ready.
type outItem struct {
	d     *delivery
	frame *frame.Frame
}

// outbox is what waits for a connection's writer, and the account of what the
// connection has under way. It is bounded: deliveries pause when there is no
// room, and the reader pauses when too much is under way, so that a client that
// does not read costs a fixed amount of memory and nobody else's time. Its lock
// is a leaf.
type outbox struct {
	mu         sync.Mutex
	items      []outItem
	deliveries int
	bytes      int  // of the deliveries
	starved    bool // a delivery was held back for want of room
	ended      bool // nothing more is taken; what is in it still goes out

	requests     int // with the committer
	requestBytes int

	wake     chan struct{} // one signal to the writer
	progress chan struct{} // one signal to the reader
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), progress: make(chan struct{}, 1)}
}

// room says whether there is room for a delivery; if not, take will tell.
func (o *outbox) room() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	if o.deliveries >= outDeliveries || o.bytes >= outBytes {
		o.starved = true
		return false
	}
	return true
}

// deliver adds a delivery.
func (o *outbox) deliver(d *delivery) {
	o.mu.Lock()
	o.items = append(o.items, outItem{d: d})
	o.deliveries++
	o.bytes += int(d.m.size)
	o.mu.Unlock()
	signal(o.wake)
}

// send adds a frame, room or not: the reader keeps their number down.
func (o *outbox) send(f *frame.Frame) {
	o.mu.Lock()
	if !o.ended {
		o.items = append(o.items, outItem{frame: f})
	}
	o.mu.Unlock()
	signal(o.wake)
}

// end lets nothing more in.
func (o *outbox) end() {
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	signal(o.wake)
}

// take empties the outbox. starved says that deliveries wait for the room that
// is free now; ended that this was the last.
func (o *outbox) take() (items []outItem, starved, ended bool) {
	o.mu.Lock()
	items, starved, ended = o.items, o.starved, o.ended
	o.items, o.deliveries, o.bytes, o.starved = nil, 0, 0, false
	o.mu.Unlock()
	signal(o.progress)
	return items, starved, ended
}

// handed notes a request to the committer.
func (o *outbox) handed(bytes int) {
	o.mu.Lock()
	o.requests++
	o.requestBytes += bytes
	o.mu.Unlock()
}

// finished notes that the committer is done with one.
func (o *outbox) finished(bytes int) {
	o.mu.Lock()
	o.requests--
	o.requestBytes -= bytes
	o.mu.Unlock()
	signal(o.progress)
}

// crowded says whether the connection has too much under way to take more from it.
func (o *outbox) crowded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.requests+len(o.items)-o.deliveries >= frontFrames || o.requestBytes >= frontBytes
}

// settled says whether the committer is done with all that the connection gave it.
func (o *outbox) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.requests == 0
}
