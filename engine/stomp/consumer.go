package stomp

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp/internal/session"
)

// feed is one subscription of a session: a queue with its own window.
type feed struct {
	lane   int // what its deliveries say: a level, Unsorted, or the place in a Subscriber's list
	id     string
	queue  string
	window int
	inHand atomic.Int64 // delivered and not acked
}

// laneFeeds are those of an engine: every lane of a queue, highest first.
func laneFeeds(queue string, window int) []*feed {
	var feeds []*feed
	for _, lane := range lanes() {
		feeds = append(feeds, &feed{lane: lane, id: laneID(lane), queue: laneQueue(queue, lane), window: window})
	}
	return feeds
}

// consumer is one consuming session, with its epoch.
type consumer struct {
	*session.Session
	epoch   uint64
	queue   string
	timeout time.Duration         // for the broker to answer
	feeds   []*feed               // in the order they are subscribed in
	byID    map[string]*feed      // of feeds, by id; not changed
	byLane  map[int]*feed         // likewise, by lane
	put     func(engine.Delivery) // takes a delivery, at once
	came    uint64                // deliveries; the reader's
	depths  depths

	probe   *probe // nil: this session sends none
	nudges  *nudges
	publish func(ctx context.Context, build func() *frame.Frame) error
	// filled says of each level that a message of it, and no probe, has come out of its lane.
	filled [engine.Levels]atomic.Bool
	life   context.Context //nolint:containedctx // ends with the session
	work   sync.WaitGroup  // goroutines of the probe; they end with life
}

// subscribe subscribes every feed, and waits until the broker has taken them all.
func (c *consumer) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer from the broker within %v", c.timeout))
	defer cancel()
	var asked []session.Pending
	defer func() {
		for _, p := range asked {
			p.Drop()
		}
	}()
	for _, f := range c.feeds {
		p, err := c.Ask(ctx, subscribeFrame(f.id, f.queue, f.window))
		if err != nil {
			return err
		}
		asked = append(asked, p)
	}
	for i, p := range asked {
		if err := p.Wait(ctx); err != nil {
			return fmt.Errorf("subscribe %s: %w", c.feeds[i].queue, err)
		}
	}
	return nil
}

// message takes a MESSAGE from the reader.
func (c *consumer) message(f *frame.Frame, skipped int64) error {
	id := f.Header.Get(frame.Subscription)
	if id == depthsID {
		c.depths.answer(f, c.came)
		return nil
	}
	if id == controlID {
		c.hear(f)
		return nil
	}
	from := c.byID[id]
	if from == nil {
		return fmt.Errorf("the broker sent a message for the subscription %q, which is not ours", id)
	}
	// A broker that does not keep to the window would fill our memory. It may
	// count an ack later than we do, never earlier; the rest is slack.
	if n := from.inHand.Add(1); n > int64(2*from.window+16) {
		return fmt.Errorf("the broker does not keep to the window of %d: %d messages of %s are in hand", from.window, n, from.queue)
	}
	d, err := deliveryOf(f, c.Version(), from.lane, skipped)
	if err != nil {
		return err
	}
	d.Epoch = c.epoch
	if s, ok := sightingOf(d); ok {
		c.work.Go(func() { c.settleProbe(d, s) }) // at most a window of them: none is acked before
		return nil
	}
	if lane := from.lane; c.probe != nil && lane >= 0 && d.Headers[engine.HeaderPriority] == strconv.Itoa(lane) {
		c.filled[lane].Store(true)
	}
	c.came++
	c.put(d)
	return nil
}

// ack puts an ACK on its way. It waits only while the outbox is full, which
// ends with the session.
func (c *consumer) ack(d engine.Delivery) {
	from := c.byLane[d.Lane]
	from.inHand.Add(-1)
	// An ack that is not sent is a redelivery: the session has ended.
	_ = c.Send(context.Background(), ackFrame(c.Version(), from.id, d.Ack))
}
