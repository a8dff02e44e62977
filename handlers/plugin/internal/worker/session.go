package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// Why a message was cancelled, as its handler finds it in context.Cause.
var (
	errDeadline    = fmt.Errorf("the time for this attempt is over: %w", context.DeadlineExceeded)
	errStopping    = errors.New("usher is stopping and waits no longer")
	errCancelled   = errors.New("usher cancelled the message")
	errStreamEnded = errors.New("the connection to usher has ended")
)

// codeProtocol is the code of a Goodbye to a host that broke the protocol.
const codeProtocol = "protocol"

// session is one Work stream. The receiver owns what has no mutex beside it.
type session struct {
	worker   *Worker
	ctx      context.Context // ends with the stream
	out      *outbox
	greeted  bool   // Hello has come
	accepted uint64 // messages so far
	messages sync.WaitGroup

	mu       sync.Mutex // may be held while the outbox's is taken
	running  map[uint64]context.CancelCauseFunc
	draining bool
}

type receiver interface {
	Recv() (*wire.HostFrame, error)
}

// receive takes frames until the host closes its side (nil), the stream breaks,
// or the host breaks the protocol.
func (s *session) receive(from receiver) error {
	for {
		frame, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.take(frame); err != nil {
			s.out.goodbye(codeProtocol, err.Error())
			return status.Error(codes.FailedPrecondition, err.Error())
		}
	}
}

// take acts on one frame. Its errors are the host's.
func (s *session) take(frame *wire.HostFrame) error {
	if _, hello := frame.GetKind().(*wire.HostFrame_Hello); hello == s.greeted {
		return errors.New("the first frame must be Hello, and no other may")
	}
	switch kind := frame.GetKind().(type) {
	case *wire.HostFrame_Hello:
		s.greeted = true
		s.out.ready()
	case *wire.HostFrame_Messages:
		for _, m := range kind.Messages.GetMessages() {
			if err := s.start(m); err != nil {
				return err
			}
		}
	case *wire.HostFrame_Cancel:
		s.cancel(kind.Cancel)
	case *wire.HostFrame_Ping:
		s.out.pong(kind.Ping.GetNonce(), s.count())
	case *wire.HostFrame_Drain:
		s.drain()
	default: // a frame of a newer host
	}
	return nil
}

// start runs a message in a goroutine of its own.
func (s *session) start(m *wire.Message) error {
	tag := m.GetTag()
	if credit := s.out.granted(); s.accepted == credit {
		return fmt.Errorf("the message with tag %d is over the credit of %d", tag, credit)
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	if err := s.enter(tag, cancel); err != nil {
		cancel(err)
		return err
	}
	s.accepted++
	s.messages.Go(func() {
		defer cancel(nil)
		// Outlives a handler that ends its goroutine (runtime.Goexit).
		outcome := wire.FromOutcome(tag, handlers.Outcome{
			Kind: handlers.Retry, Code: handlers.CodePanic, Err: errors.New("the handler ended its goroutine"),
		}, nil, 0)
		defer func() { s.leave(outcome) }()
		outcome = s.worker.run(ctx, m, func(p handlers.Progress) {
			s.out.report(wire.FromProgress(tag, p))
		})
	})
	return nil
}

// enter notes that a message runs.
func (s *session) enter(tag uint64, cancel context.CancelCauseFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return fmt.Errorf("the message with tag %d came after Drain", tag)
	}
	if _, taken := s.running[tag]; taken {
		return fmt.Errorf("the tag %d is in use", tag)
	}
	s.running[tag] = cancel
	return nil
}

// leave ends a message. The lock is held until the outcome is in the outbox, so
// that Drained comes after the last of them.
func (s *session) leave(o *wire.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, o.GetTag())
	s.out.finish(o)
	if s.draining && len(s.running) == 0 {
		s.out.drained()
	}
}

func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return
	}
	s.draining = true
	if len(s.running) == 0 {
		s.out.drained()
	}
}

func (s *session) cancel(c *wire.Cancel) {
	why := errCancelled
	switch c.GetReason() {
	case wire.CancelReason_CANCEL_REASON_DEADLINE:
		why = errDeadline
	case wire.CancelReason_CANCEL_REASON_STOPPING:
		why = errStopping
	case wire.CancelReason_CANCEL_REASON_UNSPECIFIED:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tag := range c.GetTags() {
		if cancel := s.running[tag]; cancel != nil {
			cancel(why)
		}
	}
}

func (s *session) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}
