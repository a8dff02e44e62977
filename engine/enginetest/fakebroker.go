package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"usher/engine"
)

// ErrDisconnected is what FakeBroker answers while there is no session.
var ErrDisconnected = errors.New("enginetest: the broker is not connected")

// FakeBroker is a broker in memory, for tests of the engine. It sorts the work
// queue into lanes by priority, gives each lane a window, delays what has
// AMQ_SCHEDULED_DELAY, and delivers again what was not acked when its session
// ended. Time is the time package's, so that it works inside testing/synctest
// when it is made there. What its Faults are told of CallPublish goes wrong.
// It is safe for concurrent use, but for Receive, which one goroutine calls.
type FakeBroker struct {
	Faults

	changed chan struct{} // signalled, merged into one, when Receive may have something

	mu        sync.Mutex // guards the rest
	window    int
	lanes     map[int]*fakeLane
	others    map[string][]engine.Outgoing
	published []engine.Outgoing
	acked     []string
	sessions  uint64 // until now
	connected bool
	told      uint64 // the epoch that Receive gave last
	toldOnce  bool
	closed    bool
	unsorted  bool
	silent    bool
	scheduled int
	ids       int
}

// fakeLane is one queue that the engine is subscribed to.
type fakeLane struct {
	waiting []engine.Delivery
	inHand  []engine.Delivery // in the order they were delivered
}

var _ engine.Broker = (*FakeBroker)(nil)

// NewFakeBroker makes an empty broker with a session and with windows of
// engine.DefaultWindow.
func NewFakeBroker() *FakeBroker {
	b := &FakeBroker{
		changed: make(chan struct{}, 1), window: engine.DefaultWindow, lanes: map[int]*fakeLane{},
		others: map[string][]engine.Outgoing{}, sessions: 1, connected: true,
	}
	for lane := engine.Unsorted; lane < engine.Levels; lane++ {
		b.lanes[lane] = &fakeLane{}
	}
	return b
}

// SetWindow sets how many un-acked messages each lane gives.
func (b *FakeBroker) SetWindow(n int) {
	b.do(func() { b.window = n })
}

// SetSorted says whether the work queue is sorted into lanes, as it is unless
// told otherwise. If not, its messages come as Unsorted, higher priorities first.
func (b *FakeBroker) SetSorted(sorted bool) {
	b.do(func() { b.unsorted = !sorted })
}

// SetStatistics says whether Depths answers, as it does unless told otherwise.
func (b *FakeBroker) SetStatistics(on bool) {
	b.do(func() { b.silent = !on })
}

// Send puts a message into a queue as a producer does, session or not, and
// returns its message-id. A scheduled one arrives when its delay has passed.
func (b *FakeBroker) Send(out engine.Outgoing) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.send(out)
}

// Publish is Send for the engine. It fails with ErrDisconnected while there is
// no session.
func (b *FakeBroker) Publish(ctx context.Context, out engine.Outgoing) error {
	return b.around(ctx, CallPublish, func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.connected || b.closed {
			return ErrDisconnected
		}
		b.send(out)
		b.published = append(b.published, cloneOutgoing(out))
		return nil
	})
}

// Receive gives all that the windows allow.
func (b *FakeBroker) Receive(ctx context.Context) (engine.Batch, error) {
	for {
		batch, ok, err := b.take()
		if ok || err != nil {
			return batch, err
		}
		select {
		case <-b.changed:
		case <-ctx.Done():
			return engine.Batch{}, ctx.Err()
		}
	}
}

// take makes a batch; ok says whether there is something to tell.
func (b *FakeBroker) take() (batch engine.Batch, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return batch, false, errClosed
	}
	batch.Epoch = b.epoch()
	if b.connected {
		batch.Deliveries = b.deliver()
	}
	ok = len(batch.Deliveries) > 0 || batch.Epoch != b.told || !b.toldOnce
	b.told, b.toldOnce = batch.Epoch, true
	return batch, ok, nil
}

// deliver feeds all lanes alike, as brokers do: one message of each, highest
// lane first, until the windows are full. The lock is held here.
func (b *FakeBroker) deliver() []engine.Delivery {
	var out []engine.Delivery
	for {
		before := len(out)
		for i := engine.Levels - 1; i >= engine.Unsorted; i-- {
			l := b.lanes[i]
			if len(l.waiting) == 0 || len(l.inHand) >= b.window {
				continue
			}
			d := l.waiting[0]
			l.waiting = l.waiting[1:]
			d.Epoch, d.Ack = b.epoch(), fmt.Sprintf("%d/%s", b.epoch(), d.BrokerID)
			l.inHand = append(l.inHand, d)
			out = append(out, cloneDelivery(d))
		}
		if len(out) == before {
			return out
		}
	}
}

// Ack settles a delivery of the present session.
func (b *FakeBroker) Ack(d engine.Delivery) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.Epoch != b.epoch() {
		return nil
	}
	l := b.lanes[d.Lane]
	i := slices.IndexFunc(l.inHand, func(o engine.Delivery) bool { return o.Ack == d.Ack })
	if i < 0 {
		return fmt.Errorf("enginetest: ack of %s, which is not in hand", d.BrokerID)
	}
	l.inHand = slices.Delete(l.inHand, i, i+1)
	b.acked = append(b.acked, d.BrokerID)
	b.wake()
	return nil
}

// Depths counts what is in the lanes.
func (b *FakeBroker) Depths(ctx context.Context) (engine.Depths, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return engine.Depths{}, ctx.Err()
	case !b.connected:
		return engine.Depths{}, ErrDisconnected
	case b.silent:
		return engine.Depths{}, engine.ErrNoStatistics
	}
	depths := engine.Depths{At: time.Now(), Epoch: b.sessions, Lanes: map[int]engine.Depth{}}
	for i, l := range b.lanes {
		depths.Lanes[i] = engine.Depth{Size: len(l.waiting) + len(l.inHand), InFlight: len(l.inHand)}
	}
	return depths, nil
}

// Disconnect ends the session: what is not acked goes back to where it came
// from and will be delivered again, marked so.
func (b *FakeBroker) Disconnect() {
	b.do(func() {
		b.connected = false
		for _, l := range b.lanes {
			back := l.inHand
			for i := range back {
				back[i].Redelivered = true
				back[i].Headers[engine.HeaderRedelivered] = "true"
			}
			l.waiting, l.inHand = append(back, l.waiting...), nil
		}
	})
}

// Connect begins the next session, if there is none.
func (b *FakeBroker) Connect() {
	b.do(func() {
		if !b.connected {
			b.connected = true
			b.sessions++
		}
	})
}

// Close ends the broker for good: Receive answers an error.
func (b *FakeBroker) Close() error {
	b.do(func() { b.closed = true })
	return nil
}

// Queue lists what is in a queue and in nobody's hand, oldest first. Of lanes
// and the work queue that is what waits for delivery, of others all that was
// ever sent to them.
func (b *FakeBroker) Queue(name string) []engine.Outgoing {
	b.mu.Lock()
	defer b.mu.Unlock()
	lane, ok := laneOf(name)
	if !ok {
		return slices.Clone(b.others[name])
	}
	var outs []engine.Outgoing
	for _, d := range b.lanes[lane].waiting {
		outs = append(outs, engine.Outgoing{Queue: name, Headers: maps.Clone(d.Headers), Body: slices.Clone(d.Body)})
	}
	return outs
}

// Published lists what was sent with Publish, oldest first.
func (b *FakeBroker) Published() []engine.Outgoing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.published)
}

// Acked lists the message-ids that were acked, oldest first.
func (b *FakeBroker) Acked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.acked)
}

// Scheduled counts the messages whose delay has not passed.
func (b *FakeBroker) Scheduled() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.scheduled
}

// InHand counts the deliveries that are not acked.
func (b *FakeBroker) InHand() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, l := range b.lanes {
		n += len(l.inHand)
	}
	return n
}

// send gives the message its id and puts it where it belongs, now or later.
// The lock is held here.
func (b *FakeBroker) send(out engine.Outgoing) string {
	b.ids++
	id := "ID:fake-" + strconv.Itoa(b.ids)
	out = cloneOutgoing(out)
	if out.Headers == nil {
		out.Headers = map[string]string{}
	}
	out.Headers[engine.HeaderMessageID] = id
	// What has been through the scheduler is not delayed again, as on ActiveMQ.
	delay, err := strconv.ParseInt(out.Headers[engine.HeaderScheduledDelay], 10, 64)
	if _, been := out.Headers[engine.HeaderScheduledJob]; been || err != nil || delay <= 0 {
		b.arrive(id, out)
		return id
	}
	delete(out.Headers, engine.HeaderScheduledDelay)
	out.Headers[engine.HeaderScheduledJob] = "job-" + id
	b.scheduled++
	time.AfterFunc(time.Duration(delay)*time.Millisecond, func() {
		b.do(func() {
			b.scheduled--
			b.arrive(id, out)
		})
	})
	return id
}

// arrive puts a message at the end of its queue. The lock is held here.
func (b *FakeBroker) arrive(id string, out engine.Outgoing) {
	lane, ok := laneOf(out.Queue)
	if !ok {
		b.others[out.Queue] = append(b.others[out.Queue], out)
		return
	}
	h := out.Headers
	level := levelOf(h)
	h[engine.HeaderPriority] = strconv.Itoa(level)
	h[engine.HeaderTimestamp] = strconv.FormatInt(time.Now().UnixMilli(), 10)
	if out.Queue == engine.WorkQueue && !b.unsorted {
		lane = level
	}
	l := b.lanes[lane]
	l.waiting = append(l.waiting, engine.Delivery{Lane: lane, BrokerID: id, Headers: h, Body: out.Body})
	if lane == engine.Unsorted {
		slices.SortStableFunc(l.waiting, func(x, y engine.Delivery) int { return levelOf(y.Headers) - levelOf(x.Headers) })
	}
	b.wake()
}

// do changes something that Receive may have waited for.
func (b *FakeBroker) do(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.wake()
}

func (b *FakeBroker) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// epoch is the number of the session, 0 if there is none. The lock is held here.
func (b *FakeBroker) epoch() uint64 {
	if !b.connected {
		return 0
	}
	return b.sessions
}

// laneOf tells which lane a queue is; false for queues that are none.
func laneOf(queue string) (int, bool) {
	if queue == engine.WorkQueue {
		return engine.Unsorted, true
	}
	digit, ok := strings.CutPrefix(queue, engine.WorkQueue+".p")
	if !ok || len(digit) != 1 || digit[0] < '0' || digit[0] > '9' {
		return 0, false
	}
	return int(digit[0] - '0'), true
}

// levelOf reads the priority as ActiveMQ does: a signed byte first, then what is over
// 9 is 9.
func levelOf(h map[string]string) int {
	n, err := strconv.Atoi(h[engine.HeaderPriority])
	if err != nil {
		return engine.DefaultLevel
	}
	return min(max(int(int8(n)), 0), engine.Levels-1)
}

func cloneOutgoing(out engine.Outgoing) engine.Outgoing {
	out.Headers, out.Body = maps.Clone(out.Headers), slices.Clone(out.Body)
	return out
}

func cloneDelivery(d engine.Delivery) engine.Delivery {
	d.Headers, d.Body = maps.Clone(d.Headers), slices.Clone(d.Body)
	return d
}
