package stomp_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp"
)

// queueOf makes a fake hand out n messages to whoever subscribes.
func queueOf(n int) func(*fake) {
	return func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if f.Command == frame.SUBSCRIBE {
				c.send(frame.RECEIPT, "", "receipt-id", f.Header.Get(frame.Receipt))
				for i := range n {
					c.message("lane-unsorted", "m"+strconv.Itoa(i))
				}
			}
			return f.Command == frame.SUBSCRIBE
		}
	}
}

func dialed(t *testing.T, s *fake) *stomp.Client {
	t.Helper()
	client, err := stomp.Dial(t.Context(), s.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestDialSaysAtOnceWhatIsWrong(t *testing.T) {
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, _ *frame.Frame) bool {
			c.send(frame.ERROR, "", "message", "User name [x] or password is invalid.")
			return true
		}
	})
	c := s.config()
	c.Login, c.Passcode = "x", "hunter2"
	_, err := stomp.Dial(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "password is invalid") || !strings.Contains(err.Error(), s.ln.Addr().String()) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v, want the broker's words and address", err)
	}
}

func TestConsumeEnds(t *testing.T) {
	stop := errors.New("stop")
	for name, tt := range map[string]struct {
		view stomp.View
		ack  bool
		err  error // what the function answers to the third message
		seen int
		want error
	}{
		"when the queue is quiet":  {stomp.View{Quiet: 50 * time.Millisecond}, true, nil, 5, nil},
		"at its limit":             {stomp.View{Limit: 2}, true, nil, 2, nil},
		"when the window is full":  {stomp.View{Window: 5}, false, nil, 5, nil},
		"with the function's word": {stomp.View{}, true, stop, 3, stop},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, queueOf(5))
			tt.view.Queue = "usher.dead"
			seen := 0
			err := dialed(t, s).Consume(t.Context(), tt.view, func(engine.Delivery) (bool, error) {
				if seen++; seen == 3 {
					return tt.ack, tt.err
				}
				return tt.ack, nil
			})
			if !errors.Is(err, tt.want) || (err != nil) != (tt.want != nil) || seen != tt.seen {
				t.Errorf("saw %d messages, %v; want %d, %v", seen, err, tt.seen, tt.want)
			}
			acks := 0
			for f := s.next(frame.SUBSCRIBE); f.Command != frame.DISCONNECT; f = <-s.frames {
				if f.Command == frame.ACK {
					acks++
				}
			}
			want := 0
			if tt.ack {
				want = tt.seen
			}
			if tt.err != nil {
				want--
			}
			if acks != want {
				t.Errorf("%d acks came before DISCONNECT, want %d", acks, want)
			}
		})
	}
}

func TestConsumeFails(t *testing.T) {
	for name, harm := range map[string]func(*fakeConn){
		"when it is cut":         func(c *fakeConn) { c.conn.Close() },
		"when it is flooded":     func(c *fakeConn) { floodOf(c, "lane-unsorted") },
		"when the broker errors": func(c *fakeConn) { c.send(frame.ERROR, "", "message", "gone") },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, queueOf(1))
			var once sync.Once
			err := dialed(t, s).Consume(t.Context(), stomp.View{Queue: "usher.dead", Window: 5}, func(engine.Delivery) (bool, error) {
				once.Do(func() { harm(s.next(frame.SUBSCRIBE).c) })
				return false, nil
			})
			if err == nil || !strings.Contains(err.Error(), "consume usher.dead") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("when its context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := dialed(t, serve(t, queueOf(1))).Consume(ctx, stomp.View{Queue: "q", Quiet: time.Minute}, func(engine.Delivery) (bool, error) {
			cancel()
			return true, nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// Sending the copy before the message is acked is what redriving is.
func TestConsumeMaySend(t *testing.T) {
	s := serve(t, queueOf(1))
	client := dialed(t, s)
	err := client.Consume(t.Context(), stomp.View{Queue: "usher.dead", Limit: 1}, func(d engine.Delivery) (bool, error) {
		return true, client.Send(t.Context(), engine.Outgoing{Queue: "usher.work", Body: d.Body})
	})
	if err != nil {
		t.Fatal(err)
	}
	sent := s.next(frame.SEND)
	if acked := s.next(frame.ACK); string(sent.Body) != "body m0" || acked.c == sent.c {
		t.Errorf("sent %q, acked on the same connection: %v", sent.Body, acked.c == sent.c)
	}
}
