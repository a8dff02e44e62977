package session

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"go.uber.org/goleak"

	"usher/engine/stompframe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is the broker's end of a connection, played by a test.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *stompframe.Reader
}

// pipe gives both ends of a connection.
func pipe(t *testing.T) (net.Conn, *peer) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	return ours, &peer{t: t, conn: theirs, r: stompframe.NewReader(theirs, stompframe.Limits{})}
}

// read is the next frame; heart-beats are passed over. nil: the connection ended.
func (p *peer) read() *frame.Frame {
	for {
		f, err := p.r.Read()
		if err != nil {
			return nil
		}
		if f != nil {
			return f
		}
	}
}

// expect is read for a frame of the command.
func (p *peer) expect(command string) *frame.Frame {
	p.t.Helper()
	f := p.read()
	if f == nil || f.Command != command {
		p.t.Errorf("the client sent %v, want %s", f, command)
		return frame.New(command)
	}
	return f
}

func (p *peer) send(command string, headers ...string) {
	p.t.Helper()
	wire, err := stompframe.Append(nil, stompframe.V12, frame.New(command, headers...))
	if err != nil {
		p.t.Error(err)
	}
	p.raw(string(wire))
}

func (p *peer) raw(wire string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, wire); err != nil {
		p.t.Errorf("write to the client: %v", err)
	}
}

func (p *peer) receipt(f *frame.Frame) {
	p.t.Helper()
	p.send(frame.RECEIPT, frame.ReceiptId, f.Header.Get(frame.Receipt))
}

var plain = Config{Host: "host", MaxBodyBytes: 1000, Timeout: 5 * time.Second}

// connected is a session that was agreed on with the given CONNECTED headers.
func connected(t *testing.T, c Config, headers ...string) (*Session, *peer) {
	t.Helper()
	conn, p := pipe(t)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		p.expect(frame.CONNECT)
		p.send(frame.CONNECTED, append([]string{frame.Version, "1.2"}, headers...)...)
	}()
	s, err := Connect(t.Context(), c, conn)
	<-answered
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	t.Cleanup(s.Close)
	return s, p
}

// started is a connected session whose goroutines run.
func started(t *testing.T, c Config, headers ...string) (*Session, *peer) {
	t.Helper()
	s, p := connected(t, c, headers...)
	s.Start(func(*frame.Frame, int64) error { return nil })
	return s, p
}

// ended waits for the end of the session and returns its cause.
func ended(t *testing.T, s *Session) error {
	t.Helper()
	select {
	case <-s.Done():
		return s.Err()
	case <-time.After(5 * time.Minute): // in a bubble, else the test binary's own limit
		t.Fatal("the session did not end")
		return nil
	}
}

// requests starts n requests and returns the channel of their results.
func requests(ctx context.Context, s *Session, n int) <-chan error {
	results := make(chan error, n)
	for range n {
		go func() { results <- s.Request(ctx, frame.New(frame.SEND, frame.Destination, "/queue/q")) }()
	}
	return results
}
