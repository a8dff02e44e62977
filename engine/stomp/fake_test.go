package stomp_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
	"usher/engine/stompframe"
)

// fake is a STOMP server that a test plays. It answers CONNECT, and every
// receipt header, unless the test's own function takes the frame.
type fake struct {
	t       *testing.T
	ln      net.Listener
	version string
	take    func(c *fakeConn, f *frame.Frame) bool // true: no other answer
	frames  chan seen                              // everything that came, but for CONNECT
	wg      sync.WaitGroup

	mu    sync.Mutex // guards the rest
	conns []*fakeConn
}

type seen struct {
	c *fakeConn
	*frame.Frame
}

type fakeConn struct {
	t    *testing.T
	conn net.Conn
	mu   sync.Mutex // guards writes
}

// serve starts a fake; change may change it before it serves.
func serve(t *testing.T, change func(*fake)) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, change)
}

func serveOn(t *testing.T, ln net.Listener, change func(*fake)) *fake {
	t.Helper()
	s := &fake{t: t, ln: ln, version: "1.2", frames: make(chan seen, 10_000)}
	if change != nil {
		change(s)
	}
	s.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c := &fakeConn{t: t, conn: conn}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { s.talk(c) })
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *fake) talk(c *fakeConn) {
	defer c.conn.Close()
	r := stompframe.NewReader(c.conn, stompframe.Limits{})
	for {
		f, err := r.Read()
		if err != nil {
			return
		}
		if f == nil {
			continue
		}
		if f.Command != frame.CONNECT {
			s.frames <- seen{c, f}
		}
		switch receipt := f.Header.Get(frame.Receipt); {
		case s.take != nil && s.take(c, f):
		case f.Command == frame.CONNECT:
			r.SetVersion(stompframe.Version(s.version))
			c.send(frame.CONNECTED, "", "version", s.version, "heart-beat", "0,0")
		case receipt != "":
			c.send(frame.RECEIPT, "", "receipt-id", receipt)
		}
	}
}

// cut closes every connection there is.
func (s *fake) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.conn.Close()
	}
	s.conns = nil
}

func (s *fake) close() {
	s.ln.Close()
	s.cut()
	s.wg.Wait()
}

// count is how many connections there are.
func (s *fake) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// next waits for a frame of the command; others are passed over.
func (s *fake) next(command string) seen {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case f := <-s.frames:
			if f.Command == command {
				return f
			}
		case <-timeout:
			s.t.Fatalf("no %s came", command)
		}
	}
}

// subscribed waits until all lanes are subscribed and gives their connection.
func (s *fake) subscribed() *fakeConn {
	s.t.Helper()
	var f seen
	for range engine.Levels + 1 {
		f = s.next(frame.SUBSCRIBE)
	}
	return f.c
}

func (c *fakeConn) send(command, body string, headers ...string) {
	f := frame.New(command, headers...)
	f.Body = []byte(body)
	wire, err := stompframe.Append(nil, stompframe.V12, f)
	if err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.conn.Write(wire) // the client may have gone: some tests want that
}

// message sends a MESSAGE of a lane.
func (c *fakeConn) message(lane, id string, headers ...string) {
	c.send(frame.MESSAGE, "body "+id, append([]string{
		"subscription", lane, "message-id", id, "ack", "ack-" + id, "destination", "/queue/usher.work"}, headers...)...)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func (s *fake) config() stomp.Config {
	return stomp.Config{URLs: []string{"stomp://" + s.ln.Addr().String()}, Log: zerolog.Nop()}
}

// run makes a Broker and runs it until the test ends.
func run(t *testing.T, c stomp.Config) *stomp.Broker {
	t.Helper()
	b, err := stomp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

func receive(t *testing.T, b *stomp.Broker) engine.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	batch, err := b.Receive(ctx)
	if err != nil {
		t.Fatalf("Receive: %v", err)
	}
	return batch
}

// until receives until the epoch is told, and gives that batch.
func until(t *testing.T, b *stomp.Broker, epoch uint64) engine.Batch {
	t.Helper()
	for {
		if batch := receive(t, b); batch.Epoch == epoch {
			return batch
		}
	}
}

// deliveries receives n of them.
func deliveries(t *testing.T, b *stomp.Broker, n int) []engine.Delivery {
	t.Helper()
	var all []engine.Delivery
	for len(all) < n {
		all = append(all, receive(t, b).Deliveries...)
	}
	return all
}
