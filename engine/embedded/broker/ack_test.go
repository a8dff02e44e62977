package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
)

// fillWith sends messages through a connection of its own.
func (r *running) fillWith(dest string, bodies ...string) {
	r.t.Helper()
	c := r.raw()
	for _, body := range bodies {
		c.do(frame.SEND, "destination", dest, body)
	}
	c.do(frame.DISCONNECT)
}

func (c *raw) take(n int) (ms []*frame.Frame) {
	c.t.Helper()
	for range n {
		ms = append(ms, c.want(frame.MESSAGE))
	}
	return ms
}

func texts(ms []*frame.Frame) string {
	var all []string
	for _, m := range ms {
		all = append(all, string(m.Body))
	}
	return strings.Join(all, " ")
}

func TestDisconnectRedeliversInOrder(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2", "3", "4", "5", "6")
	a, b := r.raw(), r.raw()
	a.subscribe("q", 1)
	first := a.take(1)
	b.subscribe("q", 1)
	second := b.take(1)
	a.ack(first[0])
	third := a.take(1)
	if got := texts(slices.Concat(first, second, third)); got != "1 2 3" {
		t.Fatalf("given out: %s", got)
	}
	_ = a.nc.Close() // with 3
	eventually(t, "3 comes back", func() bool { return r.queue("q").InFlight == 1 })
	_ = b.nc.Close() // with 2
	eventually(t, "2 comes back", func() bool { return r.queue("q").InFlight == 0 })
	c := r.raw()
	c.subscribe("q", 10)
	again := c.take(5)
	if got := texts(again); got != "2 3 4 5 6" {
		t.Errorf("redelivered: %s", got)
	}
	for i, m := range again {
		if got, want := m.Header.Get("redelivered") == "true", i < 2; got != want {
			t.Errorf("%s redelivered: %v", m.Body, got)
		}
	}
	if again[0].Header.Get("message-id") != second[0].Header.Get("message-id") {
		t.Error("the message-id changed")
	}
}

func TestRedeliveredGoToTheHeadOfTheirLevelOnly(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	for _, p := range []string{"4", "4", "9"} {
		c.do(frame.SEND, "destination", "q", "priority", p, p)
	}
	d := r.raw()
	d.subscribe("q", 2)
	if got := texts(d.take(2)); got != "9 4" {
		t.Fatal(got)
	}
	c.do(frame.SEND, "destination", "q", "priority", "9", "new 9")
	_ = d.nc.Close()
	eventually(t, "they come back", func() bool { return r.queue("q").InFlight == 0 })
	c.subscribe("q", 10)
	if got := texts(c.take(4)); got != "9 new 9 4 4" {
		t.Errorf("order: %s", got)
	}
}

func TestUnsubscribeGivesBack(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2")
	c := r.raw()
	c.subscribe("q", 5)
	c.take(2)
	c.do(frame.UNSUBSCRIBE, "id", "s")
	if q := r.queue("q"); q.InFlight != 0 || q.Size != 2 {
		t.Errorf("%+v", q)
	}
	c.subscribe("q", 5)
	if got := texts(c.take(2)); got != "1 2" {
		t.Errorf("again: %s", got)
	}
}

func TestWindowBoundsWhatIsInFlight(t *testing.T) {
	r := start(t, Config{Window: 3})
	r.fillWith("q", "1", "2", "3", "4", "5")
	c := r.raw()
	c.do(frame.SUBSCRIBE, "id", "s", "destination", "q", "ack", "client-individual")
	ms := c.take(3)
	c.wantNothing()
	c.ack(ms[1])
	if got := texts(c.take(1)); got != "4" {
		t.Errorf("next: %s", got)
	}
	c.wantNothing()
}

func TestSubscribersShareFairly(t *testing.T) {
	r := start(t, Config{})
	a, b := r.raw(), r.raw()
	a.subscribe("q", 10)
	b.subscribe("q", 10)
	for i := range 20 {
		r.fillWith("q", fmt.Sprint(i))
	}
	if x, y := a.take(10), b.take(10); len(x) != len(y) {
		t.Errorf("%d and %d", len(x), len(y))
	}
	if q := r.queue("q"); q.InFlight != 20 {
		t.Errorf("%+v", q)
	}
}

func TestClientAckIsCumulative(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2", "3", "4")
	c := r.raw()
	c.do(frame.SUBSCRIBE, "id", "s", "destination", "q", "ack", "client")
	ms := c.take(4)
	c.do(frame.ACK, "id", ms[2].Header.Get("ack"))
	if q := r.queue("q"); q.Size != 1 || q.Dequeued != 3 {
		t.Errorf("%+v", q)
	}
}

func TestAutoAckSettlesWhatWasWritten(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2", "3")
	c := r.raw()
	c.do(frame.SUBSCRIBE, "id", "s", "destination", "q", "ack", "auto", headerPrefetch, "1")
	for _, m := range c.take(3) {
		if _, ok := m.Header.Contains("ack"); ok {
			t.Error("an ack header in mode auto")
		}
	}
	eventually(t, "all are settled", func() bool { return r.queue("q").Size == 0 })
	r = r.restart(Config{})
	if q := r.queue("q"); q.Size != 0 {
		t.Errorf("after a restart: %+v", q)
	}
}

func TestUnexpectedAckKeepsTheConnection(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1")
	c := r.raw()
	c.subscribe("q", 1)
	m := c.take(1)[0]
	c.ack(m)
	for _, command := range []string{frame.ACK, frame.NACK} {
		for _, id := range []string{m.Header.Get("ack"), "nonsense", "99", m.Header.Get("message-id")} {
			c.put(command, "id", id, "receipt", "r1")
			e := c.want(frame.ERROR)
			if want := "Unexpected " + command; !strings.HasPrefix(e.Header.Get("message"), want) || e.Header.Get("receipt-id") != "r1" {
				t.Errorf("%s of %q: %v", command, id, e.Header)
			}
		}
	}
	c.put(frame.ACK)
	c.want(frame.ERROR)
	c.do(frame.SEND, "destination", "q2", "still here")
}

func TestNackGoesToTheDeadLetterQueue(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	c.do(frame.SEND, "destination", "usher.work", "priority", "4", "custom", "x", "expires", "9999999999999", "bad")
	c.subscribe("usher.work.p4", 1)
	m := c.take(1)[0]
	c.do(frame.NACK, "id", m.Header.Get("ack"))
	r = r.restart(Config{})
	if q := r.queue("usher.work.p4"); q.Size != 0 {
		t.Errorf("%+v", q)
	}
	c = r.raw()
	c.subscribe("DLQ.usher.work.p4", 1)
	d := c.take(1)[0]
	for name, want := range map[string]string{"message-id": m.Header.Get("message-id"), "custom": "x", "priority": "4",
		"destination": "/queue/DLQ.usher.work.p4", "original-destination": "/queue/usher.work.p4",
		"expires": "", "originalExpiration": "9999999999999", "dlqDeliveryFailureCause": ""} {
		if got := d.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if string(d.Body) != "bad" {
		t.Errorf("body %q", d.Body)
	}
}

func TestNackInModeClientIsForOne(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2", "3")
	c := r.raw()
	c.do(frame.SUBSCRIBE, "id", "s", "destination", "q", "ack", "client")
	ms := c.take(3)
	c.do(frame.NACK, "id", ms[1].Header.Get("ack"))
	if q, dlq := r.queue("q"), r.queue("DLQ.q"); q.Size != 2 || dlq.Size != 1 {
		t.Errorf("%+v %+v", q, dlq)
	}
}

func TestTransactionIsAtomic(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "in")
	c := r.raw()
	c.subscribe("q", 1)
	m := c.take(1)[0]
	c.do(frame.BEGIN, "transaction", "t1")
	c.do(frame.SEND, "destination", "out", "transaction", "t1", "follow-on")
	c.do(frame.ACK, "id", m.Header.Get("ack"), "transaction", "t1")
	if r.queue("out").Size != 0 || r.queue("q").Size != 1 {
		t.Error("visible before COMMIT")
	}
	c.do(frame.COMMIT, "transaction", "t1")
	if r.queue("out").Size != 1 || r.queue("q").Size != 0 {
		t.Error("not visible after COMMIT")
	}
	r = r.restart(Config{})
	if r.queue("out").Size != 1 || r.queue("q").Size != 0 {
		t.Error("not durable after COMMIT")
	}
}

func TestAbortDoesNotRedeliver(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2")
	c := r.raw()
	c.subscribe("q", 1)
	m := c.take(1)[0]
	c.do(frame.BEGIN, "transaction", "t1")
	c.do(frame.SEND, "destination", "out", "transaction", "t1", "x")
	c.do(frame.ACK, "id", m.Header.Get("ack"), "transaction", "t1")
	c.take(1) // the window is free once the ACK is in a transaction
	c.do(frame.ABORT, "transaction", "t1")
	c.wantNothing()
	if r.queue("out").Size != 0 || r.queue("q").InFlight != 2 {
		t.Errorf("%+v %+v", r.queue("out"), r.queue("q"))
	}
	c.do(frame.ACK, "id", m.Header.Get("ack")) // it is still the client's
	if q := r.queue("q"); q.Size != 1 {
		t.Errorf("%+v", q)
	}
}

func TestDisconnectAbortsTransactions(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1")
	c := r.raw()
	c.subscribe("q", 1)
	m := c.take(1)[0]
	c.do(frame.BEGIN, "transaction", "t1")
	c.do(frame.ACK, "id", m.Header.Get("ack"), "transaction", "t1")
	_ = c.nc.Close()
	eventually(t, "it comes back", func() bool { q := r.queue("q"); return q.InFlight == 0 && q.Size == 1 })
}

func TestTransactionFaults(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1")
	c := r.raw()
	c.subscribe("q", 1)
	m := c.take(1)[0]
	c.do(frame.BEGIN, "transaction", "t1")
	for _, put := range [][]string{
		{frame.BEGIN, "transaction", "t1"}, {frame.BEGIN},
		{frame.COMMIT, "transaction", "t2"}, {frame.COMMIT}, {frame.ABORT, "transaction", "t2"},
		{frame.SEND, "destination", "q", "transaction", "t2"},
		{frame.ACK, "id", "1", "transaction", "t2"},
		{frame.NACK, "id", m.Header.Get("ack"), "transaction", "t1"},
	} {
		c.put(put[0], put[1:]...)
		c.want(frame.ERROR)
	}
	c.do(frame.ACK, "id", m.Header.Get("ack"), "transaction", "t1")
	c.put(frame.ACK, "id", m.Header.Get("ack"), "transaction", "t1")
	c.want(frame.ERROR) // twice
}

func TestOldVersionsAckByMessageID(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2")
	c := r.dial()
	c.put(frame.CONNECT) // STOMP 1.0
	if f := c.want(frame.CONNECTED); f.Header.Get("version") != "" || f.Header.Get("session") == "" {
		t.Errorf("%v", f.Header)
	}
	c.put(frame.SUBSCRIBE, "destination", "/queue/q", "ack", "client")
	ms := c.take(2)
	if _, ok := ms[0].Header.Contains("subscription"); ok {
		t.Error("a subscription header, and the client gave no id")
	}
	c.r.SetVersion("1.0")
	c.w.SetVersion("1.0")
	c.do(frame.ACK, "message-id", ms[1].Header.Get("message-id"))
	if q := r.queue("q"); q.Size != 0 {
		t.Errorf("%+v", q)
	}
	c.put(frame.NACK, "message-id", "x")
	c.want(frame.ERROR)
	c.do(frame.UNSUBSCRIBE, "destination", "/queue/q")
	c.do(frame.DISCONNECT)
	c.wantClosed()
}
