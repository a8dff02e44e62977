package session

import (
	"context"
	"errors"
	"sync"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

const (
	// outboxBytes is how much may wait to be written before those who write wait.
	outboxBytes = 1 << 20
	// keepBytes is the largest buffer that is used again.
	keepBytes = 256 << 10
)

// ErrNotSent says that nothing of a frame has left, because the session had ended.
var ErrNotSent = errors.New("the session has ended")

// outbox is what waits to be written to one connection: frames, encoded by those
// who send them, one behind the other. So a frame belongs to its sender again
// when put returns, and what comes together leaves together. It is safe for
// concurrent use.
type outbox struct {
	wake chan struct{} // signalled when something was put; the writer receives

	mu      sync.Mutex // guards the rest
	version stompframe.Version
	pending []byte
	closed  bool
	space   chan struct{} // closed and replaced when pending is taken
}

func newOutbox(v stompframe.Version) *outbox {
	return &outbox{version: v, wake: make(chan struct{}, 1), space: make(chan struct{})}
}

// put encodes f. It waits while too much is pending, until ctx or the session
// ends; the error is then ctx's or ErrNotSent, and nothing of f will be sent.
func (o *outbox) put(ctx context.Context, f *frame.Frame) error {
	for {
		space, err := o.tryPut(f)
		if space == nil {
			return err
		}
		select {
		case <-space:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryPut returns a channel to wait on if there is no space.
func (o *outbox) tryPut(f *frame.Frame) (<-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, ErrNotSent
	}
	if len(o.pending) >= outboxBytes {
		return o.space, nil
	}
	var err error
	o.pending, err = stompframe.Append(o.pending, o.version, f)
	if err == nil {
		signal(o.wake)
	}
	return nil, err
}

// take returns what is pending and gives the outbox other memory in its place.
func (o *outbox) take(memory []byte) []byte {
	if cap(memory) > keepBytes {
		memory = nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.pending
	o.pending = memory[:0]
	if len(taken) >= outboxBytes && !o.closed {
		close(o.space)
		o.space = make(chan struct{})
	}
	return taken
}

// close lets those who wait go, and refuses what comes later.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed = true
		close(o.space)
	}
}

// signal makes a channel of capacity 1 readable; signals merge.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
