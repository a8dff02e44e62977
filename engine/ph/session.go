package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"usher/engine"
	"usher/handlers"
	"usher/handlers/plugin/wire"
)

const (
	pingEvery = 5 * time.Second
	maxSilent = 3 * pingEvery // without a pong
	batchMax  = 64            // messages in one frame
)

// session is the stream with one process. It ends when the stream does.
type session struct {
	stream     grpc.BidiStreamingClient[wire.HostFrame, wire.PluginFrame]
	cancel     context.CancelFunc
	ended      chan struct{} // closed when the reader has ended
	wake       chan struct{} // for the writer: there is something to send
	creditFunc func()        // called after the credit has changed

	mu       sync.Mutex // guards the rest
	calls    map[uint64]*call
	messages []*wire.Message // to send
	frames   []*wire.HostFrame
	tag      uint64
	granted  uint64 // messages that may be sent in all
	settled  uint64 // outcomes that came
	lastPong time.Time
	drained  chan struct{} // closed when the plugin says so
	err      error         // why it ended
}

// call is one message in the plugin's hand.
type call struct {
	message *handlers.Message
	outcome chan *wire.Outcome // holds one; closed if none comes any more
}

// openSession opens the stream and waits for the plugin to be ready.
func openSession(p *process, timeout time.Duration, creditFunc func()) (*session, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{
		cancel: cancel, ended: make(chan struct{}), wake: make(chan struct{}, 1), creditFunc: creditFunc,
		calls: map[uint64]*call{}, drained: make(chan struct{}), lastPong: time.Now(),
	}
	timer := time.AfterFunc(timeout, cancel)
	defer timer.Stop()
	var err error
	if s.stream, err = p.wire.Work(ctx); err == nil {
		err = s.greet()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("it does not get ready: %w", err)
	}
	go s.read()
	go s.write()
	return s, nil
}

func (s *session) greet() error {
	if err := s.stream.Send(&wire.HostFrame{Kind: &wire.HostFrame_Hello{Hello: &wire.Hello{HostVersion: "1"}}}); err != nil {
		return err
	}
	frame, err := s.stream.Recv()
	if err != nil {
		return err
	}
	if frame.GetReady() == nil || frame.GetCredit() == 0 {
		return fmt.Errorf("its first frame is %T with a credit of %d", frame.GetKind(), frame.GetCredit())
	}
	s.granted = frame.GetCredit()
	return nil
}

// credit is how many messages the plugin takes at once, those in its hand included.
func (s *session) credit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0
	}
	return int(s.granted - s.settled) //nolint:gosec // a plugin's concurrency
}

func (s *session) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// begin sends a message, if there is credit for it.
func (s *session) begin(ctx context.Context, m *handlers.Message) (uint64, *call, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.settled+uint64(len(s.calls)) >= s.granted {
		return 0, nil, false
	}
	s.tag++
	c := &call{message: m, outcome: make(chan *wire.Outcome, 1)}
	s.calls[s.tag] = c
	s.messages = append(s.messages, wire.FromMessage(m, wire.AttemptUntil(ctx, s.tag)))
	s.signal()
	return s.tag, c, true
}

// send puts a frame on its way.
func (s *session) send(f *wire.HostFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = append(s.frames, f)
	s.signal()
}

func (s *session) cancelMessage(tag uint64, reason wire.CancelReason) {
	s.send(&wire.HostFrame{Kind: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Tags: []uint64{tag}, Reason: reason}}})
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write sends what is there, messages together; it ends with the session.
func (s *session) write() {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-s.wake:
		case <-ping.C:
			if s.silent() {
				s.end(fmt.Errorf("it has not answered a ping for %v", maxSilent))
				return
			}
			s.send(&wire.HostFrame{Kind: &wire.HostFrame_Ping{Ping: &wire.Ping{}}})
		case <-s.ended:
			return
		}
		for frame := s.next(); frame != nil; frame = s.next() {
			if err := s.stream.Send(frame); err != nil {
				return // the reader learns why
			}
		}
	}
}

func (s *session) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.lastPong) > maxSilent
}

// next is what to send now: messages before the frames that speak of them.
func (s *session) next() *wire.HostFrame {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) > 0 {
		n := min(len(s.messages), batchMax)
		batch := s.messages[:n:n]
		s.messages = s.messages[n:]
		return &wire.HostFrame{Kind: &wire.HostFrame_Messages{Messages: &wire.MessageBatch{Messages: batch}}}
	}
	if len(s.frames) > 0 {
		f := s.frames[0]
		s.frames = s.frames[1:]
		return f
	}
	return nil
}

// read takes what the plugin says until the stream ends.
func (s *session) read() {
	defer close(s.ended)
	for {
		frame, err := s.stream.Recv()
		if err != nil {
			s.end(err)
			return
		}
		s.take(frame)
	}
}

func (s *session) take(frame *wire.PluginFrame) {
	s.mu.Lock()
	switch kind := frame.GetKind().(type) {
	case *wire.PluginFrame_Outcomes:
		for _, o := range kind.Outcomes.GetOutcomes() {
			if c := s.calls[o.GetTag()]; c != nil {
				delete(s.calls, o.GetTag())
				s.settled++
				c.outcome <- o
			}
		}
	case *wire.PluginFrame_Pong:
		s.lastPong = time.Now()
	case *wire.PluginFrame_Drained:
		close(s.drained)
		s.drained = make(chan struct{}) // a second one closes nothing that anybody waits for
	case *wire.PluginFrame_Goodbye:
		s.err = fmt.Errorf("it said goodbye: %s: %s", kind.Goodbye.GetCode(), handlers.OneLine(kind.Goodbye.GetDetail(), wire.MaxDetailBytes))
	default:
	}
	grew := frame.GetCredit() > s.granted
	s.granted = max(s.granted, frame.GetCredit())
	s.mu.Unlock()

	s.progress(frame.GetProgress())
	if grew {
		s.creditFunc()
	}
}

// progress passes on what messages report, without the lock: it is the
// engine's code that is called.
func (s *session) progress(batch *wire.ProgressBatch) {
	for _, item := range batch.GetItems() {
		s.mu.Lock()
		c := s.calls[item.GetTag()]
		s.mu.Unlock()
		if c != nil {
			p := wire.ToProgress(item)
			c.message.Progress(p.Ratio, p.Note)
		}
	}
}

// end ends the session and gives up what is in the plugin's hand. The first
// reason stays.
func (s *session) end(err error) {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	for tag, c := range s.calls {
		delete(s.calls, tag)
		close(c.outcome)
	}
}

// cause is why the session ended.
func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// drain tells the plugin that nothing more comes, and waits until it has
// finished, at most the given time.
func (s *session) drain(within time.Duration) {
	s.mu.Lock()
	drained := s.drained
	s.mu.Unlock()
	s.send(&wire.HostFrame{Kind: &wire.HostFrame_Drain{Drain: &wire.Drain{}}})
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-drained:
	case <-s.ended:
	case <-timer.C:
	}
}

// answer turns an outcome into what a handler in this process would have
// answered.
func answer(m *handlers.Message, in *wire.Outcome) error {
	o, followOns := wire.ToOutcome(in)
	for _, f := range followOns {
		if err := m.EmitFollowOn(f); err != nil {
			return handlers.Permanent(err, engine.ReasonBadFollowOn)
		}
	}
	return handlers.ErrorOf(o)
}

// errHung is why a process is killed that does not obey a cancel.
var errHung = errors.New("it did not stop a message that was cancelled")
