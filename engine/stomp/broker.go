package stomp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"usher/engine"
	"usher/engine/stomp/internal/session"
)

// The back-off between sessions: 125 to 375 ms before the first retry, so that
// the engines of a broker that restarts do not come all at once, and 1 to 3 s in
// the end, however long it was away: an attempt costs a broker little, and what
// waits in it is somebody's. A session that stood for steadyAfter makes it begin
// anew.
const (
	firstRetry  = 250 * time.Millisecond
	longestWait = 2 * time.Second
	steadyAfter = 10 * time.Second
)

// newBackOff is the waits between sessions.
func newBackOff() *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{
		InitialInterval: firstRetry, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: longestWait,
	}
	b.Reset()
	return b
}

// Broker is an engine's connection to a message broker. Publish works as soon as
// it is made; Receive, Ack and Depths need Run to run. It is safe for concurrent use.
type Broker struct {
	config  Config
	dialer  *dialer
	pool    *pool
	running atomic.Bool
	feeds   func() []*feed // what the next session subscribes

	life    context.Context //nolint:containedctx // ends with Close
	end     context.CancelFunc
	changed chan struct{} // signalled when Receive has something to look at
	renewal chan struct{} // signalled when the session is to be begun anew
	nudges  *nudges

	mu         sync.Mutex // guards the rest
	current    *consumer  // nil: no session now
	since      time.Time  // when current was subscribed; zero: not yet
	epochs     uint64     // how many sessions there were
	told       uint64     // the epoch that Receive spoke of last; 0: none, or its end
	deliveries []engine.Delivery
}

var (
	_ engine.Broker  = (*Broker)(nil)
	_ engine.Control = (*Broker)(nil)
)

// New makes a Broker of a config, or reports all that is wrong with it. It
// connects to nothing yet.
func New(config Config) (*Broker, error) {
	dialer, err := newDialer(config)
	if err != nil {
		return nil, err
	}
	config = dialer.config
	life, end := context.WithCancel(context.Background())
	return &Broker{
		config: config, dialer: dialer, pool: newPool(config.Publishers, dialer.dial),
		feeds: func() []*feed { return laneFeeds(config.Queue, config.Window) },
		life:  life, end: end, changed: make(chan struct{}, 1), renewal: make(chan struct{}, 1), nudges: newNudges(),
	}, nil
}

// Run keeps a consuming session up until ctx ends or the Broker is closed, and
// returns nil then: it waits until the broker has taken the acks that were given
// before, for at most 2 s, and its goroutines have ended. Publishing goes on
// until Close. One Run may be under way; another is an error.
func (b *Broker) Run(ctx context.Context) error {
	if !b.running.CompareAndSwap(false, true) {
		return errors.New("stomp: Run is already running")
	}
	defer b.running.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	wait := newBackOff()
	for {
		stood, err := b.holdSession(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errRenewed) {
			continue
		}
		if stood > steadyAfter {
			wait.Reset()
		}
		pause := wait.NextBackOff()
		b.config.Log.Warn().Err(err).Dur("retry_in", pause).Msg("no session with the broker")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// errRenewed is why a session ends that is begun anew at once.
var errRenewed = errors.New("the session is renewed")

// holdSession opens a session and returns when it has ended, with how long it
// stood and why it ended.
func (b *Broker) holdSession(ctx context.Context) (time.Duration, error) {
	s, err := b.dialer.dial(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	life, end := context.WithCancel(ctx)
	c := b.begin(life, s)
	defer c.work.Wait() // after the reader, which begins new work, has ended
	defer s.Close()
	defer end()
	s.Start(c.message)
	if err = c.subscribe(ctx); err == nil {
		b.subscribed(c)
		if c.probe != nil {
			c.work.Go(func() { c.runProbe(b.config.Log) })
		}
		select {
		case <-s.Done():
			err = s.Err()
		case <-b.renewal:
			err = errRenewed
		case <-ctx.Done():
		}
	}
	b.lose()
	if ctx.Err() != nil || errors.Is(err, errRenewed) {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectTimeout)
		defer cancel()
		return 0, cmp.Or(err, s.Disconnect(bye))
	}
	return time.Since(began), fmt.Errorf("stomp: session %d with %s: %w", c.epoch, s.RemoteAddr(), err)
}

// subscribed lets Receive and Depths see the session.
func (b *Broker) subscribed(c *consumer) {
	b.mu.Lock()
	b.since = time.Now()
	b.wake()
	b.mu.Unlock()
	b.config.Log.Info().Stringer("broker", c.RemoteAddr()).Str("stomp", string(c.Version())).
		Uint64("epoch", c.epoch).Msg("session with the broker")
}

// begin gives the session its epoch and makes it the current one.
func (b *Broker) begin(life context.Context, s *session.Session) *consumer {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epochs++
	c := &consumer{
		Session: s, epoch: b.epochs, queue: b.config.Queue, timeout: b.config.ReceiptTimeout,
		feeds: b.feeds(), byID: map[string]*feed{}, byLane: map[int]*feed{},
		publish: b.pool.request, nudges: b.nudges, life: life,
	}
	for _, f := range c.feeds {
		c.byID[f.id], c.byLane[f.lane] = f, f
	}
	if b.config.Probe {
		c.probe = newProbe()
	}
	c.depths.turn = make(chan struct{}, 1)
	c.put = func(d engine.Delivery) { b.deliver(c, d) }
	b.current = c
	return c
}

// deliver adds to what Receive gives, on the reader's goroutine.
func (b *Broker) deliver(c *consumer, d engine.Delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == c {
		b.deliveries = append(b.deliveries, d)
		b.wake()
	}
}

// lose says that there is no session, and forgets what was not received: the
// broker delivers it again.
func (b *Broker) lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current, b.since, b.deliveries = nil, time.Time{}, nil
	b.wake()
}

// wake makes Receive look; signals merge.
func (b *Broker) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// Receive returns everything that has arrived; see [engine.Broker]. The first
// batch of a session may be empty, and its end is told at once by a batch with
// Epoch 0. The error is ctx's, or ErrClosed.
func (b *Broker) Receive(ctx context.Context) (engine.Batch, error) {
	for {
		if b.life.Err() != nil {
			return engine.Batch{}, ErrClosed
		}
		if batch, ok := b.next(); ok {
			return batch, nil
		}
		select {
		case <-b.changed:
		case <-b.life.Done():
		case <-ctx.Done():
			return engine.Batch{}, ctx.Err()
		}
	}
}

// next is the batch to receive now, if there is one. A session that came is told
// of only after the end of the one before, and when every lane is subscribed, so
// that urgent messages are seen together with the others.
func (b *Broker) next() (engine.Batch, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	epoch := uint64(0)
	if b.current != nil && !b.since.IsZero() {
		epoch = b.current.epoch
	}
	if b.told != 0 && b.told != epoch {
		b.told = 0
		return engine.Batch{}, true
	}
	if epoch == 0 || b.told == epoch && len(b.deliveries) == 0 {
		return engine.Batch{}, false
	}
	b.told = epoch
	batch := engine.Batch{Epoch: epoch, Deliveries: b.deliveries}
	b.deliveries = nil
	return batch, true
}

// Ack puts an ACK for the delivery on its way and does not wait for the broker;
// see [engine.Broker]. A delivery of an older session is left alone. The ACK is
// never part of a STOMP transaction: with client-individual subscriptions
// ActiveMQ keeps every message so acked until the subscription ends.
func (b *Broker) Ack(d engine.Delivery) error {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	if c != nil && c.epoch == d.Epoch {
		c.ack(d)
	}
	return nil
}

// Publish sends one persistent message, on one of the publishing connections,
// and waits for the broker's receipt, for ctx, or for Config.ReceiptTimeout. See
// [engine.Broker]. It opens a connection where there is none and does not retry.
func (b *Broker) Publish(ctx context.Context, out engine.Outgoing) error {
	return b.pool.publish(ctx, out)
}

// Health is how the consuming session is.
type Health struct {
	// Connected says that there is a session and every lane is subscribed, Since when.
	Connected bool
	Since     time.Time
	// Address is the endpoint that the session is with, as host:port.
	Address string
	// LastFrame is when anything last came from the broker, heart-beats included.
	LastFrame time.Time
	// Interval is how often the broker promised to give a sign of life; 0: it did not.
	Interval time.Duration
}

// Health says how the consuming session is. It does not block.
func (b *Broker) Health() Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil {
		return Health{}
	}
	return Health{
		Connected: !b.since.IsZero(), Since: b.since, Address: b.current.RemoteAddr().String(),
		LastFrame: b.current.LastRead(), Interval: b.current.Interval(),
	}
}

// LastDepths is what [Broker.Depths] gave last in this session, and asks nobody:
// for whoever only looks. Its error is that of the last question, or says that
// there was none yet. What it returns must not be changed.
func (b *Broker) LastDepths() (engine.Depths, error) {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	if c == nil {
		return engine.Depths{}, errors.New("stomp: depths: there is no session")
	}
	return c.depths.lastAnswer()
}

// InHand is how many messages each lane has given us, Unsorted included, that
// are not acked; nil without a session.
func (b *Broker) InHand() map[int]int {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	if c == nil {
		return nil
	}
	hand := map[int]int{}
	for _, lane := range lanes() {
		hand[lane] = int(c.byLane[lane].inHand.Load())
	}
	return hand
}

// Close ends Run and the publishing connections and waits for the latter. It may
// be called more than once, and before Run. It returns nil.
func (b *Broker) Close() error {
	b.end()
	b.pool.close()
	return nil
}
