package enginetest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// The cases of RunBroker in this file are what the design knows of the broker's
// handling of headers, time, statistics and topics. Each says where that stands, and
// on which ActiveMQ it was seen.

func factCases() []brokerCase {
	noStatistics := func(f BrokerFeatures) bool { return f.NoStatistics }
	noScheduler := func(f BrokerFeatures) bool { return f.NoScheduler }
	return []brokerCase{
		{"ClampsPriority", nil, clampsPriority},
		{"JunkInASendQueuesNothing", nil, junkInASendQueuesNothing},
		{"HeaderEscapesOnTheWire", nil, headerEscapesOnTheWire},
		{"WithoutContentLengthItIsText", nil, withoutContentLengthItIsText},
		{"ExpiredGoesToTheBrokersDeadLetters", nil, expiredGoesToDeadLetters},
		{"ExpiredCopyIsTakenFromTheDeadLetters", nil, expiredCopyIsTaken},
		{"TimestampIsTheBrokers", nil, timestampIsTheBrokers},
		{"SchedulerMarksWhatItSends", noScheduler, schedulerMarksWhatItSends},
		{"CopyWithAJobIDIsNotDelayed", noScheduler, copyWithAJobIDIsNotDelayed},
		{"SchedulerMovesExpires", noScheduler, schedulerMovesExpires},
		{"StatisticsAnswerATemporaryQueue", noStatistics, statisticsAnswer},
		{"StatisticsOfNoQueueAreSilent", noStatistics, statisticsOfNoQueue},
		{"TopicReachesWhoListens", nil, topicReachesWhoListens},
		{"PrefetchOf1000IsTheDefault", nil, prefetchOf1000IsTheDefault},
		{"WindowOf1000IsKept", nil, windowOf1000IsKept},
	}
}

// Above 9 is 9, but the number is a signed byte first; below 0 is 0. ActiveMQ 5.17.2
// and 5.18.3.
func clampsPriority(r *brokerRig) {
	e := r.open(nil)
	for sent, want := range map[string]int{"99": 9, "128": 0, "10": 9, "-1": 0} {
		e.publish(sent, engine.HeaderPriority, sent)
		d := e.one()
		if d.Lane != r.lane(want) || d.Headers[engine.HeaderPriority] != strconv.Itoa(want) {
			r.Errorf("priority %s became %s, in lane %d; want %d", sent, d.Headers[engine.HeaderPriority], d.Lane, want)
		}
		e.ack(d)
	}
}

// The connection of a producer that sends a number which is none is closed, without
// a receipt and without an ERROR on ActiveMQ, and nothing is queued. ActiveMQ 5.17.2
// and 5.18.3; of a timestamp and of a negative delay 5.18.3.
func junkInASendQueuesNothing(r *brokerRig) {
	e := r.open(nil)
	junk := [][2]string{
		{engine.HeaderPriority, "high"}, {engine.HeaderPriority, ""}, {engine.HeaderExpires, "tomorrow"}, {engine.HeaderTimestamp, "now"},
	}
	if !r.h.Features.NoScheduler {
		junk = append(junk, [2]string{engine.HeaderScheduledDelay, "15m"}, [2]string{engine.HeaderScheduledDelay, "-5"})
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

// STOMP 1.2, Value Encoding. ActiveMQ 5.18.3.
func headerEscapesOnTheWire(r *brokerRig) {
	c := r.bare()
	c.raw("SEND\ndestination:/queue/" + plainQueue + "\npersistent:true\n" + `na\cme:\cline\none\r\\n` + "\n\nescaped\x00")
	c.subscribe(plainQueue, "client-individual", 1)
	m := c.message()
	if got, want := m.Header.Get("na:me"), ":line\none\r\\n"; got != want {
		r.Errorf("the header is %q, want %q", got, want)
	}
	c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
}

// Without content-length the body is a JMS TextMessage and goes out without one, with
// it a BytesMessage; both have the same bytes. ActiveMQ 5.18.3 (activemq.apache.org,
// Stomp, Working with JMS Text/Bytes Messages).
func withoutContentLengthItIsText(r *brokerRig) {
	const body = "grüße\xff" // which is no UTF-8
	c := r.bare()
	c.send(plainQueue, body)
	c.raw("SEND\ndestination:/queue/" + plainQueue + "\npersistent:true\n\n" + body + "\x00")
	c.subscribe(plainQueue, "client-individual", 2)
	for i, m := range c.messages(2) {
		_, counted := m.Header.Contains(frame.ContentLength)
		if want := i == 0 || r.h.Features.OnlyBytes; counted != want || string(m.Body) != body {
			r.Errorf("message %d came as %q, with a content-length: %v, want %v", i, m.Body, counted, want)
		}
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	}
}

// What expires in the broker becomes a dead letter of its own, without a word of
// ours; the monitor has to drain both. ActiveMQ 5.17.2 and 5.18.3.
func expiredGoesToDeadLetters(r *brokerRig) {
	e := r.open(nil)
	e.stop()
	expires := func(in time.Duration) string { return strconv.FormatInt(time.Now().Add(in).UnixMilli(), 10) }
	e.publish("too late", engine.HeaderPriority, "4", engine.HeaderExpires, expires(300*time.Millisecond))
	e.publish("in time", engine.HeaderPriority, "4", engine.HeaderExpires, expires(time.Hour))
	r.pass(500 * time.Millisecond)
	e.run()
	if d := e.one(); string(d.Body) != "in time" {
		r.Errorf("%q was delivered", d.Body)
	}
	e.quiet()
	dead := r.contents(r.h.Features.DeadLetters(r.laneQueue(4)), 1)
	if len(dead) != 1 || string(dead[0].Body) != "too late" {
		r.Fatalf("the dead letters are %v", dead)
	}
	h := dead[0].Headers
	if _, ours := h[engine.HeaderDeadReason]; ours || !strings.Contains(h["dlqDeliveryFailureCause"], "Expired") || h["originalExpiration"] == "0" {
		r.Errorf("the dead letter has the headers %v", h)
	}
}

// A dead letter of ours that kept expires would be taken away once more, to where
// nobody looks for it: so expires is never copied. ActiveMQ 5.18.3.
func expiredCopyIsTaken(r *brokerRig) {
	c := r.bare()
	c.send(engine.DeadQueue, "late", engine.HeaderExpires, strconv.FormatInt(time.Now().Add(-time.Second).UnixMilli(), 10))
	c.subscribe(engine.DeadQueue, "client-individual", 1)
	c.quiet()
	c.do(frame.DISCONNECT)
	if again := bodies(r.drained(r.h.Features.DeadLetters(engine.DeadQueue))); again != "late" {
		r.Errorf("the dead letters of the dead letters are %q", again)
	}
}

// The broker's clock says when a message was sent, whatever its producer says; and
// expires moves by the difference, as what it says is by the same clock
// (timeStampingBrokerPlugin). So ages and expiry are right with a clock that is an
// hour late. Without a timestamp expires was once a millisecond late. ActiveMQ 5.18.3.
func timestampIsTheBrokers(r *brokerRig) {
	const late, life = -time.Hour, 10 * time.Minute
	c := r.bare()
	began := time.Now()
	stamp := began.Add(late)
	c.send(plainQueue, "", engine.HeaderTimestamp, epoch(stamp), engine.HeaderExpires, epoch(stamp.Add(life)))
	c.send(plainQueue, "", engine.HeaderExpires, epoch(began.Add(life)))
	ended := time.Now()
	c.subscribe(plainQueue, "client-individual", 2)
	for i, m := range c.messages(2) {
		stamp, expires := timeOf(m, engine.HeaderTimestamp), timeOf(m, engine.HeaderExpires)
		if stamp.Before(began.Truncate(time.Millisecond)) || stamp.After(ended) {
			r.Errorf("message %d was sent between %v and %v, and has the timestamp %v", i, began, ended, stamp)
		}
		if off := expires.Sub(began.Add(life)); off < -time.Millisecond || off > ended.Sub(began) {
			r.Errorf("message %d expires %v later than it should", i, off)
		}
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	}
}

func epoch(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// timeOf reads a header in epoch milliseconds; junk is 1970.
func timeOf(m *frame.Frame, name string) time.Time {
	n, _ := strconv.ParseInt(m.Header.Get(name), 10, 64)
	return time.UnixMilli(n)
}

// The scheduler sends a message with scheduledJobId and without AMQ_SCHEDULED_DELAY,
// and not as redelivered. Its timestamp stays what it was, unless it expires some day:
// so by it alone, a message that was delayed looks as if it had waited in its queue,
// and our copies have usher_queuedAt. ActiveMQ 5.18.3.
func schedulerMarksWhatItSends(r *brokerRig) {
	const delay = 300 * time.Millisecond
	c := r.bare()
	c.subscribe(plainQueue, "client-individual", 1)
	for _, expires := range []bool{false, true} {
		headers := []string{engine.HeaderScheduledDelay, strconv.FormatInt(delay.Milliseconds(), 10)}
		if expires {
			headers = append(headers, engine.HeaderExpires, epoch(time.Now().Add(time.Hour)))
		}
		began := time.Now()
		c.send(plainQueue, "", headers...)
		m := c.message()
		if took := time.Since(began); took < delay-50*time.Millisecond {
			r.Errorf("it came after %v, with a delay of %v", took, delay)
		}
		_, delayed := m.Header.Contains(engine.HeaderScheduledDelay)
		_, redelivered := m.Header.Contains(engine.HeaderRedelivered)
		if delayed || redelivered || m.Header.Get(engine.HeaderScheduledJob) == "" {
			r.Errorf("it came with the headers %v", m.Header)
		}
		anew := timeOf(m, engine.HeaderTimestamp).Sub(began) >= delay-50*time.Millisecond
		if want := expires || r.h.Features.StampsReleased; anew != want {
			r.Errorf("that it has the timestamp of its release is %v, want %v", anew, want)
		}
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	}
}

// A message with a scheduledJobId has been through the scheduler and is sent at once,
// whatever its AMQ_SCHEDULED_DELAY says: so a copy must not carry it. Without it, the
// copy waits. ActiveMQ 5.17.2 and 5.18.3.
func copyWithAJobIDIsNotDelayed(r *brokerRig) {
	c := r.bare()
	c.subscribe(plainQueue, "client-individual", 1)
	c.send(plainQueue, "first", engine.HeaderScheduledDelay, "1")
	first := c.message()
	c.do(frame.ACK, frame.Id, first.Header.Get(frame.Ack))
	c.send(plainQueue, "kept", engine.HeaderScheduledDelay, "3600000", engine.HeaderScheduledJob, first.Header.Get(engine.HeaderScheduledJob))
	c.send(plainQueue, "dropped", engine.HeaderScheduledDelay, "500")
	for _, want := range []string{"kept", "dropped"} {
		m := c.message()
		if string(m.Body) != want {
			r.Errorf("%q came, want %q", m.Body, want)
		}
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	}
}

// The scheduler moves expires by the time that a message spent with it, so it
// never expires there and lives longer by each delay: the engine keeps the true end in
// usher_expires. ActiveMQ 5.17.2 and 5.18.3.
func schedulerMovesExpires(r *brokerRig) {
	const delay, life = 600 * time.Millisecond, 200 * time.Millisecond
	c := r.bare()
	c.subscribe(plainQueue, "client-individual", 2)
	began := time.Now()
	for _, life := range []time.Duration{life, time.Hour} {
		c.send(plainQueue, "", engine.HeaderScheduledDelay, strconv.FormatInt(delay.Milliseconds(), 10), engine.HeaderExpires, epoch(began.Add(life)))
	}
	for range 2 { // that they came says the most
		m := c.message()
		expires := timeOf(m, engine.HeaderExpires)
		expected := began.Add(life)
		if expires.Sub(began) > time.Hour {
			expected = began.Add(time.Hour)
		}
		if moved := expires.Sub(expected); moved < delay-50*time.Millisecond || moved > time.Since(began)+50*time.Millisecond {
			r.Errorf("after a delay of %v, expires has moved by %v", delay, moved)
		}
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	}
}

// statisticsQueue begins the names of the queues that answer with statistics.
const statisticsQueue = "/queue/ActiveMQ.Statistics.Destination."

// answers subscribes a temporary queue for statistics, in JSON.
func (c *bareClient) answers() {
	c.r.Helper()
	c.do(frame.SUBSCRIBE, frame.Id, "answers", frame.Destination, "/temp-queue/answers", frame.Ack, "auto", "transformation", "jms-map-json")
}

// statistics asks about a queue.
func (c *bareClient) statistics(queue, correlation string) {
	c.r.Helper()
	c.do(frame.SEND, frame.Destination, statisticsQueue+queue, "reply-to", "/temp-queue/answers", "correlation-id", correlation)
}

// An empty SEND to the queue's own statistics queue is answered to the temporary
// queue that reply-to names, in JSON because the subscription asks for
// jms-map-json. ActiveMQ 5.17.2 and 5.18.3 (activemq.apache.org, StatisticsPlugin).
func statisticsAnswer(r *brokerRig) {
	c := r.bare()
	for range 3 {
		c.send(plainQueue, "")
	}
	holder := r.bare()
	holder.subscribe(plainQueue, "client-individual", 1)
	holder.message()
	c.answers()
	r.eventually("size 3 and inflightCount 1", func() (bool, string) {
		c.statistics(plainQueue, "a:1")
		m := c.message()
		found := map[string]string{}
		for _, entry := range regexp.MustCompile(`"(\w+)"(?:,"long")?:(\d+)`).FindAllSubmatch(m.Body, -1) {
			found[string(entry[1])] = string(entry[2])
		}
		if m.Header.Get("correlation-id") != "a:1" || found["enqueueCount"] == "" || found["dequeueCount"] == "" {
			r.Fatalf("the answer is %v %s", m.Header, m.Body)
		}
		return found["size"] == "3" && found["inflightCount"] == "1", fmt.Sprint(found)
	})
}

// A question about a queue that is not there is not answered: whoever asks must not
// wait for it. ActiveMQ 5.18.3.
func statisticsOfNoQueue(r *brokerRig) {
	c := r.bare()
	c.send(plainQueue, "")
	c.answers()
	c.statistics(engine.WorkQueue+".nowhere", "none")
	c.statistics(plainQueue, "there")
	if m := c.message(); m.Header.Get("correlation-id") != "there" {
		r.Errorf("got %v %s", m.Header, m.Body)
	}
}

// What is sent to a topic reaches all who listen, and nobody who comes later: enough
// for nudges between engines, and for nothing else. ActiveMQ 5.18.3.
func topicReachesWhoListens(r *brokerRig) {
	topic := []string{frame.Id, "t", frame.Destination, "/topic/usher.control", frame.Ack, "auto"}
	early := []*bareClient{r.bare(), r.bare()}
	for _, c := range early {
		c.do(frame.SUBSCRIBE, topic...)
	}
	sender := r.bare()
	sender.do(frame.SEND, frame.Destination, "/topic/usher.control", "nudge", "1")
	late := r.bare()
	late.do(frame.SUBSCRIBE, topic...)
	sender.do(frame.SEND, frame.Destination, "/topic/usher.control", "nudge", "2")
	for i, c := range append(early, late) {
		if want := strconv.Itoa(1 + i/2); c.message().Header.Get("nudge") != want {
			r.Errorf("the first that listener %d heard is not %s", i, want)
		}
	}
}

// many is more than queuePrefetch in the XML, less than a window of 1000.
const many = 150

// sendMany sends messages to a queue, and waits for the receipts together.
func (c *bareClient) sendMany(queue string, n int, level func(i int) int) {
	c.r.Helper()
	sends := make([]*frame.Frame, 0, n)
	for i := range n {
		f := frame.New(frame.SEND, frame.Destination, "/queue/"+queue, "persistent", "true", engine.HeaderPriority, strconv.Itoa(level(i)))
		f.Body = []byte(strconv.Itoa(level(i)))
		if i == n-1 {
			f.Header.Add(frame.Receipt, "many") // in order: it comes after all
		}
		sends = append(sends, f)
	}
	c.write(sends...)
	if f := c.read(); f == nil || f.Header.Get(frame.ReceiptId) != "many" {
		c.r.Fatalf("got %v, want the receipt of the last of %d messages", f, n)
	}
}

// ActiveMQ takes activemq.prefetchSize:1000, its own default, for "not said", and puts
// queuePrefetch of the XML in its place, which is 100. ActiveMQ 5.18.3
// (PolicyEntry.configurePrefetch).
func prefetchOf1000IsTheDefault(r *brokerRig) {
	c := r.bare()
	c.sendMany(plainQueue, many, func(int) int { return engine.DefaultLevel })
	c.subscribe(plainQueue, "client-individual", 1000)
	if r.h.Features.Takes1000 {
		c.messages(many)
		return
	}
	c.messages(100)
	c.quiet()
}

// So our client asks for another number.
func windowOf1000IsKept(r *brokerRig) {
	e := r.open(window(1000))
	r.bare().sendMany(engine.WorkQueue, many, func(int) int { return engine.DefaultLevel })
	e.receive(many)
}
