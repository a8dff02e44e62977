package enginetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp"
)

// brokerCase is one behaviour. It is left out where lacking says so.
type brokerCase struct {
	name    string
	lacking func(BrokerFeatures) bool
	run     func(*brokerRig)
}

func brokerCases() []brokerCase {
	noLanes := func(f BrokerFeatures) bool { return f.NoLanes }
	noStatistics := func(f BrokerFeatures) bool { return f.NoStatistics }
	noScheduler := func(f BrokerFeatures) bool { return f.NoScheduler }
	noRestart := func(f BrokerFeatures) bool { return f.NoRestart }
	lacking := func(f BrokerFeatures) bool { return f.NoLanes || f.NoStatistics || f.NoScheduler }
	return slices.Concat(ackCases(), factCases(), []brokerCase{
		{"DeliversWhatWasPublished", nil, deliversWhatWasPublished},
		{"PriorityReachesItsLane", noLanes, priorityReachesItsLane},
		{"HigherLaneHasOwnWindow", noLanes, higherLaneHasOwnWindow},
		{"WindowHoldsBackTheRest", nil, windowHoldsBackTheRest},
		{"KeepsOrderWithinALevel", nil, keepsOrderWithinALevel},
		{"AckedIsNotRedelivered", nil, ackedIsNotRedelivered},
		{"UnackedIsRedeliveredAfterClose", nil, unackedIsRedeliveredAfterClose},
		{"UnackedIsRedeliveredAfterACut", nil, unackedIsRedeliveredAfterACut},
		{"AckOfOldSessionIsIgnored", nil, ackOfOldSessionIsIgnored},
		{"ConsumersShareAQueue", nil, consumersShareAQueue},
		{"PublishIsDurable", noRestart, publishIsDurable},
		{"SessionComesBackAfterARestart", noRestart, sessionComesBackAfterARestart},
		{"HeadersRoundTrip", nil, headersRoundTrip},
		{"BodyBytesRoundTrip", nil, bodyBytesRoundTrip},
		{"TooLargeBodyIsMarked", nil, tooLargeBodyIsMarked},
		{"OddHeadersEndNoSession", nil, oddHeadersEndNoSession},
		{"ScheduledDelayWaits", noScheduler, scheduledDelayWaits},
		{"DepthsCountSizeAndInFlight", noStatistics, depthsCountSizeAndInFlight},
		{"ReceiptsArePipelined", nil, receiptsArePipelined},
		{"ConsumerThatDoesNotReadHoldsNobody", nil, consumerThatDoesNotReadHoldsNobody},
		{"IndependentClientOfEachVersion", nil, independentClientOfEachVersion},
		{"ManyPublishersAndOneConsumerLoseNothing", nil, manyPublishersLoseNothing},
		{"ClientConsumesWhatItAcksAndLeavesTheRest", nil, clientConsumes},
		{"DepthsCountDeadLetters", noStatistics, depthsCountDeadLetters},
		{"ProbeFindsAllWell", lacking, probeFindsAllWell},
		{"ProbesComeOutElsewhere", lacking, probesComeOutElsewhere},
		{"ProbeStandsBehindABacklog", noLanes, probeStandsBehindABacklog},
	})
}

func deliversWhatWasPublished(r *brokerRig) {
	e := r.open(nil)
	e.publish(`{"a":1}`, engine.HeaderID, "order-7", engine.HeaderPriority, "7", engine.HeaderContentType, "application/json")
	d := e.one()
	if d.BrokerID == "" || d.Redelivered || d.Epoch != 1 || d.Lane != r.lane(7) || string(d.Body) != `{"a":1}` {
		r.Errorf("got %+v", d)
	}
	for name, want := range map[string]string{
		engine.HeaderType: "test", engine.HeaderID: "order-7", engine.HeaderPriority: "7",
		engine.HeaderContentType: "application/json", engine.HeaderMessageID: d.BrokerID,
	} {
		if d.Headers[name] != want {
			r.Errorf("header %s is %q, want %q", name, d.Headers[name], want)
		}
	}
	stamp, err := strconv.ParseInt(d.Headers[engine.HeaderTimestamp], 10, 64)
	if age := time.Since(time.UnixMilli(stamp)); err != nil || age < -time.Minute || age > time.Minute {
		r.Errorf("the timestamp is %q", d.Headers[engine.HeaderTimestamp])
	}
}

func priorityReachesItsLane(r *brokerRig) {
	e := r.open(nil)
	want := map[string]int{"none": engine.DefaultLevel}
	e.publish("none")
	for level := range engine.Levels {
		e.publish(strconv.Itoa(level), engine.HeaderPriority, strconv.Itoa(level))
		want[strconv.Itoa(level)] = level
	}
	got := map[string]int{}
	for _, d := range e.receive(len(want)) {
		got[string(d.Body)] = d.Lane
	}
	if !maps.Equal(got, want) {
		r.Errorf("lanes by message: %v, want %v", got, want)
	}
}

func window(n int) func(*stomp.Config) { return func(c *stomp.Config) { c.Window = n } }

func higherLaneHasOwnWindow(r *brokerRig) {
	e := r.open(window(5))
	e.publishMany(20, 1)
	e.receive(5)
	e.publish("urgent", engine.HeaderPriority, "9")
	if d := e.one(); string(d.Body) != "urgent" || d.Lane != 9 {
		r.Errorf("got %q of lane %d, want the urgent one of lane 9", d.Body, d.Lane)
	}
}

func windowHoldsBackTheRest(r *brokerRig) {
	e := r.open(window(5))
	e.publishMany(20, 4)
	first := e.receive(5)
	e.quiet()
	e.ack(first[2], first[0])
	more := e.receive(2)
	e.quiet()
	e.ack(more...)
	e.receive(2)
	e.quiet()
}

func keepsOrderWithinALevel(r *brokerRig) {
	e := r.open(window(10))
	e.publishMany(60, 6)
	for i := 0; i < 60; {
		batch, err := e.Receive(r.ctx)
		if err != nil {
			r.Fatal(err)
		}
		for _, d := range batch.Deliveries {
			if string(d.Body) != strconv.Itoa(i) {
				r.Fatalf("message %s came as number %d", d.Body, i)
			}
			i++
			e.ack(d)
		}
	}
}

func ackedIsNotRedelivered(r *brokerRig) {
	e := r.open(nil)
	e.publishMany(20, 5)
	got := e.receive(20)
	e.ack(got[:19]...)
	e.stop() // takes the acks with it
	again := r.open(nil)
	if d := again.one(); d.BrokerID != got[19].BrokerID {
		r.Errorf("message %q came again", d.Body)
	}
	again.quiet()
}

func unackedIsRedeliveredAfterClose(r *brokerRig) {
	e := r.open(nil)
	e.publishMany(3, 5)
	ids := map[string]string{}
	for _, d := range e.receive(3) {
		ids[string(d.Body)] = d.BrokerID
	}
	e.stop()
	for _, d := range r.open(nil).receive(3) {
		if d.BrokerID != ids[string(d.Body)] || !d.Redelivered || d.Lane != r.lane(5) {
			r.Errorf("message %q came again with id %s (it was %s), redelivered %v, lane %d",
				d.Body, d.BrokerID, ids[string(d.Body)], d.Redelivered, d.Lane)
		}
	}
}

func unackedIsRedeliveredAfterACut(r *brokerRig) {
	e := r.open(nil)
	e.stop()
	e.publishMany(1, 5)
	c := r.bare()
	c.write(frame.New(frame.SUBSCRIBE, "id", "x", "destination", "/queue/"+r.laneQueue(5), "ack", "client-individual"))
	f := c.read()
	if f == nil || f.Command != frame.MESSAGE {
		r.Fatalf("got %v, want the message", f)
	}
	c.conn.Close()
	e.run()
	if d := e.one(); d.BrokerID != f.Header.Get(frame.MessageId) || !d.Redelivered {
		r.Errorf("message %s came again as %s, redelivered %v", f.Header.Get(frame.MessageId), d.BrokerID, d.Redelivered)
	}
}

func ackOfOldSessionIsIgnored(r *brokerRig) {
	e := r.open(nil)
	e.publishMany(1, 5)
	old := e.one()
	e.stop()
	e.run()
	again := e.one()
	if again.BrokerID != old.BrokerID || again.Epoch <= old.Epoch {
		r.Fatalf("got %+v after %+v", again, old)
	}
	e.ack(old)
	e.stop()
	e.run()
	if third := e.one(); third.BrokerID != old.BrokerID {
		r.Fatalf("got %+v, want the message that only an old session acked", third)
	}
}

func consumersShareAQueue(r *brokerRig) {
	a, b := r.open(window(4)), r.open(window(4))
	a.session()
	b.session()
	publisher := r.independent()
	for i := range 8 {
		err := publisher.Send("/queue/"+engine.WorkQueue, "text/plain", []byte(strconv.Itoa(i)), gostomp.SendOpt.Receipt,
			gostomp.SendOpt.Header("priority", "5"), gostomp.SendOpt.Header("persistent", "true"))
		if err != nil {
			r.Fatal(err)
		}
	}
	var got []string
	for _, d := range append(a.receive(4), b.receive(4)...) {
		got = append(got, string(d.Body))
	}
	slices.Sort(got)
	if want := "0 1 2 3 4 5 6 7"; strings.Join(got, " ") != want {
		r.Errorf("got %v, want each message once", got)
	}
}

func publishIsDurable(r *brokerRig) {
	e := r.open(nil)
	e.publishMany(20, 2)
	e.publishMany(20, 8)
	got := e.receive(40)
	e.ack(got[:10]...)
	e.stop() // the broker has taken the acks
	r.server.Restart(r.T)
	left := map[string]bool{}
	for _, d := range got[10:] {
		left[d.BrokerID] = true
	}
	for _, d := range r.open(nil).receive(30) {
		if !left[d.BrokerID] || !d.Redelivered {
			r.Errorf("message %q came again as %s, redelivered %v", d.Body, d.BrokerID, d.Redelivered)
		}
		delete(left, d.BrokerID)
	}
}

func sessionComesBackAfterARestart(r *brokerRig) {
	e := r.open(nil)
	e.publishMany(1, 5)
	before := e.one()
	at := r.server.Address()
	r.server.Restart(r.T)
	if epoch := e.session(); epoch != 0 {
		r.Fatalf("after the restart Receive told of epoch %d, want the end of the session first", epoch)
	}
	e.ack(before) // of no session: nothing
	if r.server.Address() != at {
		e = r.open(nil) // an engine looks for a broker where it was
	}
	if after := e.one(); after.BrokerID != before.BrokerID || !after.Redelivered {
		r.Errorf("message %s came again as %+v", before.BrokerID, after)
	}
	e.publishMany(1, 5)
	e.one()
}

func headersRoundTrip(r *brokerRig) {
	headers := map[string]string{
		"plain": "value", "colons": "a:b:c", "backslashes": `\n \c \\ \`, "line": "one\ntwo", "unicode": "grüße 猫 🚪",
		"spaces": "  a  b  ", "empty": "", "quotes": `"'`, "return": "one\rtwo", "under_score": "1", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"correlation-id": "c:1", "long": strings.Repeat("x", 5000),
	}
	e := r.open(nil)
	var list []string
	for name, value := range headers {
		list = append(list, name, value)
	}
	e.publish("", list...)
	d := e.one()
	for name, want := range headers {
		if got, ok := d.Headers[name]; got != want || !ok {
			r.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
}

func bodyBytesRoundTrip(r *brokerRig) {
	e := r.open(nil)
	for name, body := range map[string][]byte{
		"empty": {}, "one NUL": {0}, "NULs": {0, 'a', 0, 0, 'b', 0}, "line ends": []byte("\n\r\n\n"),
		"no UTF-8": {0xff, 0xfe, 0xc0, 0x80}, "like a frame": []byte("ACK\nid:1\n\n\x00\n"), "1 MiB": bytes.Repeat([]byte{0, 1, 2, 255}, 1<<18),
	} {
		e.publish(string(body))
		d := e.one()
		if !bytes.Equal(d.Body, body) {
			r.Errorf("%s: %d bytes came back as %d others", name, len(body), len(d.Body))
		}
		e.ack(d)
	}
}

func tooLargeBodyIsMarked(r *brokerRig) {
	e := r.open(func(c *stomp.Config) { c.MaxBodyBytes = 1000 })
	e.publish(strings.Repeat("x", 100_000), engine.HeaderID, "big")
	e.publish("small")
	big := e.receive(2)
	if string(big[0].Body) == "small" {
		slices.Reverse(big)
	}
	if d := big[0]; d.Body != nil || d.Headers[engine.HeaderTooLarge] != "100000" || d.Headers[engine.HeaderID] != "big" {
		r.Errorf("got %v with %d bytes, want no body and its length in %s", d.Headers, len(d.Body), engine.HeaderTooLarge)
	}
	e.ack(big...)
	e.stop()
	e.run()
	e.quiet() // it is settled, and did not end the session
}

// A broker may refuse such messages, with their producer; what it takes must not
// end every session that it is delivered to.
func oddHeadersEndNoSession(r *brokerRig) {
	var huge strings.Builder
	for i := range 20 {
		fmt.Fprintf(&huge, "h%d:%s\n", i, strings.Repeat("x", 5000))
	}
	e := r.open(nil)
	e.session()
	for _, lines := range []string{"bad\\name:x\n", "bad\\tname:x\n", "a\\cb:x\n", "n:a\\tb\n", "n:\rx\n", "a:b:c\n", huge.String()} {
		c := r.bare()
		c.write(frame.New(frame.SEND, "destination", "/queue/"+engine.WorkQueue, "receipt", "1"))
		c.read()
		wire := "SEND\ndestination:/queue/" + engine.WorkQueue + "\npersistent:true\nreceipt:2\n" + lines + "\nodd\x00"
		if _, err := c.conn.Write([]byte(wire)); err != nil {
			r.Fatal(err)
		}
		c.read() // a RECEIPT, an ERROR, or the end
	}
	e.publish("last")
	for last := false; !last; {
		batch, err := e.Receive(r.ctx)
		if err != nil || batch.Epoch != 1 {
			r.Fatalf("got epoch %d, %v; want everything in the one session", batch.Epoch, err)
		}
		for _, d := range batch.Deliveries {
			last = last || string(d.Body) == "last"
			e.ack(d)
		}
	}
}

func scheduledDelayWaits(r *brokerRig) {
	const delay = 1200 * time.Millisecond
	e := r.open(nil)
	e.session()
	began := time.Now()
	e.publish("later", engine.HeaderScheduledDelay, strconv.FormatInt(delay.Milliseconds(), 10), engine.HeaderPriority, "8")
	e.publish("now", engine.HeaderPriority, "8")
	if d := e.one(); string(d.Body) != "now" {
		r.Fatalf("%q came first", d.Body)
	}
	d := e.one()
	if waited := time.Since(began); waited < delay-50*time.Millisecond || waited > delay+10*time.Second {
		r.Errorf("a message to be delayed by %v came after %v", delay, waited)
	}
	if d.Lane != r.lane(8) || string(d.Body) != "later" || d.Redelivered {
		r.Errorf("got %+v, want it in the lane of its priority", d)
	}
}

func depthsCountSizeAndInFlight(r *brokerRig) {
	e := r.open(window(5))
	e.publishMany(8, 3)
	got := e.receive(5)
	lane := r.lane(3)
	expect := func(want engine.Depth, after uint64) {
		r.Helper()
		r.eventually(fmt.Sprintf("a depth of %+v", want), func() (bool, string) {
			asked := time.Now()
			depths, err := e.Depths(r.ctx)
			if err != nil {
				return false, err.Error()
			}
			if depths.At.Before(asked) || depths.At.After(time.Now()) {
				r.Errorf("At is %v, asked at %v", depths.At, asked)
			}
			other, known := depths.Lanes[engine.Unsorted]
			have := depths.Lanes[lane]
			have.Oldest = time.Time{} // not every broker tells
			ok := have == want && known && (lane == engine.Unsorted || other == engine.Depth{}) &&
				depths.Epoch == 1 && depths.After == after
			return ok, fmt.Sprintf("%+v", depths)
		})
	}
	expect(engine.Depth{Size: 8, InFlight: 5}, 5)
	e.ack(got[:2]...)
	e.receive(2)
	expect(engine.Depth{Size: 6, InFlight: 5}, 7)
}
