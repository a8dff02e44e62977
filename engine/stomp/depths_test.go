package stomp_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// asked says which lane's queue a question is about.
func asked(f *frame.Frame) (queue string, ok bool) {
	return strings.CutPrefix(f.Header.Get(frame.Destination), "/queue/ActiveMQ.Statistics.Destination.")
}

// ownMessage says whether the frame is sent to the queue of answers.
func ownMessage(f *frame.Frame) bool {
	return f.Command == frame.SEND && f.Header.Get(frame.Destination) == "/temp-queue/usher.depths"
}

// fenced delivers what is sent to the queue of answers, as a broker does.
func fenced(c *fakeConn, f *frame.Frame) bool {
	if !ownMessage(f) {
		return false
	}
	c.send(frame.MESSAGE, "", "subscription", "depths", "message-id", "f", "correlation-id", f.Header.Get("correlation-id"))
	return true
}

func TestDepthsUnderstandsBothForms(t *testing.T) {
	for name, body := range map[string]string{
		"flat":     `{"size":%d,"inflightCount":2,"enqueueCount":7,"dequeueCount":0}`,
		"ActiveMQ": `{"map":{"entry":[{"string":"memoryUsage","long":99},{"string":["destinationName","queue:\/\/x"]},{"string":"averageEnqueueTime","double":0.5},{"string":"size","long":%d},{"string":"inflightCount","long":2}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(s *fake) {
				s.take = func(c *fakeConn, f *frame.Frame) bool {
					queue, ok := asked(f)
					if !ok {
						return false
					}
					size := 100 // of the work queue
					if lane, ok := strings.CutPrefix(queue, "usher.work.p"); ok {
						_, _ = fmt.Sscan(lane, &size)
					}
					id := f.Header.Get("correlation-id")
					c.send(frame.MESSAGE, "junk", "subscription", "depths", "message-id", "0", "correlation-id", id)
					c.send(frame.MESSAGE, fmt.Sprintf(body, 9999), "subscription", "depths", "message-id", "0", "correlation-id", "old/lane-1")
					c.send(frame.MESSAGE, fmt.Sprintf(body, size), "subscription", "depths", "message-id", "1", "correlation-id", id)
					return false
				}
			})
			b := run(t, s.config())
			until(t, b, 1)
			s.subscribed()
			for range 3 {
				depths, err := b.Depths(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(depths.Lanes) != engine.Levels+1 || depths.At.IsZero() {
					t.Errorf("got %+v", depths)
				}
				for lane, got := range depths.Lanes {
					want := engine.Depth{Size: lane, InFlight: 2}
					if lane == engine.Unsorted {
						want.Size = 100
					}
					if got != want {
						t.Errorf("lane %d: %+v, want %+v", lane, got, want)
					}
				}
			}
			f := s.next(frame.SUBSCRIBE)
			if f.Header.Get("transformation") != "jms-map-json" || f.Header.Get("destination") != "/temp-queue/usher.depths" {
				t.Errorf("SUBSCRIBE %v", f.Header)
			}
			q := s.next(frame.SEND)
			if q.Header.Get("reply-to") != "/temp-queue/usher.depths" || q.Header.Get("expires") == "" || q.Header.Get("persistent") != "" {
				t.Errorf("question %v", q.Header)
			}
		})
	}
}

// Without the plugin each question is a message that nobody reads, so there is
// one round of them and no more.
func TestSilentStatisticsAreNotAskedAgain(t *testing.T) {
	s := serve(t, func(s *fake) { s.take = fenced })
	b := run(t, s.config())
	until(t, b, 1)
	s.subscribed()
	for range 3 {
		if _, err := b.Depths(t.Context()); !errors.Is(err, engine.ErrNoStatistics) {
			t.Errorf("got %v, want ErrNoStatistics", err)
		}
	}
	questions := 0
	for len(s.frames) > 0 {
		if _, ok := asked((<-s.frames).Frame); ok {
			questions++
		}
	}
	if want := engine.Levels + 2; questions != want { // a lane each, the work queue, the dead letters
		t.Errorf("%d questions were asked, want %d", questions, want)
	}
}

// A real broker that is busy, and has just started, takes longer than a call waits
// for its first answer. It was taken for one without the plugin, and not asked
// again for a minute.
func TestSlowStatisticsAreAskedAgain(t *testing.T) {
	var slow atomic.Bool
	slow.Store(true)
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if slow.Load() && ownMessage(f) {
				return true // it has not come to the fence
			}
			if _, ok := asked(f); ok && !slow.Load() {
				c.send(frame.MESSAGE, `{"size":3}`, "subscription", "depths", "message-id", "1", "correlation-id", f.Header.Get("correlation-id"))
			}
			return fenced(c, f)
		}
	})
	b := run(t, s.config())
	until(t, b, 1)
	s.subscribed()
	if _, err := b.Depths(t.Context()); err == nil || errors.Is(err, engine.ErrNoStatistics) {
		t.Fatalf("got %v of a broker that is slow, want an error that is not ErrNoStatistics", err)
	}
	slow.Store(false)
	depths, err := b.Depths(t.Context())
	if err != nil || len(depths.Lanes) != engine.Levels+1 {
		t.Fatalf("got %+v, %v; want the depths of every lane", depths, err)
	}
}

// What is not answered when the fence comes never will be.
func TestALaneThatIsNotToldOfIsNotWaitedFor(t *testing.T) {
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if queue, ok := asked(f); ok && queue == "usher.work.p3" {
				c.send(frame.MESSAGE, `{"size":3}`, "subscription", "depths", "message-id", "1", "correlation-id", f.Header.Get("correlation-id"))
			}
			return fenced(c, f)
		}
	})
	b := run(t, s.config())
	until(t, b, 1)
	s.subscribed()
	depths, err := b.Depths(t.Context())
	if err != nil || len(depths.Lanes) != 1 || depths.Lanes[3].Size != 3 {
		t.Fatalf("got %+v, %v; want the depth of lane 3", depths, err)
	}
}

func TestRefusedStatisticsSayWhyAndEndNoSession(t *testing.T) {
	s := serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if !strings.HasPrefix(f.Header.Get(frame.Destination), "/temp-queue/") {
				return false
			}
			c.send(frame.ERROR, "", "receipt-id", f.Header.Get(frame.Receipt), "message", "not authorized to create temp queues")
			return true
		}
	})
	b := run(t, s.config())
	until(t, b, 1)
	c := s.subscribed()
	if _, err := b.Depths(t.Context()); !errors.Is(err, engine.ErrNoStatistics) || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("got %v, want ErrNoStatistics with the broker's words", err)
	}
	c.message("lane-1", "m1")
	if d := deliveries(t, b, 1)[0]; d.Epoch != 1 {
		t.Errorf("the session is number %d now", d.Epoch)
	}
}

func TestDepthsWithoutASession(t *testing.T) {
	b := publisher(t, serve(t, nil).config())
	if _, err := b.Depths(t.Context()); err == nil || errors.Is(err, engine.ErrNoStatistics) {
		t.Errorf("got %v, want an error that is not ErrNoStatistics", err)
	}
}
