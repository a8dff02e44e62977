package broker

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		serveUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// deadline is how long a test waits for what must happen.
const deadline = 20 * time.Second

// running is a broker that serves on a port of its own.
type running struct {
	*Broker
	t    testing.TB
	dir  string
	addr string
	stop func()
}

// start opens a broker and serves. The test's end stops it.
func start(t testing.TB, cfg Config) *running {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	r := &running{Broker: b, t: t, dir: cfg.Dir, addr: ln.Addr().String()}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// restart stops the broker and opens its folder again.
func (r *running) restart(cfg Config) *running {
	r.t.Helper()
	r.stop()
	cfg.Dir = r.dir
	return start(r.t, cfg)
}

// client connects go-stomp's client.
func (r *running) client(opts ...func(*stomp.Conn) error) *stomp.Conn {
	r.t.Helper()
	opts = append([]func(*stomp.Conn) error{stomp.ConnOpt.HeartBeat(10*time.Second, 10*time.Second)}, opts...)
	c, err := stomp.Dial("tcp", r.addr, opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.MustDisconnect() })
	return c
}

func (r *running) send(c *stomp.Conn, dest, body string, headers ...string) {
	r.t.Helper()
	opts := []func(*frameT) error{stomp.SendOpt.Receipt}
	for i := 0; i < len(headers); i += 2 {
		opts = append(opts, stomp.SendOpt.Header(headers[i], headers[i+1]))
	}
	if err := c.Send(dest, "text/plain", []byte(body), opts...); err != nil {
		r.t.Fatalf("send to %s: %v", dest, err)
	}
}

func (r *running) subscribe(c *stomp.Conn, dest string, window int) *stomp.Subscription {
	r.t.Helper()
	s, err := c.Subscribe(dest, stomp.AckClientIndividual, stomp.SubscribeOpt.Header(headerPrefetch, fmt.Sprint(window)))
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// next waits for a message.
func next(t testing.TB, s *stomp.Subscription) *stomp.Message {
	t.Helper()
	select {
	case m := <-s.C:
		if m == nil || m.Err != nil {
			t.Fatalf("the subscription ended: %v", m)
		}
		return m
	case <-time.After(deadline):
		t.Fatal("no message came")
	}
	return nil
}

func bodies(t testing.TB, s *stomp.Subscription, n int) []string {
	t.Helper()
	var all []string
	for range n {
		m := next(t, s)
		all = append(all, string(m.Body))
		if err := m.Conn.Ack(m); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	limit := time.After(deadline)
	for !ok() {
		select {
		case <-ticker.C:
		case <-limit:
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// queue tells the state of one queue.
func (r *running) queue(name string) QueueStats {
	for _, q := range r.Stats().Queues {
		if q.Name == name {
			return q
		}
	}
	return QueueStats{Name: name}
}
