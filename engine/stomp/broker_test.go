package stomp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp"
)

func TestSubscribesEveryLaneHighestFirst(t *testing.T) {
	s := serve(t, nil)
	c := s.config()
	c.Queue, c.Window = "jobs", 7
	run(t, c)
	for i := range engine.Levels + 1 {
		f := s.next(frame.SUBSCRIBE)
		queue, id := "/queue/jobs", "lane-unsorted"
		if i < engine.Levels {
			queue, id = fmt.Sprintf("/queue/jobs.p%d", 9-i), fmt.Sprintf("lane-%d", 9-i)
		}
		for name, want := range map[string]string{"destination": queue, "id": id, "ack": "client-individual", "activemq.prefetchSize": "7"} {
			if got := f.Header.Get(name); got != want {
				t.Errorf("SUBSCRIBE %d has %s:%s, want %s", i, name, got, want)
			}
		}
	}
}

func TestAcksAsTheVersionWantsIt(t *testing.T) {
	for version, want := range map[string]map[string]string{
		"1.2": {"id": "ack-m1", "message-id": "", "subscription": ""},
		"1.1": {"id": "", "message-id": "m1", "subscription": "lane-9"},
		"1.0": {"id": "", "message-id": "m1", "subscription": "lane-9"},
	} {
		t.Run(version, func(t *testing.T) {
			s := serve(t, func(s *fake) { s.version = version })
			b := run(t, s.config())
			s.subscribed().message("lane-9", "m1", "redelivered", "true")
			d := deliveries(t, b, 1)[0]
			if d.BrokerID != "m1" || d.Lane != 9 || !d.Redelivered || d.Epoch != 1 || string(d.Body) != "body m1" {
				t.Errorf("delivery %+v", d)
			}
			if err := b.Ack(d); err != nil {
				t.Fatal(err)
			}
			f := s.next(frame.ACK)
			for name, value := range want {
				if got := f.Header.Get(name); got != value {
					t.Errorf("ACK has %s:%q, want %q", name, got, value)
				}
			}
			if f.Header.Get(frame.Transaction) != "" || f.Header.Get(frame.Receipt) != "" {
				t.Errorf("ACK has a transaction or a receipt: %v", f.Header)
			}
		})
	}
}

func TestLostSessionIsToldAtOnceAndBegunAgain(t *testing.T) {
	s := serve(t, nil)
	b := run(t, s.config())
	until(t, b, 1)
	c := s.subscribed()
	c.message("lane-3", "m1")
	old := deliveries(t, b, 1)[0]
	c.message("lane-3", "m2") // which nobody receives in time
	s.cut()
	if batch := until(t, b, 0); len(batch.Deliveries) != 0 {
		t.Errorf("the end of the session came with %d deliveries", len(batch.Deliveries))
	}
	if batch := receive(t, b); batch.Epoch != 2 {
		t.Fatalf("after the end came %+v, want epoch 2", batch)
	}
	if err := b.Ack(old); err != nil {
		t.Errorf("an old ack: %v", err)
	}
	c = s.subscribed()
	c.message("lane-3", "m1", "redelivered", "true")
	if err := b.Ack(deliveries(t, b, 1)[0]); err != nil {
		t.Fatal(err)
	}
	if f := s.next(frame.ACK); f.c != c || f.Header.Get("id") != "ack-m1" {
		t.Errorf("ACK %v", f.Header)
	}
	select { // it was the only one: the old one was dropped
	case f := <-s.frames:
		t.Errorf("there came also %s %v", f.Command, f.Header)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestSessionEndsAndComesBackAfter(t *testing.T) {
	for name, harm := range map[string]func(*fakeConn){
		"an ERROR":                  func(c *fakeConn) { c.send(frame.ERROR, "", "message", "shutting down") },
		"a flood over the window":   flood,
		"an unknown subscription":   func(c *fakeConn) { c.message("mine", "m") },
		"a message without an id":   func(c *fakeConn) { c.send(frame.MESSAGE, "", "subscription", "lane-1", "ack", "x") },
		"a message without an ack":  func(c *fakeConn) { c.send(frame.MESSAGE, "", "subscription", "lane-1", "message-id", "x") },
		"a frame that is cut short": func(c *fakeConn) { _, _ = c.conn.Write([]byte("MESSAGE\nmess")); c.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil)
			c := s.config()
			c.Window = 10
			b := run(t, c)
			until(t, b, 1)
			harm(s.subscribed())
			until(t, b, 0)
			until(t, b, 2)
		})
	}
}

func flood(c *fakeConn) { floodOf(c, "lane-1") }

// floodOf is a broker that does not know windows.
func floodOf(c *fakeConn, lane string) {
	for i := range 100 {
		c.message(lane, strconv.Itoa(i))
	}
}

func TestMessagesThatCannotBeKeptDoNotEndTheSession(t *testing.T) {
	s := serve(t, nil)
	config := s.config()
	config.MaxBodyBytes = 100
	b := run(t, config)
	c := s.subscribed()
	head := []string{"subscription", "lane-4", "ack", "a", "type", "t", "usher_id", "u"}
	long := strings.Repeat("x", 20_000)
	c.send(frame.MESSAGE, long, append(head, "message-id", "body")...)
	c.send(frame.MESSAGE, "b", append(head, "message-id", "header", "cookie", long)...)
	many := append(slices.Clone(head), "message-id", "count")
	for i := range 300 {
		many = append(many, "h"+strconv.Itoa(i), "v")
	}
	c.send(frame.MESSAGE, "b", many...)
	c.send(frame.MESSAGE, "b", append(head, "message-id", "liar", "usher_tooLarge", "1")...)
	for _, d := range deliveries(t, b, 4) {
		mark, marked := d.Headers[engine.HeaderTooLarge]
		if d.Headers["type"] != "t" || d.Headers["usher_id"] != "u" || d.Lane != 4 || d.Ack != "a" {
			t.Errorf("%s: %v", d.BrokerID, d.Headers)
		}
		switch d.BrokerID {
		case "body":
			if mark != "20000" || d.Body != nil {
				t.Errorf("body: marked %q, %d bytes kept", mark, len(d.Body))
			}
		case "header", "count":
			if !marked || string(d.Body) != "b" || len(d.Headers) > 30 {
				t.Errorf("%s: marked %v, body %q, %d headers", d.BrokerID, marked, d.Body, len(d.Headers))
			}
		case "liar":
			if marked || string(d.Body) != "b" {
				t.Error("a producer can make a message too large by saying so")
			}
		}
	}
}

// A consumer that does not receive must hold up neither acks nor heart-beats.
func TestSlowConsumerBlocksNothing(t *testing.T) {
	s := serve(t, nil)
	b := run(t, s.config())
	until(t, b, 1)
	c := s.subscribed()
	for i := range 100 {
		for lane := range engine.Levels {
			c.message(fmt.Sprintf("lane-%d", lane), fmt.Sprintf("%d-%d", lane, i))
		}
	}
	first := receive(t, b).Deliveries
	if err := b.Ack(first[0]); err != nil { // while the others are not received
		t.Fatal(err)
	}
	s.next(frame.ACK)
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
		t.Error(err)
	}
	if got := len(first) + len(deliveries(t, b, 1000-len(first))); got != 1000 {
		t.Errorf("%d deliveries", got)
	}
}

func TestFindsTheLiveEndpoint(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	refuses := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			c.send(frame.ERROR, "", "message", "standby")
			c.conn.Close()
			return true
		}
	})
	live := serve(t, nil)
	c := live.config()
	c.URLs = []string{"stomp://" + dead.Addr().String(), "stomp://" + refuses.ln.Addr().String(), c.URLs[0]}
	b := run(t, c)
	until(t, b, 1)
	live.subscribed()
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
		t.Error(err)
	}
	if n := refuses.count(); n != 1 {
		t.Errorf("the standby was dialled %d times; the one that worked last is to be tried first", n)
	}
}

// A refused SUBSCRIBE is no session: it is tried again, and Health says so.
func TestNoSessionWithoutEveryLane(t *testing.T) {
	var refusing atomic.Bool
	refusing.Store(true)
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if refusing.Load() && f.Header.Get(frame.Id) == "lane-5" {
				c.send(frame.ERROR, "", "receipt-id", f.Header.Get(frame.Receipt), "message", "not authorized")
				return true
			}
			return false
		}
	})
	b := run(t, s.config())
	for range 2 { // two sessions that fail
		for id := ""; id != "lane-unsorted"; id = s.next(frame.SUBSCRIBE).Header.Get(frame.Id) {
			continue
		}
	}
	if h := b.Health(); h.Connected {
		t.Errorf("Health %+v", h)
	}
	refusing.Store(false)
	if batch := receive(t, b); batch.Epoch < 2 {
		t.Errorf("the first that Receive tells is %+v, want the session that has every lane", batch)
	}
	if h := b.Health(); !h.Connected || h.Since.IsZero() || h.LastFrame.IsZero() || h.LastFrame.After(time.Now()) {
		t.Errorf("Health %+v", h)
	}
}

func TestRunEndsWithItsContextAfterTheAcks(t *testing.T) {
	s := serve(t, nil)
	b, err := stomp.New(s.config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	s.subscribed().message("lane-1", "m1")
	d := deliveries(t, b, 1)[0]
	if err := b.Run(ctx); err == nil {
		t.Error("a second Run began")
	}
	if err := b.Ack(d); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	s.next(frame.ACK)
	s.next(frame.DISCONNECT) // behind the ack
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
		t.Errorf("Publish after Run: %v", err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := b.Receive(t.Context()); !errors.Is(err, stomp.ErrClosed) {
		t.Errorf("Receive after Close: %v", err)
	}
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); !errors.Is(err, stomp.ErrClosed) {
		t.Errorf("Publish after Close: %v", err)
	}
	if err := b.Run(t.Context()); err != nil {
		t.Errorf("Run after Close: %v", err)
	}
}

func TestReceiveEndsWithItsContext(t *testing.T) {
	b := run(t, serve(t, nil).config())
	until(t, b, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Receive: %v", err)
	}
}

// Start and stop at any moment end every goroutine; goleak and -race watch.
func TestStartStopStress(t *testing.T) {
	s := serve(t, nil)
	for i := range 40 {
		b, err := stomp.New(s.config())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		published := make(chan error, 1)
		go func() { published <- b.Publish(ctx, engine.Outgoing{Queue: "q"}) }()
		if i%2 == 0 {
			receive(t, b)
		}
		if i%4 < 2 {
			cancel()
		} else {
			b.Close()
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		t.Logf("Publish, in time or not: %v", <-published)
		cancel()
		b.Close()
	}
}
