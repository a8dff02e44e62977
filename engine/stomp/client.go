package stomp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp/internal/session"
)

// DefaultQuiet is View.Quiet where it is zero.
const DefaultQuiet = time.Second

// Client sends messages and looks into queues, for command-line tools. It is
// safe for concurrent use.
type Client struct {
	dialer *dialer
	pool   *pool
}

// Dial checks the config and opens the connection that Send uses, so that a
// wrong address or passcode is known at once. The error of the latter has what
// each endpoint said. Config.Queue, Window and Publishers have no effect.
func Dial(ctx context.Context, config Config) (*Client, error) {
	dialer, err := newDialer(config)
	if err != nil {
		return nil, err
	}
	c := &Client{dialer: dialer, pool: newPool(1, dialer.dial)}
	if _, err := c.pool.publishers[0].session(ctx); err != nil {
		c.pool.close()
		return nil, err
	}
	return c, nil
}

// Send sends one persistent message and returns nil when the broker has it, by
// the rules of [Broker.Publish].
func (c *Client) Send(ctx context.Context, out engine.Outgoing) error {
	return c.pool.publish(ctx, out)
}

// View is a look into one queue.
type View struct {
	// Queue is what to look into, for example usher.dead.
	Queue string
	// Window is how many messages are in hand at most: delivered, and not acked.
	// 0 is 100. They are in memory together, with their bodies.
	Window int
	// Limit is how many messages are looked at in all; 0 is no limit. Whoever
	// acks what comes back to the same queue needs one.
	Limit int
	// Quiet is how long nothing has to come for the queue to count as seen
	// through; 0 is one second.
	Quiet time.Duration
}

func (v View) withDefaults() View {
	if v.Window <= 0 {
		v.Window = DefaultWindow
	}
	if v.Quiet <= 0 {
		v.Quiet = DefaultQuiet
	}
	return v
}

// ViewFunc looks at one message and says whether it is settled.
type ViewFunc func(engine.Delivery) (ack bool, err error)

// Consume gives f the messages of a queue one after the other, on the caller's
// goroutine, over a connection of its own. f says whether the message is
// settled, and is acked; what was sent in its place has to be sent before. An
// error of f ends Consume, without an ack for that message, and is returned.
// f may call Send.
//
// Consume returns nil when Limit messages were seen, when Window messages are in
// hand, for then no more can come, or when nothing came for Quiet. By then it
// has closed its connection, after the broker had taken every ack, and the
// broker delivers the messages that were not acked again, as redelivered. Any
// other error says that acks may be lost; those messages come again as well.
func (c *Client) Consume(ctx context.Context, v View, f ViewFunc) error {
	v = v.withDefaults()
	s, err := c.dialer.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	arrived := make(chan engine.Delivery, 2*v.Window+16) // what the window allows, and slack
	s.Start(func(f *frame.Frame, skipped int64) error {
		d, err := deliveryOf(f, s.Version(), engine.Unsorted, skipped)
		if err != nil {
			return err
		}
		select {
		case arrived <- d:
			return nil
		default:
			return fmt.Errorf("the broker does not keep to the window of %d", v.Window)
		}
	})
	err = s.Request(ctx, subscribeFrame(laneID(engine.Unsorted), v.Queue, v.Window))
	if err == nil {
		err = view(ctx, s, v, arrived, f)
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectTimeout)
	defer cancel()
	if err = errors.Join(err, s.Disconnect(bye)); err != nil {
		return fmt.Errorf("stomp: consume %s: %w", v.Queue, err)
	}
	return nil
}

// view is Consume's loop.
func view(ctx context.Context, s *session.Session, v View, arrived <-chan engine.Delivery, f ViewFunc) error {
	quiet := time.NewTimer(v.Quiet)
	defer quiet.Stop()
	inHand := 0
	for seen := 0; (v.Limit == 0 || seen < v.Limit) && inHand < v.Window; seen++ {
		var d engine.Delivery
		select {
		case d = <-arrived:
		case <-quiet.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Done():
			return s.Err()
		}
		ack, err := f(d)
		if err != nil {
			return err
		}
		if !ack {
			inHand++
		} else if err := s.Send(ctx, ackFrame(s.Version(), laneID(engine.Unsorted), d.Ack)); err != nil {
			return err
		}
		quiet.Reset(v.Quiet)
	}
	return nil
}

// Close ends the connection that Send uses. It may be called more than once and
// returns nil.
func (c *Client) Close() error {
	c.pool.close()
	return nil
}
