package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"
)

type frameT = frame.Frame

func TestSendReceiveAck(t *testing.T) {
	for _, v := range []stomp.Version{stomp.V10, stomp.V11, stomp.V12} {
		t.Run(v.String(), func(t *testing.T) {
			r := start(t, Config{})
			c := r.client(stomp.ConnOpt.AcceptVersion(v))
			s := r.subscribe(c, "/queue/q", 10)
			r.send(c, "/queue/q", "hello", "custom", "x", "type", "order.placed", "correlation-id", "c1", "timestamp", "5", "AMQ_SCHEDULED_DELAY", "0")
			m := next(t, s)
			if string(m.Body) != "hello" || m.ContentType != "text/plain" {
				t.Errorf("body %q, content-type %q", m.Body, m.ContentType)
			}
			for name, want := range map[string]string{"custom": "x", "type": "order.placed", "correlation-id": "c1", "priority": "4",
				"persistent": "true", "destination": "/queue/q", "redelivered": "", "receipt": "", "AMQ_SCHEDULED_DELAY": "", "expires": ""} {
				if got := m.Header.Get(name); got != want {
					t.Errorf("header %s is %q, want %q", name, got, want)
				}
			}
			if stamp := m.Header.Get("timestamp"); len(stamp) != 13 {
				t.Errorf("timestamp %q is not the broker's clock", stamp)
			}
			if q := r.queue("q"); q.Size != 1 || q.InFlight != 1 {
				t.Errorf("%+v", q)
			}
			if err := c.Ack(m); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the ack", func() bool { return r.queue("q").Size == 0 })
		})
	}
}

func TestHighestLevelFirstThenByArrival(t *testing.T) {
	r := start(t, Config{})
	c := r.client()
	for i := range 40 {
		r.send(c, "q", fmt.Sprintf("%d-%02d", i%10, i), "priority", fmt.Sprint(i%10))
	}
	got := bodies(t, r.subscribe(c, "q", 1), 40)
	want := slices.Clone(got)
	slices.SortFunc(want, func(a, b string) int {
		if a[0] != b[0] {
			return int(b[0]) - int(a[0])
		}
		return strings.Compare(a, b)
	})
	if !slices.Equal(got, want) {
		t.Errorf("order %v", got)
	}
}

func TestWorkQueueFillsTheLanes(t *testing.T) {
	for priority, lane := range map[string]string{"0": "p0", "9": "p9", "99": "p9", "128": "p0", "-3": "p0", "265": "p9"} {
		t.Run(priority, func(t *testing.T) {
			r := start(t, Config{})
			c := r.client()
			r.send(c, "/queue/usher.work", "x", "priority", priority)
			m := next(t, r.subscribe(c, "/queue/usher.work."+lane, 1))
			if m.Header.Get("original-destination") != "/queue/usher.work" || m.Destination != "/queue/usher.work."+lane {
				t.Errorf("destination %q from %q", m.Destination, m.Header.Get("original-destination"))
			}
			if want := lane[1:]; m.Header.Get("priority") != want {
				t.Errorf("priority %q", m.Header.Get("priority"))
			}
		})
	}
}
