package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
)

func TestHostileInputEndsOnlyItsConnection(t *testing.T) {
	const connect = "CONNECT\naccept-version:1.2\n\n\x00"
	for name, input := range map[string]string{
		"a header block of 1 MB":       connect + "SEND\n" + strings.Repeat("a:"+strings.Repeat("x", 1000)+"\n", 1000) + "\n\x00",
		"one header of 1 MB":           connect + "SEND\na:" + strings.Repeat("x", 1<<20) + "\n\n\x00",
		"10,000 headers":               connect + "SEND\n" + strings.Repeat("a:b\n", 10_000) + "\n\x00",
		"content-length 2^63-1":        connect + "SEND\ndestination:q\ncontent-length:9223372036854775807\n\nabc\x00",
		"content-length 2^64":          connect + "SEND\ndestination:q\ncontent-length:18446744073709551616\n\nabc\x00",
		"content-length -1":            connect + "SEND\ndestination:q\ncontent-length:-1\n\nabc\x00",
		"a body over the limit":        connect + "SEND\ndestination:q\n\n" + strings.Repeat("x", 1<<20+1) + "\x00",
		"100,000 NULs":                 strings.Repeat("\x00", 100_000),
		"100,000 NULs after CONNECT":   connect + strings.Repeat("\x00", 100_000),
		"garbage":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"HTTP":                         "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"SEND before CONNECT":          "SEND\ndestination:q\n\nx\x00",
		"CONNECT twice":                connect + connect,
		"a server's command":           connect + "MESSAGE\n\n\x00",
		"an undefined escape":          connect + "SEND\ndestination:q\\t\n\n\x00",
		"no colon":                     connect + "SEND\ndestination\n\n\x00",
		"an unknown version":           "CONNECT\naccept-version:2.0,9\n\n\x00",
		"a heart-beat that is none":    "CONNECT\naccept-version:1.2\nheart-beat:a,b\n\n\x00",
		"a priority in words":          connect + "SEND\ndestination:q\npriority:high\n\nx\x00",
		"a junk expires":               connect + "SEND\ndestination:q\nexpires:tomorrow\n\nx\x00",
		"a delay with a unit":          connect + "SEND\ndestination:q\nAMQ_SCHEDULED_DELAY:15m\n\nx\x00",
		"a scheduler we do not have":   connect + "SEND\ndestination:q\nAMQ_SCHEDULED_CRON:* * * * *\n\nx\x00",
		"a transaction without an end": connect + "BEGIN\ntransaction:t\n\n\x00" + strings.Repeat("SEND\ndestination:q\ntransaction:t\n\n"+strings.Repeat("x", 1<<20)+"\x00", 65),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, Config{MaxBodyBytes: 1 << 20})
			bystander := r.raw()
			bystander.subscribe("other", 5)
			c := r.dial()
			c.bytes(input)
			f, err := c.read()
			if err == nil && f.Command == frame.CONNECTED {
				f, err = c.read()
			}
			if err != nil || f.Command != frame.ERROR || f.Header.Get("message") == "" {
				t.Errorf("want an ERROR, got %v, %v", f, err)
			}
			c.wantClosed()
			if st := r.Stats(); st.Refused != 1 {
				t.Errorf("%d refused", st.Refused)
			}
			if q := r.queue("q"); q.Enqueued != 0 {
				t.Errorf("it was queued: %+v", q)
			}
			bystander.do(frame.SEND, "destination", "q2", "x")
			eventually(t, "the connection is forgotten", func() bool { return r.Stats().Connections == 1 })
		})
	}
}

func TestFrameCutShort(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	c.bytes("SEND\ndestination:q\ncontent-length:100\n\nonly this")
	_ = c.nc.Close()
	eventually(t, "it is counted", func() bool { return r.Stats().Refused == 1 && r.Stats().Connections == 0 })
	if q := r.queue("q"); q.Enqueued != 0 {
		t.Errorf("%+v", q)
	}
}

func TestFaultsThatKeepTheConnection(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	for _, put := range [][]string{
		{frame.SEND, "x"},
		{frame.SEND, "destination", "/nowhere/q", "x"},
		{frame.SEND, "destination", "/queue/", "x"},
		{frame.SEND, "destination", "/queue/a,b", "x"},
		{frame.SEND, "destination", "/temp-topic/a", "x"},
		{frame.SEND, "destination", strings.Repeat("q", 513), "x"},
		{frame.SEND, "destination", "/remote-temp-queue/ID:gone:1", "x"},
		{frame.SEND, "destination", "/topic/t", "AMQ_SCHEDULED_DELAY", "5", "x"},
		{frame.SEND, "destination", "q", "AMQ_SCHEDULED_DELAY", "9223372036854775807", "x"},
		{frame.SUBSCRIBE, "destination", "q"},
		{frame.SUBSCRIBE, "id", "1"},
		{frame.SUBSCRIBE, "id", "1", "destination", "a.>"},
		{frame.SUBSCRIBE, "id", "1", "destination", "q", "ack", "never"},
		{frame.SUBSCRIBE, "id", "1", "destination", "q", headerPrefetch, "0"},
		{frame.SUBSCRIBE, "id", "1", "destination", "q", headerPrefetch, "many"},
		{frame.SUBSCRIBE, "id", "1", "destination", "q", "selector", "JMSPriority = 9"},
		{frame.UNSUBSCRIBE, "id", "1"},
		{frame.UNSUBSCRIBE},
	} {
		c.put(put[0], append([]string{"receipt", "r1"}, put[1:]...)...)
		if e := c.want(frame.ERROR); e.Header.Get("receipt-id") != "r1" || e.Header.Get("message") == "" {
			t.Errorf("%v: %v", put, e.Header)
		}
	}
	c.do(frame.SUBSCRIBE, "id", "1", "destination", "q")
	c.put(frame.SUBSCRIBE, "id", "1", "destination", "q2")
	c.want(frame.ERROR)
	for i := range maxTransactions {
		c.do(frame.BEGIN, "transaction", fmt.Sprint(i))
	}
	c.put(frame.BEGIN, "transaction", "more")
	c.want(frame.ERROR)
	c.do(frame.SEND, "destination", "q2", "still here")
}

func TestTooManyConnections(t *testing.T) {
	r := start(t, Config{MaxConnections: 2})
	a, b := r.raw(), r.raw()
	c := r.dial()
	c.want(frame.ERROR)
	c.wantClosed()
	a.do(frame.DISCONNECT)
	a.wantClosed()
	eventually(t, "its place is free", func() bool { return r.Stats().Connections == 1 })
	r.raw().do(frame.SEND, "destination", "q", "x")
	b.do(frame.SEND, "destination", "q", "x")
}

// A client that takes messages and does not read must not hold up anybody.
func TestStuckReaderBlocksNobody(t *testing.T) {
	r := start(t, Config{})
	stuck := r.raw()
	stuck.put(frame.SUBSCRIBE, "id", "s", "destination", "q", "ack", "client-individual", headerPrefetch, "100000")
	stuck.put(frame.SUBSCRIBE, "id", "t", "destination", "/topic/t")
	eventually(t, "it is subscribed", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.queues["/topic/t"] != nil
	})
	const messages = 1000
	body := bytes.Repeat([]byte("x"), 32<<10)
	if err := errors.Join(produce(r.raw(), "q", body, messages), produce(r.raw(), "/topic/t", body, messages)); err != nil {
		t.Fatal(err)
	}
	r.raw().do(frame.SEND, "destination", "elsewhere", "x")
	held := r.queue("q").InFlight // as much as fits in buffers
	if held > messages*2/3 {
		t.Errorf("the stuck client holds %d of %d messages", held, messages)
	}
	reader := r.raw()
	reader.subscribe("q", 5)
	for range messages - held {
		reader.ack(reader.want(frame.MESSAGE))
	}
	elsewhere := r.raw()
	elsewhere.subscribe("elsewhere", 200)
	elsewhere.take(1)
}

// A client that floods and never reads its receipts is not read from any more.
func TestFloodWithoutReadingCostsAFixedAmount(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	c.subscribe("own", 1)
	r.mu.Lock()
	box := r.queues["/queue/own"].subs[0].conn.out
	r.mu.Unlock()
	go func() { // ends with the socket
		c.bytes(strings.Repeat("SEND\ndestination:/topic/nobody\nreceipt:"+strings.Repeat("r", 1000)+"\n\n\x00", 20_000))
	}()
	eventually(t, "the reader pauses", box.crowded)
	r.raw().do(frame.SEND, "destination", "q", "x")
	box.mu.Lock()
	defer box.mu.Unlock()
	if len(box.items) > frontFrames+1 {
		t.Errorf("%d frames wait", len(box.items))
	}
}
