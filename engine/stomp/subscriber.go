package stomp

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"usher/engine"
)

// widest is the widest window that a Subscriber gives to a queue. By then so much
// has been left in it that somebody has to look.
const widest = 10_000

// Subscriber takes what comes in some queues, each with a window of its own, and
// begins again when the session is lost. What cannot be taken is left where it is
// and makes no queue stand still. It is safe for concurrent use.
type Subscriber struct {
	broker *Broker
	queues []string

	mu      sync.Mutex // guards the rest
	epoch   uint64     // in which left counts
	left    []int      // by queue
	windows []int      // by queue, of the next session
}

// NewSubscriber makes a Subscriber of a config and the names of the queues, or
// reports all that is wrong. Config.Window is that of each queue; Config.Queue,
// Publishers and Probe have no effect. It connects to nothing yet.
func NewSubscriber(config Config, queues []string) (*Subscriber, error) {
	config.Probe = false
	b, err := New(config)
	if len(queues) == 0 {
		err = errors.Join(err, errors.New("stomp: a Subscriber needs queues"))
	}
	if err != nil {
		return nil, err
	}
	s := &Subscriber{broker: b, queues: slices.Clone(queues), left: make([]int, len(queues)), windows: make([]int, len(queues))}
	for i := range queues {
		s.windows[i] = b.config.Window
	}
	b.feeds = s.feeds
	return s, nil
}

func (s *Subscriber) feeds() []*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	feeds := make([]*feed, len(s.queues))
	for i, queue := range s.queues {
		feeds[i] = &feed{lane: i, id: "queue-" + strconv.Itoa(i), queue: queue, window: s.windows[i]}
	}
	return feeds
}

// Run keeps a session up until ctx ends or the Subscriber is closed; see [Broker.Run].
func (s *Subscriber) Run(ctx context.Context) error { return s.broker.Run(ctx) }

// Receive returns everything that has arrived; see [engine.Broker]. The Lane of a
// delivery is the place of its queue in the list.
func (s *Subscriber) Receive(ctx context.Context) (engine.Batch, error) { return s.broker.Receive(ctx) }

// Ack takes a delivery out of its queue; see [Broker.Ack].
func (s *Subscriber) Ack(d engine.Delivery) error { return s.broker.Ack(d) }

// Queue names the queue that a delivery came from.
func (s *Subscriber) Queue(d engine.Delivery) string { return s.queues[d.Lane] }

// Leave leaves a delivery in its queue: it is not acked, and comes again with each
// new session. When half of a window is taken by what was left, the session is
// renewed with a window twice as wide, up to 10,000; what comes again by that is
// bounded by as much again. A delivery of an older session is nothing to leave.
func (s *Subscriber) Leave(d engine.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.Epoch < s.epoch {
		return
	}
	if d.Epoch > s.epoch {
		s.epoch = d.Epoch
		clear(s.left)
	}
	s.left[d.Lane]++
	window := s.windows[d.Lane]
	if 2*s.left[d.Lane] < window {
		return
	}
	if window >= widest {
		if s.left[d.Lane] == window {
			s.broker.config.Log.Error().Str("queue", s.queues[d.Lane]).Int("left", window).
				Msg("a queue stands still: all that may be in hand of it was left there")
		}
		return
	}
	s.windows[d.Lane] = min(2*window, widest)
	select {
	case s.broker.renewal <- struct{}{}:
	default:
	}
}

// Health says how the session is. It does not block.
func (s *Subscriber) Health() Health { return s.broker.Health() }

// Close ends Run. It may be called more than once, and before Run. It returns nil.
func (s *Subscriber) Close() error { return s.broker.Close() }
