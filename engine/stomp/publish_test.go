package stomp_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp"
)

// publisher is a Broker whose consuming side does not run.
func publisher(t *testing.T, c stomp.Config) *stomp.Broker {
	t.Helper()
	b, err := stomp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestPublishSendsOnePersistentMessage(t *testing.T) {
	s := serve(t, nil)
	b := publisher(t, s.config())
	err := b.Publish(t.Context(), engine.Outgoing{Queue: "usher.work", Body: []byte("a\x00b"), Headers: map[string]string{
		"type": "t", "priority": "7", "persistent": "false", "destination": "/queue/other", "content-length": "9",
		"receipt": "mine", "transaction": "tx", "odd": "a:b\n\\",
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := s.next(frame.SEND)
	for name, want := range map[string]string{
		"destination": "/queue/usher.work", "persistent": "true", "content-length": "3", "type": "t", "priority": "7",
		"transaction": "", "odd": "a:b\n\\",
	} {
		if got := f.Header.GetAll(name); strings.Join(got, " ") != want {
			t.Errorf("SEND has %s %q, want %q once", name, got, want)
		}
	}
	if string(f.Body) != "a\x00b" || f.Header.Get("receipt") == "mine" {
		t.Errorf("SEND has the body %q and the receipt %s", f.Body, f.Header.Get("receipt"))
	}
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	if f := s.next(frame.SEND); f.Header.Get("content-length") != "0" {
		t.Errorf("an empty body has the content-length %q", f.Header.Get("content-length"))
	}
}

func TestPublishUsesItsConnectionsInTurn(t *testing.T) {
	s := serve(t, nil)
	c := s.config()
	c.Publishers = 3
	b := publisher(t, c)
	used := map[*fakeConn]int{}
	for range 9 {
		if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
			t.Fatal(err)
		}
		used[s.next(frame.SEND).c]++
	}
	if len(used) != 3 || s.count() != 3 {
		t.Errorf("%d connections of %d were used", len(used), s.count())
	}
	for _, n := range used {
		if n != 3 {
			t.Errorf("a connection had %d messages of 9", n)
		}
	}
}

// Many at once: one connection, opened once, and no waiting for one another.
func TestConcurrentPublishesArePipelined(t *testing.T) {
	const n = 200
	var mu sync.Mutex
	var held []func()
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if f.Command != frame.SEND {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			held = append(held, func() { c.send(frame.RECEIPT, "", "receipt-id", f.Header.Get(frame.Receipt)) })
			if len(held) == n { // only when all of them are here
				for i := range held {
					held[n-1-i]()
				}
			}
			return true
		}
	})
	c := s.config()
	c.Publishers = 1
	b := publisher(t, c)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q", Body: []byte(strconv.Itoa(i))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.count() != 1 {
		t.Errorf("%d connections were opened", s.count())
	}
}

func TestPublishFails(t *testing.T) {
	var answer atomic.Pointer[func(c *fakeConn, f *frame.Frame)]
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if f.Command != frame.SEND {
				return false
			}
			(*answer.Load())(c, f)
			return true
		}
	})
	c := s.config()
	c.Publishers, c.ReceiptTimeout = 1, 100*time.Millisecond
	b := publisher(t, c)
	for _, tt := range []struct {
		name   string
		answer func(c *fakeConn, f *frame.Frame)
		want   string
	}{
		{"no receipt in time", func(*fakeConn, *frame.Frame) {}, "no answer from the broker within 100ms"},
		{"refused", func(c *fakeConn, f *frame.Frame) {
			c.send(frame.ERROR, "", "receipt-id", f.Header.Get(frame.Receipt), "message", "no space")
		}, "no space"},
		{"cut", func(c *fakeConn, _ *frame.Frame) { c.conn.Close() }, "the session ended before the broker answered"},
		{"ERROR", func(c *fakeConn, _ *frame.Frame) { c.send(frame.ERROR, "", "message", "bye") }, "bye"},
	} {
		answer.Store(&tt.answer)
		err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "publish to q") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		works := func(c *fakeConn, f *frame.Frame) {
			c.send(frame.RECEIPT, "", "receipt-id", f.Header.Get(frame.Receipt))
		}
		answer.Store(&works)
		if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
			t.Errorf("the next one after %q: %v", tt.name, err)
		}
	}
}

func TestPublishEndsWithItsContext(t *testing.T) {
	silent := serve(t, func(s *fake) {
		s.take = func(_ *fakeConn, f *frame.Frame) bool { return f.Command == frame.CONNECT }
	})
	b := publisher(t, silent.config())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Publish(ctx, engine.Outgoing{Queue: "q"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while connecting: %v", err)
	}
}

func TestPublishRefusesWhatSTOMPCannotCarry(t *testing.T) {
	s := serve(t, nil)
	b := publisher(t, s.config())
	for _, headers := range []map[string]string{{"a": "x\x00"}, {"": "x"}} {
		if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q", Headers: headers}); err == nil {
			t.Errorf("%q was sent", headers)
		}
	}
	if err := b.Publish(t.Context(), engine.Outgoing{Queue: "q"}); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// What Publish was given is the caller's again when it returns, whatever came of it.
func TestPublishKeepsNothing(t *testing.T) {
	s := serve(t, func(s *fake) {
		s.take = func(_ *fakeConn, f *frame.Frame) bool { return f.Command == frame.SEND }
	})
	b := publisher(t, s.config())
	body := []byte(strings.Repeat("x", 100_000))
	headers := map[string]string{"a": "b"}
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_ = b.Publish(ctx, engine.Outgoing{Queue: "q", Headers: headers, Body: body})
		cancel()
		headers["a"] = "c" // the race detector sees it if anybody still reads
		body[0]++
	}
	if f := s.next(frame.SEND); len(f.Body) != len(body) {
		t.Errorf("sent %d bytes", len(f.Body))
	}
}
