package broker

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
)

func TestReplyComesBackThroughATemporaryQueue(t *testing.T) {
	r := start(t, Config{})
	asker, replier := r.raw(), r.raw()
	asker.subscribe("/temp-queue/answers", 5)
	asker.do(frame.SEND, "destination", "questions", "reply-to", "/temp-queue/answers", "correlation-id", "c7", "?")
	replier.subscribe("questions", 5)
	q := replier.take(1)[0]
	to := q.Header.Get("reply-to")
	if !strings.HasPrefix(to, "/remote-temp-queue/ID:usher-") {
		t.Fatalf("reply-to %q", to)
	}
	replier.do(frame.SEND, "destination", to, "correlation-id", q.Header.Get("correlation-id"), "!")
	a := asker.take(1)[0]
	if string(a.Body) != "!" || a.Header.Get("correlation-id") != "c7" || a.Header.Get("destination") != "/temp-queue/answers" {
		t.Errorf("%v %q", a.Header, a.Body)
	}
	asker.do(frame.ACK, "id", a.Header.Get("ack"))

	replier.put(frame.SUBSCRIBE, "id", "spy", "destination", to)
	replier.want(frame.ERROR)
	asker.do(frame.DISCONNECT)
	eventually(t, "the queue is gone", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.queues[to] == nil
	})
	replier.put(frame.SEND, "destination", to, "too late")
	if e := replier.want(frame.ERROR); !strings.HasPrefix(e.Header.Get("message"), "Cannot publish to a deleted Destination") {
		t.Errorf("%v", e.Header)
	}
}

func TestTemporaryQueuesOfTwoConnectionsAreTwo(t *testing.T) {
	r := start(t, Config{})
	a, b := r.raw(), r.raw()
	a.subscribe("/temp-queue/x", 5)
	b.subscribe("/temp-queue/x", 5)
	a.do(frame.SEND, "destination", "q", "reply-to", "/temp-queue/x", "from a")
	b.put(frame.SEND, "destination", "/temp-queue/x", "to b")
	if got := texts(b.take(1)); got != "to b" {
		t.Error(got)
	}
	a.wantNothing()
}

func TestTemporaryQueuesHaveABound(t *testing.T) {
	r := start(t, Config{CacheBytes: 10_000})
	c := r.raw()
	for range 4 {
		c.do(frame.SEND, "destination", "/temp-queue/x", strings.Repeat("x", 2000))
	}
	c.put(frame.SEND, "destination", "/temp-queue/x", strings.Repeat("x", 2000))
	c.want(frame.ERROR)
	c.put(frame.SUBSCRIBE, "id", "s", "destination", "/temp-queue/x", "ack", "auto")
	c.take(4)
	eventually(t, "the memory is given back", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.transient == 0
	})
	c.do(frame.SEND, "destination", "/temp-queue/y", strings.Repeat("x", 2000))
	c.do(frame.DISCONNECT)
	eventually(t, "the memory is given back with the connection", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.transient == 0
	})
}

func TestTopicFansOutToWhoListens(t *testing.T) {
	for _, ack := range []string{"auto", "client", "client-individual"} {
		t.Run(ack, func(t *testing.T) {
			r := start(t, Config{})
			a, b := r.raw(), r.raw()
			a.do(frame.SEND, "destination", "/topic/usher.control", "nobody listens yet")
			for _, c := range []*raw{a, b} {
				c.do(frame.SUBSCRIBE, "id", "s", "destination", "/topic/usher.control", "ack", ack)
			}
			r.raw().do(frame.SEND, "destination", "/topic/usher.control", "nudge")
			for _, c := range []*raw{a, b} {
				m := c.take(1)[0]
				if string(m.Body) != "nudge" || m.Header.Get("persistent") != "" || m.Header.Get("destination") != "/topic/usher.control" {
					t.Errorf("%v %q", m.Header, m.Body)
				}
				if ack != "auto" {
					c.do(frame.ACK, "id", m.Header.Get("ack"))
					c.do(frame.NACK, "id", m.Header.Get("ack"))
				}
				c.do(frame.UNSUBSCRIBE, "id", "s")
			}
		})
	}
}

func TestTopicMessageInATransaction(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	c.do(frame.SUBSCRIBE, "id", "s", "destination", "/topic/t")
	c.do(frame.BEGIN, "transaction", "t")
	c.do(frame.SEND, "destination", "/topic/t", "transaction", "t", "x")
	c.wantNothing()
	c.put(frame.COMMIT, "transaction", "t")
	c.take(1)
}

func TestStatistics(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("usher.work.p4", "1", "2", "3")
	c := r.raw()
	c.subscribe("usher.work.p4", 2)
	ms := c.take(2)
	c.ack(ms[0])
	c.take(1)
	ask := func(queue string) map[string]any {
		t.Helper()
		asker := r.raw()
		asker.do(frame.SUBSCRIBE, "id", "d", "destination", "/temp-queue/depths", "transformation", "jms-map-json")
		asker.put(frame.SEND, "destination", "/queue/ActiveMQ.Statistics.Destination."+queue, "reply-to", "/temp-queue/depths", "correlation-id", "1/"+queue)
		m := asker.take(1)[0]
		if m.Header.Get("correlation-id") != "1/"+queue {
			t.Errorf("%v", m.Header)
		}
		var got map[string]any
		if err := json.Unmarshal(m.Body, &got); err != nil {
			t.Fatalf("%q: %v", m.Body, err)
		}
		return got
	}
	got := ask("usher.work.p4")
	for name, want := range map[string]any{"size": 2.0, "inflightCount": 2.0, "enqueueCount": 3.0, "dequeueCount": 1.0, "destinationName": "queue://usher.work.p4"} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if got := ask("usher.work.p9"); got["size"] != 0.0 || got["oldestMessageTimestamp"] != nil {
		t.Errorf("a lane that nobody used: %v", got)
	}
	c = r.raw()
	c.do(frame.SEND, "destination", "ActiveMQ.Statistics.Destination.usher.work.p4")
	c.do(frame.SEND, "destination", "ActiveMQ.Statistics.Destination.nowhere", "reply-to", "/queue/answers")
	if q := r.queue("answers"); q.Enqueued != 0 {
		t.Error("an answer for a queue that is not there")
	}
	c.do(frame.SEND, "destination", "ActiveMQ.Statistics.Destination.usher.work", "reply-to", "/queue/answers")
	c.do(frame.DISCONNECT)
	if q := r.queue("answers"); q.Enqueued != 1 {
		t.Error("no answer in a durable queue")
	}
}

func TestHeadersReachTheirReceiver(t *testing.T) {
	tricky := "a:b\\c\nd\re"
	for _, v := range []string{"1.0", "1.1", "1.2"} {
		t.Run(v, func(t *testing.T) {
			r := start(t, Config{})
			r.raw().do(frame.SEND, "destination", "q", "tricky", tricky, "plain", "a:b", "plain", "the second does not count",
				"timestamp", "0", "redelivered", "true", "message-id", "mine", "subscription", "x", "ack", "x",
				"persistent", "false", "original-destination", "x", "content-type", "application/json", "expires", "9999999999999", "\x01\xff")
			c := r.dial()
			c.put(frame.CONNECT, "accept-version", v)
			c.want(frame.CONNECTED)
			c.r.SetVersion(stompVersion(v))
			c.w.SetVersion(stompVersion(v))
			c.subscribe("q", 1)
			m := c.take(1)[0]
			want := map[string]string{"plain": "a:b", "redelivered": "", "original-destination": "", "persistent": "true",
				"content-type": "application/json", "expires": "9999999999999", "subscription": "s", "content-length": "2"}
			if v == "1.2" {
				want["tricky"] = tricky
			}
			for name, value := range want {
				if got := m.Header.Get(name); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			}
			for _, name := range []string{"timestamp", "message-id"} {
				if all := m.Header.GetAll(name); len(all) != 1 || len(all[0]) < 10 {
					t.Errorf("%s is %q", name, all)
				}
			}
			if string(m.Body) != "\x01\xff" {
				t.Errorf("body %q", m.Body)
			}
		})
	}
}
