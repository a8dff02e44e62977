package stomp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp/internal/session"
)

// ErrClosed is returned by the methods of a Broker or a Client after its Close.
var ErrClosed = errors.New("stomp: closed")

// disconnectTimeout is how long an orderly end may take.
const disconnectTimeout = 2 * time.Second

// dialFunc opens a session to the first endpoint that answers.
type dialFunc func(ctx context.Context) (*session.Session, error)

// pool is the connections that messages are sent on, used in turn. It is safe
// for concurrent use.
type pool struct {
	publishers []*publisher
	turn       atomic.Uint64
}

func newPool(n int, dial dialFunc) *pool {
	p := &pool{}
	for range n {
		ctx, cancel := context.WithCancel(context.Background())
		p.publishers = append(p.publishers, &publisher{dial: dial, life: ctx, end: cancel})
	}
	return p
}

// publish sends one persistent message and waits until the broker has it.
func (p *pool) publish(ctx context.Context, out engine.Outgoing) error {
	if err := p.request(ctx, func() *frame.Frame { return sendFrame(out) }); err != nil {
		return fmt.Errorf("stomp: publish to %s: %w", out.Queue, err)
	}
	return nil
}

// request sends a frame and waits for the broker's receipt. It does not retry,
// but for one new connection when nothing was written on the old one; build is
// called for each, since a frame takes the receipt header of its session.
func (p *pool) request(ctx context.Context, build func() *frame.Frame) error {
	publisher := p.publishers[p.turn.Add(1)%uint64(len(p.publishers))]
	for again := true; ; again = false {
		s, err := publisher.session(ctx)
		if err != nil {
			return err
		}
		err = s.Request(ctx, build())
		if !again || !errors.Is(err, session.ErrNotSent) {
			return err
		}
	}
}

// close ends every connection and waits for their goroutines.
func (p *pool) close() {
	var wg sync.WaitGroup
	for _, publisher := range p.publishers {
		wg.Go(publisher.close)
	}
	wg.Wait()
}

// publisher is one connection, opened when it is needed.
type publisher struct {
	dial dialFunc
	life context.Context //nolint:containedctx // of the attempts to dial, which outlive the call that began them
	end  context.CancelFunc

	mu      sync.Mutex       // guards the rest
	current *session.Session // the last; it may have ended
	dialing *dialing         // nil: not now
	wg      sync.WaitGroup
}

// dialing is one attempt to connect, which all wait for who want to publish.
type dialing struct {
	done    chan struct{} // closed when the rest is set
	session *session.Session
	err     error
}

// session returns the connection that stands, or joins an attempt to make it.
func (p *publisher) session(ctx context.Context) (*session.Session, error) {
	p.mu.Lock()
	if p.life.Err() != nil {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if p.current != nil && p.current.Err() == nil {
		defer p.mu.Unlock()
		return p.current, nil
	}
	d := p.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		p.dialing = d
		old := p.current
		p.wg.Go(func() { p.attempt(d, old) })
	}
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.session, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *publisher) attempt(d *dialing, old *session.Session) {
	if old != nil {
		old.Close() // it has ended; this waits for its goroutines
	}
	d.session, d.err = p.dial(p.life)
	if d.err == nil {
		d.session.Start(func(*frame.Frame, int64) error {
			return errors.New("the broker sent a message to a connection that has no subscription")
		})
	}
	if p.life.Err() != nil && d.err != nil {
		d.err = ErrClosed
	}
	p.mu.Lock()
	p.current, p.dialing = d.session, nil
	p.mu.Unlock()
	close(d.done)
}

func (p *publisher) close() {
	p.mu.Lock()
	p.end()
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
	s := p.current
	p.mu.Unlock()
	if s != nil {
		ctx, cancel := context.WithTimeout(context.Background(), disconnectTimeout)
		defer cancel()
		_ = s.Disconnect(ctx) // every message was confirmed by its own receipt
	}
}
