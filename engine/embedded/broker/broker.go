package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stompframe"
)

// Broker is an open broker. It is safe for concurrent use.
type Broker struct {
	cfg       Config
	store     *store
	committer committer
	idPrefix  string // of message-ids and sessions
	run       int64
	seq       atomic.Int64 // the last that was given
	refused   atomic.Uint64
	sessions  atomic.Uint64 // connections so far

	// mu guards the core: queues, subscriptions, deliveries and the schedule.
	// Under it nothing blocks; the committer's and the outboxes' locks are
	// taken inside of it, never the other way round.
	mu          sync.Mutex
	queues      map[string]*queue // by destination
	lastQueue   int64
	lanes       [engine.Levels]*queue
	work        *queue
	touched     []*queue // to be dispatched before mu is let go
	cached      int64    // bytes of durable messages in memory
	transient   int64    // bytes of messages in temporary queues
	schedule    byDue
	connections int

	scheduled chan struct{} // one signal: the head of the schedule changed
	closing   chan struct{} // closed by Close
	closed    sync.Once
	closeErr  error
	loops     sync.WaitGroup
}

// Stats is the state of a broker at one moment. Counts are since it was opened.
type Stats struct {
	Queues      []QueueStats // durable queues, by name
	Connections int          // open now
	Refused     uint64       // ERROR frames given, and frames cut short
}

// QueueStats is the state of one durable queue.
type QueueStats struct {
	Name      string
	Size      int       // waiting and in flight
	InFlight  int       // delivered and not acked
	Enqueued  uint64    // messages that came in, released ones included
	Dequeued  uint64    // messages that were acked, or went to the dead-letter queue
	Scheduled int       // not due yet; not in Size
	Oldest    time.Time // when the oldest waiting message was sent; zero if none waits
}

// Open opens the state folder, or makes it, and recovers what is in it. It
// returns an error when another process has it open. The caller calls Close.
func Open(cfg Config) (*Broker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ctx := context.Background()
	store, err := openStore(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		cfg: cfg, store: store,
		committer: committer{wake: make(chan struct{}, 1)},
		queues:    make(map[string]*queue),
		scheduled: make(chan struct{}, 1),
		closing:   make(chan struct{}),
	}
	if err := b.recover(ctx); err != nil {
		return nil, errors.Join(err, store.close())
	}
	b.loops.Go(b.commitLoop)
	b.loops.Go(b.releaseLoop)
	b.loops.Go(b.sweepLoop)
	return b, nil
}

// recover fills the core from the store.
func (b *Broker) recover(ctx context.Context) error {
	id, run, err := b.store.identify(ctx)
	if err != nil {
		return err
	}
	b.idPrefix, b.run = "ID:usher-"+id+"-", run
	b.seq.Store(run << runBits)
	queues, err := b.store.queues(ctx)
	if err != nil {
		return err
	}
	for id := range queues {
		b.lastQueue = max(b.lastQueue, id)
	}
	used := make(map[*queue]bool)
	err = b.store.messages(ctx, queues, func(m *message) {
		used[m.queue], used[m.origin] = true, true
		if m.due != 0 {
			b.plan(m)
			return
		}
		m.flags |= redelivered // which of them were delivered is not known
		m.queue.put(m)
	})
	if err != nil {
		return err
	}
	var unused []*queue
	for _, q := range queues {
		if used[q] {
			b.queues[q.destination()] = q
		} else {
			unused = append(unused, q)
		}
	}
	b.work = b.queueNamed(b.cfg.WorkQueue)
	for level := range b.lanes {
		b.lanes[level] = b.queueNamed(fmt.Sprintf("%s.p%d", b.cfg.WorkQueue, level))
	}
	return b.store.forgetQueues(ctx, unused)
}

// Serve takes connections of ln until ctx ends; then it closes ln and the
// connections and returns when their goroutines have ended. The error is nil
// when ctx ended, else ln's. It may be called several times at once.
func (b *Broker) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = nc.Close()
			}
			return nil
		case err != nil && temporary(err):
			select { // out of file descriptors, say: some will be free again
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		case err != nil:
			_ = ln.Close()
			return fmt.Errorf("broker: accept on %s: %w", ln.Addr(), err)
		case !b.enter():
			b.turnAway(nc)
		default:
			conns.Go(func() {
				defer b.leave()
				b.serve(ctx, nc)
			})
		}
	}
}

// temporary says whether accepting may work again by itself.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

// enter counts a connection in, if there is room for it.
func (b *Broker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.connections >= b.cfg.MaxConnections {
		return false
	}
	b.connections++
	return true
}

func (b *Broker) leave() {
	b.mu.Lock()
	b.connections--
	b.mu.Unlock()
}

// turnAway refuses a connection that is one too many.
func (b *Broker) turnAway(nc net.Conn) {
	b.refused.Add(1)
	_ = nc.SetDeadline(time.Now().Add(time.Second)) // what fits in a new socket's buffer does not wait
	w := stompframe.NewWriter(nc)
	_ = w.Write(frame.New(frame.ERROR, frame.Message, fmt.Sprintf("there are %d connections already: close some, or raise the limit", b.cfg.MaxConnections)))
	_ = w.Flush()
	_ = nc.Close()
}

// Close stops the broker after what was sent is stored, and gives the state
// folder back. Serve must have returned. It is idempotent.
func (b *Broker) Close() error {
	b.closed.Do(func() {
		close(b.closing)
		b.loops.Wait()
		b.closeErr = b.store.close()
	})
	return b.closeErr
}

// nextSeq gives the next number of arrival.
func (b *Broker) nextSeq() int64 { return b.seq.Add(1) }

// admit brings a message into its queue, or the schedule, after it was stored.
// The lock is held.
func (b *Broker) admit(m *message) {
	q := m.queue
	switch q.kind {
	case kindTopic:
		b.fanOut(m)
		return
	case kindTemp:
		if b.queues[q.destination()] != q {
			return // its connection is gone
		}
		b.transient += int64(m.size)
	case kindQueue:
		if b.cached += int64(m.size); b.cached > b.cfg.CacheBytes || m.data == nil {
			b.cached -= int64(m.size)
			m.data = nil
		}
	}
	if m.due != 0 {
		b.plan(m)
		return
	}
	q.enqueued++
	q.put(m)
	b.touch(q)
}

// forgetData gives back the memory of a message that has left its queue. The
// lock is held.
func (b *Broker) forgetData(m *message) {
	switch {
	case m.queue.kind == kindTemp:
		b.transient -= int64(m.size)
	case m.data != nil:
		b.cached -= int64(m.size)
	}
}

// giveBack returns a message to the head of its level, or to the schedule. The
// lock is held.
func (b *Broker) giveBack(m *message) {
	if m.due != 0 {
		b.plan(m)
		return
	}
	m.flags |= redelivered
	m.queue.putBack(m)
	b.touch(m.queue)
}

// touch has a queue dispatched before the lock is let go.
func (b *Broker) touch(q *queue) {
	if !q.touched {
		q.touched = true
		b.touched = append(b.touched, q)
	}
}

// dispatchTouched hands out what the touched queues have. The lock is held.
func (b *Broker) dispatchTouched() {
	now := time.Now().UnixMilli()
	for _, q := range b.touched { // dispatch touches none
		q.touched = false
		b.dispatch(q, now)
	}
	clear(b.touched)
	b.touched = b.touched[:0]
}

// dispatch gives out messages while there are some and somebody has a free
// place. What has expired goes to the dead-letter queue instead. The lock is held.
func (b *Broker) dispatch(q *queue, now int64) {
	var late []move
	for q.waiting > 0 {
		s := q.turn()
		if s == nil {
			break
		}
		m := q.take()
		if !m.expired(now) {
			s.deliver(m)
			continue
		}
		if v, ok := b.bury(m, true); ok {
			late = append(late, v)
		}
	}
	if len(late) > 0 {
		b.submit(&request{moves: late})
	}
}

// Stats tells the state of the broker now.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := Stats{Connections: b.connections, Refused: b.refused.Load()}
	for _, q := range b.queues {
		if q.kind == kindQueue {
			st.Queues = append(st.Queues, q.stats())
		}
	}
	sortByName(st.Queues)
	return st
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
