package enginetest

import (
	"context"
	"slices"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// The cases of RunBroker in this file are what is on the broker's disk. They share
// one crash, for the start of a real broker takes seconds.

// crashCase is what a broker keeps through a crash. before prepares and returns what
// is checked when the broker is back.
type crashCase struct {
	name    string
	lacking func(BrokerFeatures) bool
	before  func(*brokerRig) (after func(*brokerRig))
}

func crashCases(f BrokerFeatures) []crashCase {
	noScheduler := func(f BrokerFeatures) bool { return f.NoScheduler }
	return slices.DeleteFunc([]crashCase{
		{"ForgottenPersistentIsDurable", nil, forgottenPersistentIsDurable},
		{"RedeliveredOutlivesTheBroker", nil, redeliveredOutlivesTheBroker},
		{"PlainQueueKeepsThreeBands", nil, plainQueueKeepsThreeBands},
		{"ScheduledMessageOutlivesTheBroker", noScheduler, scheduledOutlivesTheBroker},
	}, func(c crashCase) bool { return c.lacking != nil && c.lacking(f) })
}

func runCrash(t *testing.T, h BrokerHarness) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), brokerCaseTimeout)
	defer cancel()
	r := &brokerRig{T: t, ctx: ctx, h: h, server: h.Start(t)}
	cases := crashCases(h.Features)
	afters := make([]func(*brokerRig), len(cases))
	for i, c := range cases {
		afters[i] = c.before(r)
	}
	r.server.Restart(t)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { afters[i](&brokerRig{T: t, ctx: ctx, h: h, server: r.server}) })
	}
}

// STOMP's own default is a message that need not be stored, and many producers do not
// know: forcePersistencyMode in the XML stores all of them. ActiveMQ 5.18.3; that
// they are lost without it, TestXMLIsNeeded of engine/stomp shows.
func forgottenPersistentIsDurable(r *brokerRig) func(*brokerRig) {
	c := r.bare()
	for _, headers := range [][]string{{}, {"persistent", "false"}} {
		f := frame.New(frame.SEND, append(headers, frame.Destination, "/queue/"+forgottenQueue)...)
		f.Body = []byte("1")
		c.done(c.askFrame(f), f.Command)
	}
	return func(r *brokerRig) {
		left := r.drained(forgottenQueue)
		if bodies(left) != "11" {
			r.Fatalf("%d of 2 messages are there", len(left))
		}
		for _, m := range left {
			if m.Header.Get("persistent") != "true" {
				r.Errorf("it is there, and not persistent: %v", m.Header)
			}
		}
	}
}

// What was in somebody's hand when the broker crashed comes again with
// redelivered:true (persistJMSRedelivered), so that the engine claims it first; and
// with the message-id it had. ActiveMQ 5.18.3.
func redeliveredOutlivesTheBroker(r *brokerRig) func(*brokerRig) {
	c := r.bare()
	for _, body := range []string{"0", "1", "2", "3"} {
		c.send(inHandQueue, body)
	}
	c.subscribe(inHandQueue, "client-individual", 2)
	inHand := c.messages(2)
	return func(r *brokerRig) {
		again := r.drained(inHandQueue)
		if bodies(again) != "0123" {
			r.Fatalf("%q came again", bodies(again))
		}
		for i, m := range again {
			if i < len(inHand) && m.Header.Get(frame.MessageId) != inHand[i].Header.Get(frame.MessageId) {
				r.Errorf("message %v came again as %v", inHand[i].Header, m.Header)
			}
			want := i < len(inHand) || r.h.Features.AllRedelivered
			if got := m.Header.Get(engine.HeaderRedelivered) == "true"; got != want {
				r.Errorf("message %d: redelivered %v, want %v", i, got, want)
			}
		}
	}
}

// KahaDB keeps three bands, 9 to 5, 4, and 3 to 0, and the broker sorts only what it
// has read of them, 200 messages at a time: that is why there are lanes. The backlog is
// more than it reads at once of the highest band. ActiveMQ 5.17.2 and 5.18.3.
func plainQueueKeepsThreeBands(r *brokerRig) func(*brokerRig) {
	const n = 600
	r.bare().sendMany(bandsQueue, n, func(i int) int { return i * 7 % engine.Levels })
	return func(r *brokerRig) {
		c := r.bare()
		c.subscribe(bandsQueue, "client-individual", 100)
		last, sorted := engine.Levels-1, true
		for i := range n {
			m := c.message()
			c.write(frame.New(frame.ACK, frame.Id, m.Header.Get(frame.Ack)))
			level := int(m.Body[0] - '0')
			if band(level) > band(last) {
				r.Fatalf("message %d is of level %d, after one of level %d", i, level, last)
			}
			sorted = sorted && level <= last
			last = level
		}
		c.do(frame.DISCONNECT)
		if sorted != r.h.Features.TenLevels {
			r.Errorf("that ten levels come out in order is %v", sorted)
		}
	}
}

// What waits in the scheduler is as durable as what waits in a queue. ActiveMQ 5.17.2
// and 5.18.3.
func scheduledOutlivesTheBroker(r *brokerRig) func(*brokerRig) {
	r.bare().send(laterQueue, "later", engine.HeaderScheduledDelay, "1500")
	return func(r *brokerRig) {
		c := r.bare()
		c.subscribe(laterQueue, "client-individual", 1)
		m := c.message()
		if string(m.Body) != "later" || m.Header.Get(engine.HeaderScheduledJob) == "" {
			r.Errorf("%q came with the headers %v", m.Body, m.Header)
		}
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	}
}

// band is where KahaDB keeps a level.
func band(level int) int {
	switch {
	case level > engine.DefaultLevel:
		return 2
	case level == engine.DefaultLevel:
		return 1
	}
	return 0
}
