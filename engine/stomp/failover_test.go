package stomp_test

import (
	"bytes"
	"encoding/json"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

// deadURL is an endpoint that nobody listens on.
func deadURL(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return "stomp://" + ln.Addr().String()
}

// endpoint is a fake that is live or on standby, as the two of Amazon MQ are.
type endpoint struct {
	*fake
	live  atomic.Bool
	asked atomic.Int64 // how often CONNECT came
}

func serveEndpoint(t *testing.T, live bool) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.live.Store(live)
	e.fake = serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if f.Command != frame.CONNECT {
				return false
			}
			e.asked.Add(1)
			if !e.live.Load() {
				c.conn.Close()
			}
			return !e.live.Load()
		}
	})
	return e
}

// fail makes it the standby.
func (e *endpoint) fail() {
	e.live.Store(false)
	e.cut()
}

func publish(t *testing.T, b *stomp.Broker) {
	t.Helper()
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
		t.Errorf("Publish: %v", err)
	}
}

// The first of the list is dead, and which of the others is live changes: each time
// the end of the session is told, and the next has every lane, and a later epoch.
func TestFollowsTheLiveEndpoint(t *testing.T) {
	a, b := serveEndpoint(t, true), serveEndpoint(t, false)
	c := a.config()
	c.URLs = []string{deadURL(t), "stomp://" + a.ln.Addr().String(), "stomp://" + b.ln.Addr().String()}
	broker := run(t, c)
	until(t, broker, 1)
	a.subscribed()
	publish(t, broker)
	epoch := uint64(1)
	for _, change := range []struct{ from, to *endpoint }{{a, b}, {b, a}} {
		change.to.live.Store(true)
		change.from.fail()
		until(t, broker, 0)
		batch := receive(t, broker)
		if batch.Epoch <= epoch {
			t.Fatalf("epoch %d follows %d", batch.Epoch, epoch)
		}
		epoch = batch.Epoch
		change.to.subscribed().message("lane-9", "urgent")
		if d := deliveries(t, broker, 1)[0]; d.Epoch != epoch || d.BrokerID != "urgent" {
			t.Errorf("got %+v", d)
		}
		publish(t, broker) // the publishing connections follow as well
	}
	if n := b.asked.Load(); n < 2 { // consuming and publishing
		t.Errorf("the second endpoint was asked %d times", n)
	}
}

// retries reads the waits between attempts out of the log.
type retries struct {
	mu    sync.Mutex // guards waits
	waits []float64  // milliseconds
	more  chan struct{}
}

func (r *retries) Write(line []byte) (int, error) {
	var entry map[string]any
	if err := json.NewDecoder(bytes.NewReader(line)).Decode(&entry); err != nil {
		return 0, err
	}
	wait, ok := entry["retry_in"].(float64)
	if !ok {
		return len(line), nil // of something else
	}
	r.mu.Lock()
	r.waits = append(r.waits, wait)
	r.mu.Unlock()
	r.more <- struct{}{}
	return len(line), nil
}

// Engines that lose their broker together do not come back together, nor ever faster:
// the waits of each grow, from the first on, and are not those of the others.
func TestBackOffGrowsWithJitter(t *testing.T) {
	const engines, attempts = 8, 3
	url := deadURL(t)
	seen := map[float64]bool{}
	logs := make([]*retries, engines)
	for i := range logs {
		logs[i] = &retries{more: make(chan struct{}, 100)} // of attempts, many more than there will be
		run(t, stomp.Config{URLs: []string{url}, Log: zerolog.New(logs[i])})
	}
	for _, log := range logs {
		for range attempts {
			<-log.more
		}
		log.mu.Lock()
		waits := log.waits[:attempts]
		log.mu.Unlock()
		for n, base := range []float64{250, 500, 1000} {
			if waits[n] < base/2 || waits[n] > base*1.5+1 {
				t.Errorf("wait %d is %v ms, want half to one and a half of %v", n, waits[n], base)
			}
		}
		seen[waits[0]] = true
	}
	if len(seen) < engines/2 {
		t.Errorf("the first waits of %d engines are only %d different ones: %v", engines, len(seen), seen)
	}
}
