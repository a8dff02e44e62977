package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"pgregory.net/rapid"
)

// ledger is what consumers say of messages.
type ledger struct {
	mu    sync.Mutex
	acked map[string]bool // with a receipt
	again []string        // delivered after that
	done  chan struct{}   // closed when all are acked
	all   int
}

func (l *ledger) delivered(body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[body] {
		l.again = append(l.again, body)
	}
}

func (l *ledger) ack(body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[body] = true
	if len(l.acked) == l.all {
		close(l.done)
	}
}

// Consumers come and go, with messages in hand, in transactions and in buffers:
// each message is acked in the end, and none comes again after the receipt of
// its ACK.
func TestNothingIsLostWhenConsumersComeAndGo(t *testing.T) {
	const producers, each = 4, 400
	r := start(t, Config{CacheBytes: 20_000})
	l := &ledger{acked: map[string]bool{}, done: make(chan struct{}), all: producers * each}
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			c := r.raw()
			for i := range each {
				c.do(frame.SEND, "destination", "usher.work", "priority", "5", fmt.Sprintf("%d-%d", p, i))
			}
		})
	}
	for range 6 {
		wg.Go(func() {
			for {
				select {
				case <-l.done:
					return
				default:
					r.visit(l)
				}
			}
		})
	}
	wg.Wait()
	if len(l.again) > 0 {
		t.Errorf("%d messages came again after the receipt of their ACK: %v", len(l.again), l.again)
	}
	eventually(t, "the books are closed", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		q := r.queues["/queue/usher.work.p5"]
		return q.waiting == 0 && q.inFlight == 0 && r.cached == 0 && q.enqueued == producers*each
	})
	r = r.restart(Config{})
	if q := r.queue("usher.work.p5"); q.Size != 0 {
		t.Errorf("after a restart: %+v", q)
	}
}

// visit is a consumer that takes some messages, settles some, and leaves when
// it knows what became of those.
func (r *running) visit(l *ledger) {
	c := r.raw()
	defer c.nc.Close()
	c.subscribe("usher.work.p5", 1+rand.IntN(20))
	asked := map[string]string{} // body by receipt
	for frames := 1 + rand.IntN(60); frames > 0 || len(asked) > 0; frames-- {
		if c.patience = deadline; len(asked) == 0 {
			c.patience = 50 * time.Millisecond // the others may have all
		}
		f, err := c.read()
		if errors.Is(err, os.ErrDeadlineExceeded) && len(asked) == 0 {
			return
		}
		switch {
		case err != nil:
			r.t.Error(err)
			return
		case f.Command == frame.RECEIPT:
			l.ack(asked[f.Header.Get("receipt-id")])
			delete(asked, f.Header.Get("receipt-id"))
		case f.Command == frame.MESSAGE:
			l.delivered(string(f.Body))
			if frames > 0 {
				c.settleSomehow(f, asked)
			}
		default:
			r.t.Errorf("%s %v", f.Command, f.Header)
			return
		}
	}
}

// settleSomehow acks a message, keeps it, or does so in a transaction.
func (c *raw) settleSomehow(m *frame.Frame, asked map[string]string) {
	id, body := m.Header.Get("ack"), string(m.Body)
	switch rand.IntN(5) {
	case 0: // keeps it
	case 1, 2:
		c.put(frame.BEGIN, "transaction", body)
		c.put(frame.ACK, "id", id, "transaction", body)
		if rand.IntN(2) == 0 {
			c.put(frame.ABORT, "transaction", body)
			return
		}
		asked[body] = body
		c.put(frame.COMMIT, "transaction", body, "receipt", body)
	default:
		asked[body] = body
		c.put(frame.ACK, "id", id, "receipt", body)
	}
}

func TestStartAndStopWithClientsAtWork(t *testing.T) {
	dir := t.TempDir()
	for range 15 {
		r := start(t, Config{Dir: dir})
		var clients sync.WaitGroup
		enough := make(chan struct{})
		for i := range 5 {
			c := r.dial() // before it may be stopped
			clients.Go(func() {
				_ = c.w.Write(frame.New(frame.CONNECT, "accept-version", "1.2"))
				_ = c.w.Write(frame.New(frame.SUBSCRIBE, "id", "s", "destination", "q", "ack", "auto"))
				for n := 0; ; n++ {
					if i == 0 && n == 20 {
						close(enough)
					}
					if errors.Join(c.w.Write(frame.New(frame.SEND, "destination", "q", "receipt", "r")), c.w.Flush()) != nil {
						return
					}
					if _, err := c.read(); err != nil {
						return
					}
				}
			})
		}
		<-enough
		r.stop()
		clients.Wait()
		if err := r.Close(); err != nil { // again
			t.Error(err)
		}
	}
}

// A queue gives messages out as a sorted list would.
func TestQueueOrderIsThatOfAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := &queue{name: "q"}
		var model, out []*message
		seq, now := int64(0), int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				for range rapid.IntRange(1, blockLen/2).Draw(t, "n") {
					seq++
					m := &message{seq: seq, stamp: seq, queue: q, priority: rapid.Uint8Range(0, 9).Draw(t, "priority"), expires: rapid.Int64Range(0, 3).Draw(t, "expires") * 100}
					q.put(m)
					model = append(model, m)
				}
			},
			"take": func(t *rapid.T) {
				slices.SortFunc(model, func(a, b *message) int {
					if a.priority != b.priority {
						return int(b.priority) - int(a.priority)
					}
					return int(a.seq - b.seq)
				})
				var want *message
				if len(model) > 0 {
					want, model = model[0], model[1:]
				}
				got := q.take()
				if got != want {
					t.Fatalf("took %+v, want %+v", got, want)
				}
				if got != nil {
					out = append(out, got)
				}
			},
			"put back": func(t *rapid.T) {
				if len(out) == 0 {
					return
				}
				i := rapid.IntRange(0, len(out)-1).Draw(t, "i")
				q.putBack(out[i])
				model = append(model, out[i])
				out = slices.Delete(out, i, i+1)
			},
			"expire": func(t *rapid.T) {
				now += 10
				for p := range q.levels {
					q.takeLate(p, now)
					for at := q.levels[p].fresh.head; at != nil; at = at.next {
						q.takeLateFrom(at, now)
					}
				}
				model = slices.DeleteFunc(model, func(m *message) bool { return m.expired(now) })
			},
			"": func(t *rapid.T) {
				expiring := 0
				for _, m := range model {
					if m.expires > 0 {
						expiring++
					}
				}
				if q.waiting != len(model) || q.expiring != expiring || (q.oldest() == 0) != (len(model) == 0) {
					t.Fatalf("%d waiting, %d expiring, oldest %d; want %d and %d", q.waiting, q.expiring, q.oldest(), len(model), expiring)
				}
			},
		})
	})
}

func TestEncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := frame.NewHeader()
		want := map[string]string{}
		for range rapid.IntRange(0, 20).Draw(t, "headers") {
			name, value := rapid.StringN(1, 10, -1).Draw(t, "name"), rapid.String().Draw(t, "value")
			h.Add(name, value)
			if _, ok := want[name]; !ok {
				want[name] = value
			}
		}
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		data := encode(h, "/queue/answers", body)
		want[headerReplyTo] = "/queue/answers"
		entries, got, err := decode(data, nil)
		if err != nil || !slices.Equal(got, body) || len(entries) != 2*len(want) {
			t.Fatalf("%v %q %v", entries, got, err)
		}
		for i := 0; i < len(entries); i += 2 {
			if want[entries[i]] != entries[i+1] {
				t.Fatalf("%s is %q", entries[i], entries[i+1])
			}
		}
		for n := range data { // a damaged one is told, or is another; never a panic
			_, _, _ = decode(data[:n], nil)
		}
	})
}
