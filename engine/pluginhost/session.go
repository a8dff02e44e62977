package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/handlers"
	"usher/handlers/plugin/wire"
)

const (
	// pingEvery is how often a plugin is asked whether it lives; it is killed
	// when maxUnanswered pings in a row had no answer by the time of the next.
	pingEvery     = 5 * time.Second
	maxUnanswered = 3
	// A frame has at most maxBatch messages, and no further one after
	// maxBatchBytes of bodies.
	maxBatch      = 32
	maxBatchBytes = 256 << 10
	// maxBody leaves room in a frame for all that is not the body.
	maxBody = wire.MaxFrameBytes - 1<<20
)

// stream is the host's end of a Work call. Send and Recv are called by one
// goroutine each.
type stream interface {
	Send(*wire.HostFrame) error
	Recv() (*wire.PluginFrame, error)
}

// call is a message in hand.
type call struct {
	ctx     context.Context
	message *handlers.Message
	tag     uint64             // 0: not sent yet
	outcome chan *wire.Outcome // holds one; nil: it will not be sent
}

// session is one Work stream, as long as the process behind it. It is safe for
// concurrent use.
type session struct {
	plugin  string
	grace   time.Duration
	log     zerolog.Logger
	kill    func(cause error) // ends the process; does not wait
	changed func()            // the level has changed

	wake    chan struct{} // holds one element when there is something to send
	greeted chan struct{} // closed when the plugin is ready and has given credit
	broken  chan struct{} // closed when nothing more will be received
	idle    chan struct{} // closed when the session drains and has nothing in hand
	gone    chan struct{} // closed when the process has ended
	lost    error         // what gone means to a message; set before it is closed

	level atomic.Int64 // see Credit

	mu         sync.Mutex       // guards the rest
	queue      []*call          // not sent yet, the oldest first
	calls      map[uint64]*call // sent, and without an outcome, by tag
	sent       uint64           // so many, which is the last tag as well
	credit     uint64           // so many may be sent in total
	ready      bool             // Ready has come
	closed     bool             // no more messages are taken
	drain      bool             // Drain is to be sent
	overdue    []uint64         // to be cancelled because of their deadline
	stopping   []uint64         // to be cancelled because the host stops
	ping       bool             // to be sent
	nonce      uint64           // of the last ping
	unanswered int              // pings
	err        error            // why the stream broke
	strange    bool             // an outcome came that nobody waits for
}

func newSession(plugin string, grace time.Duration, log zerolog.Logger, kill func(error), changed func()) *session {
	return &session{
		plugin: plugin, grace: grace, log: log, kill: kill, changed: changed,
		wake: make(chan struct{}, 1), greeted: make(chan struct{}), broken: make(chan struct{}),
		idle: make(chan struct{}), gone: make(chan struct{}),
		calls: map[uint64]*call{},
	}
}

// run sends and receives until the stream ends; cancel ends it. It returns when
// its goroutines have ended.
func (s *session) run(stream stream, cancel context.CancelFunc) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.send(stream) })
	work.Go(s.watch)
	err := s.receive(stream)
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.closed = err, true
	s.account()
	close(s.broken)
}

// broke is why the stream broke; after broken was closed.
func (s *session) broke() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end tells the messages in hand that the process has ended, and why. It is
// called once, after run has returned or if it was never called.
func (s *session) end(why error) {
	s.lost = fmt.Errorf("plugin %s: %w: %w", s.plugin, engine.ErrPluginLost, why)
	close(s.gone)
}

// handle runs one attempt at m. It returns when the plugin does not run it any
// more.
func (s *session) handle(ctx context.Context, m *handlers.Message) error {
	if len(m.Body) > maxBody {
		return handlers.Permanent(fmt.Errorf("plugin %s: the body of %d bytes is longer than a frame may be (%d)", s.plugin, len(m.Body), maxBody), engine.ReasonTooLarge)
	}
	c := &call{ctx: ctx, message: m, outcome: make(chan *wire.Outcome, 1)}
	if !s.enqueue(c) {
		return s.refusal()
	}
	select {
	case o := <-c.outcome:
		return s.answer(m, o)
	case <-s.gone:
		if s.unsent(c) {
			return s.refusal()
		}
		return s.answerOr(c, s.lost)
	case <-ctx.Done():
		return s.cancel(ctx, c)
	}
}

// unsent says whether the plugin never had the message.
func (s *session) unsent(c *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.tag == 0
}

// refusal is the answer to a message that was not sent.
func (s *session) refusal() error {
	return fmt.Errorf("plugin %s: %w: it takes no messages now", s.plugin, engine.ErrPluginAway)
}

// cancel asks the plugin to stop the message and waits for its outcome. Without
// one it ends the process: the message must not be run again beside this attempt.
func (s *session) cancel(ctx context.Context, c *call) error {
	cause := causeOf(ctx)
	if s.withdraw(c, errors.Is(cause, context.DeadlineExceeded)) {
		return fmt.Errorf("plugin %s: it had no place for the message: %w", s.plugin, cause)
	}
	ended := fmt.Errorf("plugin %s: its process ended after the message was cancelled: %w", s.plugin, cause)
	timer := time.NewTimer(s.grace)
	defer timer.Stop()
	select {
	case o := <-c.outcome:
		return s.answer(c.message, o)
	case <-s.gone:
		return s.answerOr(c, ended)
	case <-timer.C:
	}
	s.kill(fmt.Errorf("the message %q did not end within %v after it was cancelled (%s)", c.message.ID, s.grace, cause.Error()))
	<-s.gone
	return s.answerOr(c, ended)
}

// causeOf is why ctx ended; of a deadline it wraps context.DeadlineExceeded.
func causeOf(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && !errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, cause)
	}
	return cause
}

// answerOr is the message's outcome if it came before the end, else err.
func (s *session) answerOr(c *call, err error) error {
	select {
	case o := <-c.outcome:
		return s.answer(c.message, o)
	default:
		return err
	}
}

// answer gives m what the handler emitted, and returns what it answered.
func (s *session) answer(m *handlers.Message, in *wire.Outcome) error {
	if in == nil {
		return s.refusal()
	}
	o, followOns := wire.ToOutcome(in)
	for _, f := range followOns {
		if err := m.EmitFollowOn(f); err != nil {
			return handlers.Permanent(err, engine.ReasonBadFollowOn)
		}
	}
	return handlers.ErrorOf(o)
}

// enqueue takes a message in hand; false if none is taken any more.
func (s *session) enqueue(c *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.queue = append(s.queue, c)
	s.stir()
	return true
}

// withdraw takes a message back that was not sent, which is true, or has it
// cancelled.
func (s *session) withdraw(c *call, deadline bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.tag == 0 {
		for i, other := range s.queue {
			if other == c {
				s.queue = append(s.queue[:i], s.queue[i+1:]...)
				return true
			}
		}
		return false // refused
	}
	if s.calls[c.tag] != c {
		return false // its outcome is here
	}
	if deadline {
		s.overdue = append(s.overdue, c.tag)
	} else {
		s.stopping = append(s.stopping, c.tag)
	}
	s.stir()
	return false
}

// stir wakes the sender.
func (s *session) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// inHand is how many messages there are, sent or not.
func (s *session) inHand() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) + len(s.calls)
}

// account works out the level and what follows from it; the lock is held.
func (s *session) account() {
	level := int64(0)
	if !s.closed && s.ready {
		// What was answered is neither in hand nor to be granted again.
		level = int64(min(s.credit-(s.sent-uint64(len(s.calls))), math.MaxInt32))
	}
	if s.level.Swap(level) != level {
		s.changed()
	}
	if level > 0 {
		closeOnce(s.greeted)
	}
	if s.closed && len(s.calls) == 0 {
		closeOnce(s.idle)
	}
}

// closeOnce closes a channel that only its caller closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// finish lets the messages that were sent finish, and returns when they have, or
// ctx ends. Those that were not sent are given back.
func (s *session) finish(ctx context.Context) {
	s.refuse()
	select {
	case <-s.idle:
	case <-s.broken:
	case <-ctx.Done():
	}
}

// refuse takes no more messages, and gives back those that were not sent.
func (s *session) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.drain = true, true
	for _, c := range s.queue {
		c.outcome <- nil
	}
	s.queue = nil
	s.account()
	s.stir()
}

// stop lets the messages that were sent finish, for at most within; then it
// cancels them and gives them the grace. Those that were not sent are given back.
func (s *session) stop(within time.Duration) {
	s.refuse()
	if s.idleWithin(within) {
		return
	}
	s.mu.Lock()
	for tag := range s.calls {
		s.stopping = append(s.stopping, tag)
	}
	s.stir()
	s.mu.Unlock()
	s.idleWithin(s.grace)
}

// idleWithin waits until there is nothing in hand, or nothing more will come;
// false if that takes too long.
func (s *session) idleWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.idle:
	case <-s.broken:
	case <-timer.C:
		return false
	}
	return true
}

// watch asks the plugin whether it lives, and kills it when it does not say so.
// What a handler does has nothing to do with that.
func (s *session) watch() {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.broken:
			return
		}
		if !s.askAlive() {
			s.kill(fmt.Errorf("it did not answer %d pings, sent %v apart", maxUnanswered, pingEvery))
			return
		}
	}
}

// askAlive sends a ping, unless too many had no answer.
func (s *session) askAlive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unanswered == maxUnanswered {
		return false
	}
	s.unanswered++
	s.nonce++
	s.ping = true
	s.stir()
	return true
}
