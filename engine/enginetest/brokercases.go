package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	return []brokerCase{
		{"DeliversWhatWasPublished", nil, deliversWhatWasPublished},
		{"PriorityReachesItsLane", noLanes, priorityReachesItsLane},
		{"ClampsPriority", nil, clampsPriority},
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
		{"ScheduledDelayWaits", noScheduler, scheduledDelayWaits},
		{"ScheduledMessageSurvivesARestart", func(f BrokerFeatures) bool { return f.NoScheduler || f.NoRestart }, scheduledSurvivesARestart},
		{"DepthsCountSizeAndInFlight", noStatistics, depthsCountSizeAndInFlight},
		{"NackDeadLetters", nil, nackDeadLetters},
		{"ExpiredGoesToTheBrokersDeadLetters", nil, expiredGoesToDeadLetters},
		{"JunkInASendQueuesNothing", nil, junkInASendQueuesNothing},
		{"ReceiptsArePipelined", nil, receiptsArePipelined},
		{"ConsumerThatDoesNotReadHoldsNobody", nil, consumerThatDoesNotReadHoldsNobody},
		{"IndependentClientOfEachVersion", nil, independentClientOfEachVersion},
		{"ManyPublishersAndOneConsumerLoseNothing", nil, manyPublishersLoseNothing},
		{"ClientConsumesWhatItAcksAndLeavesTheRest", nil, clientConsumes},
	}
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

// What ActiveMQ 5.17.2 does: above 9 is 9, but the number is a signed byte.
func clampsPriority(r *brokerRig) {
	e := r.open(nil)
	for sent, want := range map[string]int{"99": 9, "128": 0, "10": 9} {
		e.publish(sent, engine.HeaderPriority, sent)
		d := e.one()
		if d.Lane != r.lane(want) || d.Headers[engine.HeaderPriority] != strconv.Itoa(want) {
			r.Errorf("priority %s became %s, in lane %d; want %d", sent, d.Headers[engine.HeaderPriority], d.Lane, want)
		}
		e.ack(d)
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
		"spaces": "  a  b  ", "empty": "", "quotes": `"'`, "under_score": "1", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
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

func scheduledSurvivesARestart(r *brokerRig) {
	e := r.open(nil)
	e.publish("later", engine.HeaderScheduledDelay, "1000")
	e.stop()
	r.server.Restart(r.T)
	if d := r.open(nil).one(); string(d.Body) != "later" {
		r.Errorf("got %q", d.Body)
	}
}

func depthsCountSizeAndInFlight(r *brokerRig) {
	e := r.open(window(5))
	e.publishMany(8, 3)
	got := e.receive(5)
	lane := r.lane(3)
	expect := func(want engine.Depth) {
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
			ok := depths.Lanes[lane] == want && known && (lane == engine.Unsorted || other == engine.Depth{})
			return ok, fmt.Sprintf("%+v", depths.Lanes)
		})
	}
	expect(engine.Depth{Size: 8, InFlight: 5})
	e.ack(got[:2]...)
	e.receive(2)
	expect(engine.Depth{Size: 6, InFlight: 5})
}

func nackDeadLetters(r *brokerRig) {
	e := r.open(nil)
	e.stop()
	e.publish("refused", engine.HeaderPriority, "4", engine.HeaderID, "n-1")
	conn := r.independent()
	sub, err := conn.Subscribe("/queue/"+r.laneQueue(4), gostomp.AckClientIndividual)
	if err != nil {
		r.Fatal(err)
	}
	select {
	case m := <-sub.C:
		if m.Err != nil {
			r.Fatal(m.Err)
		}
		if err := conn.Nack(m); err != nil {
			r.Fatal(err)
		}
	case <-r.ctx.Done():
		r.Fatal("no message")
	}
	dead := r.contents(r.h.Features.DeadLetters(r.laneQueue(4)), 1)
	if len(dead) != 1 || string(dead[0].Body) != "refused" || dead[0].Headers[engine.HeaderID] != "n-1" {
		r.Errorf("the dead letters are %v", dead)
	}
}

func expiredGoesToDeadLetters(r *brokerRig) {
	e := r.open(nil)
	e.stop()
	e.publish("too late", engine.HeaderPriority, "4", engine.HeaderExpires, strconv.FormatInt(time.Now().Add(300*time.Millisecond).UnixMilli(), 10))
	e.publish("in time", engine.HeaderPriority, "4", engine.HeaderExpires, strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10))
	r.pass(500 * time.Millisecond)
	e.run()
	if d := e.one(); string(d.Body) != "in time" {
		r.Errorf("%q was delivered", d.Body)
	}
	e.quiet()
	dead := r.contents(r.h.Features.DeadLetters(r.laneQueue(4)), 1)
	if len(dead) != 1 || string(dead[0].Body) != "too late" {
		r.Errorf("the dead letters are %v", dead)
	}
}

// ActiveMQ 5.17.2 closes the connection of a producer that sends a number which
// is none, and queues nothing.
func junkInASendQueuesNothing(r *brokerRig) {
	e := r.open(nil)
	junk := [][2]string{{"priority", "high"}, {"expires", "tomorrow"}}
	if !r.h.Features.NoScheduler {
		junk = append(junk, [2]string{engine.HeaderScheduledDelay, "15m"})
	}
	for _, header := range junk {
		c := r.bare()
		c.write(frame.New(frame.SEND, "destination", "/queue/"+engine.WorkQueue, "persistent", "true", "receipt", "1", header[0], header[1]))
		for f := c.read(); f != nil; f = c.read() {
			if f.Command == frame.RECEIPT {
				r.Errorf("%s:%s got a receipt", header[0], header[1])
			}
		}
	}
	e.quiet()
}

func receiptsArePipelined(r *brokerRig) {
	const n = 300
	c := r.bare()
	var sends []*frame.Frame
	waiting := map[string]bool{}
	for i := range n {
		id := "r" + strconv.Itoa(i)
		waiting[id] = true
		sends = append(sends, frame.New(frame.SEND, "destination", "/queue/"+engine.WorkQueue, "persistent", "true", "receipt", id))
	}
	c.write(sends...) // all of them before the first answer is read
	for len(waiting) > 0 {
		f := c.read()
		if f == nil || f.Command != frame.RECEIPT || !waiting[f.Header.Get(frame.ReceiptId)] {
			r.Fatalf("got %v with %d receipts to come", f, len(waiting))
		}
		delete(waiting, f.Header.Get(frame.ReceiptId))
	}
	r.open(window(n)).receive(n)
}

func consumerThatDoesNotReadHoldsNobody(r *brokerRig) {
	stuck := r.bare()
	stuck.write(frame.New(frame.SUBSCRIBE, "id", "x", "destination", "/queue/stuck", "ack", "client-individual", "activemq.prefetchSize", "1000"))
	e := r.open(nil)
	body := bytes.Repeat([]byte{'x'}, 64<<10)
	for range 300 { // more than all buffers between us hold
		if err := e.Publish(r.ctx, engine.Outgoing{Queue: "stuck", Body: body}); err != nil {
			r.Fatalf("while a consumer does not read: %v", err)
		}
	}
	e.publish("flows")
	if d := e.one(); string(d.Body) != "flows" {
		r.Errorf("got %q", d.Body)
	}
	if _, err := e.Depths(r.ctx); err != nil && !r.h.Features.NoStatistics {
		r.Errorf("Depths: %v", err)
	}
}

func independentClientOfEachVersion(r *brokerRig) {
	for _, v := range []gostomp.Version{gostomp.V10, gostomp.V11, gostomp.V12} {
		conn := r.independent(gostomp.ConnOpt.AcceptVersion(v))
		if conn.Version() != v {
			r.Fatalf("asked for %s, got %s", v, conn.Version())
		}
		queue := "/queue/independent." + strings.ReplaceAll(v.String(), ".", "")
		sub, err := conn.Subscribe(queue, gostomp.AckClientIndividual, gostomp.SubscribeOpt.Header("activemq.prefetchSize", "1"))
		if err != nil {
			r.Fatal(err)
		}
		for i := range 3 {
			if err := conn.Send(queue, "text/plain", []byte(strconv.Itoa(i)), gostomp.SendOpt.Receipt, gostomp.SendOpt.Header("key", `a\b`)); err != nil {
				r.Fatalf("%s: %v", v, err)
			}
		}
		for i := range 3 { // each comes only after the one before was acked
			select {
			case m := <-sub.C:
				if m.Err != nil || string(m.Body) != strconv.Itoa(i) {
					r.Fatalf("%s: message %d is %q, %v", v, i, m.Body, m.Err)
				}
				if err := conn.Ack(m); err != nil {
					r.Fatal(err)
				}
			case <-r.ctx.Done():
				r.Fatalf("%s: message %d did not come", v, i)
			}
		}
	}
}

func manyPublishersLoseNothing(r *brokerRig) {
	const publishers, each = 16, 50
	e := r.open(func(c *stomp.Config) { c.Window, c.Publishers = 50, 3 })
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				body := fmt.Sprintf("%d/%d", p, i)
				err := e.Publish(r.ctx, engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(body), Headers: map[string]string{
					engine.HeaderPriority: strconv.Itoa((p + i) % engine.Levels)}})
				if err != nil {
					r.Errorf("Publish %s: %v", body, err)
				}
			}
		})
	}
	seen := map[string]int{}
	for total := 0; total < publishers*each; {
		batch, err := e.Receive(r.ctx)
		if err != nil {
			r.Fatalf("after %d messages: %v", total, err)
		}
		for _, d := range batch.Deliveries {
			seen[string(d.Body)]++
			total++
			e.ack(d)
		}
	}
	wg.Wait()
	if len(seen) != publishers*each {
		r.Errorf("%d different messages came of %d", len(seen), publishers*each)
	}
	e.quiet()
}

func clientConsumes(r *brokerRig) {
	client, err := stomp.Dial(r.ctx, r.config())
	if err != nil {
		r.Fatal(err)
	}
	defer client.Close()
	for i := range 6 {
		if err := client.Send(r.ctx, engine.Outgoing{Queue: engine.DeadQueue, Body: []byte(strconv.Itoa(i))}); err != nil {
			r.Fatal(err)
		}
	}
	look := func(ctx context.Context, v stomp.View, odd bool) (bodies string) {
		r.Helper()
		v.Queue, v.Quiet = engine.DeadQueue, 300*time.Millisecond
		err := client.Consume(ctx, v, func(d engine.Delivery) (bool, error) {
			bodies += string(d.Body)
			return odd && d.Body[0]%2 == 1, nil
		})
		if err != nil {
			r.Fatalf("Consume: %v", err)
		}
		return bodies
	}
	for _, step := range []struct {
		view stomp.View
		odd  bool // ack those with odd numbers
		want string
	}{
		{stomp.View{Window: 4}, false, "0123"},
		{stomp.View{Limit: 2}, false, "01"},
		{stomp.View{}, true, "012345"},
		{stomp.View{}, false, "024"},
	} {
		if got := look(r.ctx, step.view, step.odd); got != step.want {
			r.Errorf("%+v saw %s, want %s", step.view, got, step.want)
		}
	}
}
