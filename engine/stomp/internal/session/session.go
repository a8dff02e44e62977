package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
	"usher/handlers"
)

const (
	// writeTimeout is how long the broker may take nothing of what we write.
	writeTimeout = 10 * time.Second
	// writeChunk is how much is written under one such time-out.
	writeChunk = 64 << 10
	// errorBytes is how much of the broker's own words an error of ours holds.
	errorBytes = 300
)

// errClosed is how a session ends that Close ends.
var errClosed = errors.New("closed")

// MessageFunc takes a MESSAGE, on the reader's goroutine, and must not block.
// skipped is the length of a body that was not kept, else 0. An error ends the
// session.
type MessageFunc func(f *frame.Frame, skipped int64) error

// Session is one connection to a broker. Two goroutines belong to it, from Start
// until Close returns: one reads and never waits for anybody, one writes. The
// other methods are safe for concurrent use.
type Session struct {
	conn        net.Conn
	frames      *stompframe.Reader // the reader's
	version     stompframe.Version
	sendEvery   time.Duration // between our heart-beats at most; 0: none
	expectEvery time.Duration // between the broker's at most; 0: none
	timeout     time.Duration // of a request
	onMessage   MessageFunc
	outbox      *outbox
	receipts    receipts
	lastRead    atomic.Int64 // Unix nanoseconds

	done chan struct{} // closed when the session has ended, after err was set
	once sync.Once
	err  error
	wg   sync.WaitGroup
}

func newSession(c Config, conn net.Conn) *Session {
	s := &Session{conn: conn, timeout: c.Timeout, done: make(chan struct{})}
	s.frames = stompframe.NewReader(readerFunc(s.read), stompframe.Limits{
		HeaderBytes: readHeaderBytes, Headers: readHeaders,
		BodyBytes: c.MaxBodyBytes, Discard: max(discardBytes, c.MaxBodyBytes), Lenient: true,
	})
	return s
}

// use sets the version, before Start.
func (s *Session) use(v stompframe.Version) {
	s.version = v
	s.frames.SetVersion(v)
	s.outbox = newOutbox(v)
}

// Start lets the goroutines run. onMessage takes what is delivered.
func (s *Session) Start(onMessage MessageFunc) {
	s.onMessage = onMessage
	s.wg.Go(s.readLoop)
	s.wg.Go(s.writeLoop)
}

// fail ends the session; the first cause stays.
func (s *Session) fail(cause error) {
	s.once.Do(func() {
		s.err = cause
		close(s.done)
		s.outbox.close()
		_ = s.conn.Close() // wakes the goroutines; the cause is what matters
	})
}

// Close ends the session and waits for its goroutines. It may be called more
// than once, and before Start.
func (s *Session) Close() {
	s.fail(errClosed)
	s.wg.Wait()
}

// Version is the version of STOMP that was agreed on.
func (s *Session) Version() stompframe.Version { return s.version }

// Interval is how often the broker promised to give a sign of life; 0: it did not.
func (s *Session) Interval() time.Duration { return s.expectEvery }

// LastRead is when anything last came from the broker.
func (s *Session) LastRead() time.Time { return time.Unix(0, s.lastRead.Load()) }

// RemoteAddr is the broker's address.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended; nil while it has not.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Disconnect tells the broker that this is the end, waits until it has taken all
// that was sent before (STOMP 1.2, DISCONNECT), and closes. Its error says that
// the broker did not confirm.
func (s *Session) Disconnect(ctx context.Context) error {
	err := s.Request(ctx, frame.New(frame.DISCONNECT))
	s.Close()
	return err
}

// Send puts a frame on its way and does not wait for the broker. It waits only
// while a lot is to be written already, until ctx or the session ends. The frame
// is the caller's again when it returns. ErrNotSent says that the session has
// ended; stompframe.ErrMalformed that this version cannot carry the frame.
func (s *Session) Send(ctx context.Context, f *frame.Frame) error {
	return s.outbox.put(ctx, f)
}

// Request sends a frame, to which it adds a receipt header, and waits for its
// receipt, until ctx ends or Config.Timeout has passed. ErrNotSent says that
// nothing has left. A *BrokerError is the broker's refusal. After any other error
// the broker may or may not have done it.
func (s *Session) Request(ctx context.Context, f *frame.Frame) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("no answer from the broker within %v", s.timeout))
	defer cancel()
	p, err := s.Ask(ctx, f)
	if err != nil {
		return causeOr(ctx, err)
	}
	return p.Wait(ctx)
}

// Pending is a request that was sent.
type Pending struct {
	s      *Session
	id     string
	answer <-chan error
}

// Ask is Request without the wait: Wait or Drop must follow.
func (s *Session) Ask(ctx context.Context, f *frame.Frame) (Pending, error) {
	id, answer := s.receipts.add()
	f.Header.Add(frame.Receipt, id)
	if err := s.Send(ctx, f); err != nil {
		s.receipts.drop(id)
		return Pending{}, err
	}
	return Pending{s, id, answer}, nil
}

// Wait returns the broker's answer, or why there is none, which is at the latest
// when ctx or the session ends. It is called once.
func (p Pending) Wait(ctx context.Context) error {
	defer p.Drop()
	select {
	case err := <-p.answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.s.done:
	}
	select {
	case err := <-p.answer: // it came just before the end
		return err
	default:
		return fmt.Errorf("the session ended before the broker answered: %w", p.s.err)
	}
}

// Refused is the broker's answer if it has come and is a refusal; it does not
// wait. Wait must not follow.
func (p Pending) Refused() error {
	select {
	case err := <-p.answer:
		return err
	default:
		return nil
	}
}

// Drop gives up waiting: an answer that comes later is ignored.
func (p Pending) Drop() { p.s.receipts.drop(p.id) }

func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// read is the connection's Read, with a deadline of twice the broker's interval.
func (s *Session) read(p []byte) (int, error) {
	if s.expectEvery > 0 {
		if err := s.conn.SetReadDeadline(time.Now().Add(2 * s.expectEvery)); err != nil {
			return 0, err
		}
	}
	n, err := s.conn.Read(p)
	s.lastRead.Store(time.Now().UnixNano())
	if s.expectEvery > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("nothing came for %v, though the broker promised a sign of life each %v: %w", 2*s.expectEvery, s.expectEvery, err)
	}
	return n, err
}

func (s *Session) readLoop() {
	for {
		f, err := s.frames.Read()
		var size int64
		var fault *stompframe.Error
		if f != nil && errors.As(err, &fault) {
			size, err = fault.Size, nil // only the body was too large
		}
		if err == nil && f != nil {
			err = s.take(f, size)
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the broker closed the connection")
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// take acts on one frame.
func (s *Session) take(f *frame.Frame, skipped int64) error {
	switch f.Command {
	case frame.MESSAGE:
		return s.onMessage(f, skipped)
	case frame.RECEIPT:
		s.receipts.resolve(f.Header.Get(frame.ReceiptId), nil)
		return nil
	case frame.ERROR:
		id, ok := f.Header.Contains(frame.ReceiptId)
		if !ok {
			return errorOf(f)
		}
		s.receipts.resolve(id, errorOf(f)) // fails that request alone
		return nil
	}
	return fmt.Errorf("the broker sent a %s frame", f.Command)
}

// BrokerError is what the broker said in an ERROR frame.
type BrokerError struct {
	// Words is one line of at most 300 bytes.
	Words string
}

// Error gives the words.
func (e *BrokerError) Error() string { return "the broker refused: " + e.Words }

func errorOf(f *frame.Frame) error {
	words := f.Header.Get(frame.Message)
	if words == "" {
		words = string(f.Body[:min(len(f.Body), errorBytes)])
	}
	if words = handlers.OneLine(words, errorBytes); words == "" {
		words = "it did not say why"
	}
	return &BrokerError{words}
}

// writeLoop writes what was put into the outbox, all that has come together at
// once, and a heart-beat at half the interval that was promised, so that a
// strict broker never misses one.
func (s *Session) writeLoop() {
	var beat <-chan time.Time
	if s.sendEvery > 0 {
		ticker := time.NewTicker(s.sendEvery / 2)
		defer ticker.Stop()
		beat = ticker.C
	}
	heartBeat := []byte{'\n'}
	var memory []byte
	for {
		var err error
		select {
		case <-s.done:
			return
		case <-beat:
			err = s.write(heartBeat)
		case <-s.outbox.wake:
			memory = s.outbox.take(memory)
			err = s.write(memory)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *Session) write(b []byte) error {
	for len(b) > 0 {
		if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		n, err := s.conn.Write(b[:min(len(b), writeChunk)])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the broker took nothing for %v: %w", writeTimeout, err)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
