package faultproxy

import (
	"bufio"
	"io"
	"net"
	"sync"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// readAhead is how much is read of a connection at once; it is enough for the
// reader of frames to use the same buffer.
const readAhead = 64 << 10

// limits are wider than those of any client or broker: it is not for the proxy to
// refuse a frame.
func limits() stompframe.Limits {
	return stompframe.Limits{HeaderBytes: 2 << 20, Headers: 10_000, BodyBytes: 128 << 20, Lenient: true}
}

// link is one client's connection to the broker. Two goroutines pump frames, one
// in each direction, until both ends are closed.
type link struct {
	proxy          *Proxy
	client, broker net.Conn
	once           sync.Once
	ended          chan struct{} // closed by cut

	mu   sync.Mutex // guards held
	held chan struct{}
}

func newLink(p *Proxy, client, broker net.Conn) *link {
	return &link{proxy: p, client: client, broker: broker, ended: make(chan struct{}), held: make(chan struct{})}
}

// cut ends both sides.
func (l *link) cut(reset bool) {
	l.once.Do(func() {
		close(l.ended)
		hangUp(l.client, reset)
		hangUp(l.broker, reset)
	})
}

// release lets go what a fault holds.
func (l *link) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.held)
	l.held = make(chan struct{})
}

// hangUp closes a connection; with reset the other side finds it broken.
func hangUp(conn net.Conn, reset bool) {
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0) // or it is closed in the orderly way
	}
	_ = conn.Close() // nobody is left to tell
}

// tape is a connection that remembers what was read of it and not handed on yet.
type tape struct {
	conn   net.Conn
	read   []byte
	passed int // bytes at the beginning of read that were handed on
}

func (t *tape) Read(p []byte) (int, error) {
	if t.passed > 0 {
		t.read = append(t.read[:0], t.read[t.passed:]...)
		t.passed = 0
	}
	n, err := t.conn.Read(p)
	t.read = append(t.read, p[:n]...)
	return n, err
}

// pump hands on frames, each when all of it has come, until the connection ends:
// as soon as one side has closed it, or something that is no STOMP has passed.
func (l *link) pump(to Direction, from net.Conn, into io.Writer) {
	defer l.cut(false)
	in := &tape{conn: from}
	ahead := bufio.NewReaderSize(in, readAhead)
	frames := stompframe.NewReader(ahead, limits()) // on the very same buffer
	for {
		f, err := frames.Read()
		wire := in.read[in.passed : len(in.read)-ahead.Buffered()]
		if err != nil {
			_, _ = into.Write(wire) // what there is, and the end
			return
		}
		if f != nil {
			l.proxy.observe(to, f)
		}
		if !l.handOn(f, wire, into) {
			return
		}
		in.passed += len(wire)
	}
}

// handOn lets one frame pass, or a heart-beat, which is no frame; false says that
// the connection has ended.
func (l *link) handOn(f *frame.Frame, wire []byte, into io.Writer) bool {
	var hit *Armed
	if f != nil {
		hit = l.proxy.strikes(f.Command)
	}
	if hit == nil {
		return l.write(wire, into)
	}
	switch hit.fault.Action {
	case HoldBack:
		return l.hold(hit) && l.write(wire, into)
	case CutAfter:
		l.write(wire, into)
	case CutInside:
		l.write(wire[:len(wire)/2], into)
	case CutBefore:
	}
	l.cut(hit.fault.Reset)
	close(hit.struck)
	return false
}

// hold waits until what the fault holds is let go.
func (l *link) hold(hit *Armed) bool {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	close(hit.struck)
	select {
	case <-held:
		return true
	case <-l.ended:
		return false
	}
}

// write hands on bytes when nothing is held on all connections.
func (l *link) write(wire []byte, into io.Writer) bool {
	select {
	case <-l.proxy.passing():
	case <-l.ended:
		return false
	}
	_, err := into.Write(wire)
	return err == nil
}
