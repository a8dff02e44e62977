package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

// BrokerHarness is how RunBroker gets at the message broker that it tests. The
// tests reach it as the engine does, through package stomp, and as producers do,
// through go-stomp's client and through a bare socket.
type BrokerHarness struct {
	// Start gives a broker with nothing in its queues: a fresh one, or one that
	// was purged. It is ended by t.Cleanup, if at all. Cases run one after the other.
	Start func(t *testing.T) BrokerServer
	// Login and Passcode are a user that may do everything; empty for none.
	Login, Passcode string
	// Features say what this broker lacks.
	Features BrokerFeatures
}

// BrokerServer is one running broker.
type BrokerServer interface {
	// Address is the host:port where it speaks STOMP without TLS, now.
	Address() string
	// Restart ends the broker, as a crash would if that can be arranged, and
	// starts it again on the same data, maybe at another address. It returns
	// when connections are taken again.
	Restart(t *testing.T)
}

// BrokerFeatures is what a broker may lack without being wrong, what it may name as
// it likes, and where it may do otherwise than ActiveMQ. The zero value is an
// ActiveMQ with the XML of usher deploy broker-xml.
type BrokerFeatures struct {
	// NoLanes: what is sent to usher.work stays there and is not copied to
	// usher.work.p0 to p9 by priority.
	NoLanes bool
	// NoStatistics: depths are not answered.
	NoStatistics bool
	// NoScheduler: AMQ_SCHEDULED_DELAY has no effect.
	NoScheduler bool
	// NoRestart: Restart cannot be called.
	NoRestart bool
	// DeadLetters names the queue for what a queue's consumers refused or what
	// expired in it; nil is "DLQ." and the name.
	DeadLetters func(queue string) string
	// TenLevels: a queue without lanes keeps ten levels apart on the disk, not the
	// three bands of KahaDB.
	TenLevels bool
	// AllRedelivered: after a crash every message counts as redelivered, not only
	// those that had been given out.
	AllRedelivered bool
	// ForgetsTransacted: what was acked in a transaction is forgotten with its
	// COMMIT, and not kept until the subscription ends.
	ForgetsTransacted bool
	// RefusesEndedAcks: an ACK for a subscription that has ended is answered with an
	// ERROR, not with a receipt. It has no effect either way.
	RefusesEndedAcks bool
	// OnlyBytes: a body that came without content-length goes out with one, as all
	// others do.
	OnlyBytes bool
	// StampsReleased: what the scheduler sends has the time of that for its timestamp,
	// not only if it expires some day.
	StampsReleased bool
	// Takes1000: a prefetch of 1000 is that, and not taken for ActiveMQ's own default,
	// which gives way to queuePrefetch in the XML.
	Takes1000 bool
}

// EmbeddedFeatures are those of usher's own broker, which does otherwise on purpose.
func EmbeddedFeatures() BrokerFeatures {
	return BrokerFeatures{
		TenLevels:         true, // they cost it nothing
		AllRedelivered:    true, // what was given out is not written down; to claim too often does no harm
		ForgetsTransacted: true, // a leak is nothing to copy
		RefusesEndedAcks:  true, // a late ACK has one answer, however late
		OnlyBytes:         true, // it has no JMS clients, which alone tell text from bytes
		StampsReleased:    true, // so that a timestamp says how long a message waited in its queue
		Takes1000:         true, // it has no policies that could be meant instead
	}
}

// RunBroker tests that a broker does what the engine and its producers rely on.
func RunBroker(t *testing.T, h BrokerHarness) {
	t.Attr("suite", "broker")
	if h.Features.DeadLetters == nil {
		h.Features.DeadLetters = func(queue string) string { return "DLQ." + queue }
	}
	for _, c := range brokerCases() {
		if c.lacking != nil && c.lacking(h.Features) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), brokerCaseTimeout)
			defer cancel()
			r := &brokerRig{T: t, ctx: ctx, h: h, server: h.Start(t)}
			c.run(r)
		})
	}
	if !h.Features.NoRestart {
		t.Run("AfterACrash", func(t *testing.T) { runCrash(t, h) })
	}
}

// BrokerQueues are the names of all queues that the cases leave something in,
// besides dead letters; those of a queue are in "DLQ." and its name on a broker with
// usher's XML. Who purges a broker between cases purges these.
func BrokerQueues() []string {
	queues := []string{
		engine.WorkQueue, engine.DeadQueue, plainQueue, bandsQueue, forgottenQueue, inHandQueue, laterQueue,
		"stuck", "independent.10", "independent.11", "independent.12",
	}
	for level := range engine.Levels {
		queues = append(queues, engine.WorkQueue+".p"+strconv.Itoa(level))
	}
	return queues
}

// Queues without lanes, to which the policies of the XML for usher.work.> apply.
const (
	plainQueue     = engine.WorkQueue + ".plain"
	bandsQueue     = engine.WorkQueue + ".bands"
	forgottenQueue = engine.WorkQueue + ".forgotten"
	inHandQueue    = engine.WorkQueue + ".inhand"
	laterQueue     = engine.WorkQueue + ".later"
)

const (
	// brokerCaseTimeout is how long one case may take; what it waits for in vain
	// fails it then.
	brokerCaseTimeout = 60 * time.Second
	// brokerQuiet is how long nothing must come where nothing may come.
	brokerQuiet = 200 * time.Millisecond
)

// brokerRig is what a case works with. Its methods fail the test.
type brokerRig struct {
	*testing.T
	ctx    context.Context //nolint:containedctx // of the case
	h      BrokerHarness
	server BrokerServer
}

func (r *brokerRig) config() stomp.Config {
	return stomp.Config{
		URLs: []string{"stomp://" + r.server.Address()}, Login: r.h.Login, Passcode: r.h.Passcode, Log: zerolog.Nop(),
	}
}

// engineSide is a stomp.Broker that runs.
type engineSide struct {
	*stomp.Broker
	r    *brokerRig
	stop func() // ends Run, as a drain does
}

// open runs a Broker; change may change its config.
func (r *brokerRig) open(change func(*stomp.Config)) *engineSide {
	r.Helper()
	config := r.config()
	if change != nil {
		change(&config)
	}
	b, err := stomp.New(config)
	if err != nil {
		r.Fatal(err)
	}
	e := &engineSide{Broker: b, r: r}
	e.run()
	r.Cleanup(func() {
		e.stop()
		if err := b.Close(); err != nil {
			r.Errorf("Close: %v", err)
		}
	})
	return e
}

// run begins Run, at first or again after stop.
func (e *engineSide) run() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.r.ctx))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stopped := false
	e.stop = func() {
		cancel()
		if !stopped {
			stopped = true
			if err := <-ended; err != nil {
				e.r.Errorf("Run: %v", err)
			}
		}
	}
}

// receive waits for n deliveries of one session.
func (e *engineSide) receive(n int) []engine.Delivery {
	e.r.Helper()
	var got []engine.Delivery
	for len(got) < n {
		batch, err := e.Receive(e.r.ctx)
		if err != nil {
			e.r.Fatalf("waiting for %d deliveries, %d came: %v", n, len(got), err)
		}
		if batch.Epoch == 0 && len(got) > 0 {
			e.r.Fatalf("the session was lost after %d of %d deliveries", len(got), n)
		}
		got = append(got, batch.Deliveries...)
	}
	if len(got) > n {
		e.r.Fatalf("%d deliveries came, want %d", len(got), n)
	}
	return got
}

func (e *engineSide) one() engine.Delivery {
	e.r.Helper()
	return e.receive(1)[0]
}

// session waits for the next change of the session and returns its epoch.
func (e *engineSide) session() uint64 {
	e.r.Helper()
	batch, err := e.Receive(e.r.ctx)
	if err != nil || len(batch.Deliveries) > 0 {
		e.r.Fatalf("waiting for a session: %d deliveries, %v", len(batch.Deliveries), err)
	}
	return batch.Epoch
}

// quiet checks that nothing is delivered for a while.
func (e *engineSide) quiet() {
	e.r.Helper()
	ctx, cancel := context.WithTimeout(e.r.ctx, brokerQuiet)
	defer cancel()
	for {
		batch, err := e.Receive(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil || len(batch.Deliveries) > 0 {
			e.r.Fatalf("%d deliveries came, the first %v; want none (%v)", len(batch.Deliveries), batch.Deliveries, err)
		}
	}
}

func (e *engineSide) ack(deliveries ...engine.Delivery) {
	e.r.Helper()
	for _, d := range deliveries {
		if err := e.Ack(d); err != nil {
			e.r.Fatalf("Ack: %v", err)
		}
	}
}

// publish sends a message to the work queue and waits until it is durable.
func (e *engineSide) publish(body string, headers ...string) {
	e.r.Helper()
	out := engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderType: "test"}, Body: []byte(body)}
	for i := 0; i < len(headers); i += 2 {
		out.Headers[headers[i]] = headers[i+1]
	}
	if err := e.Publish(e.r.ctx, out); err != nil {
		e.r.Fatalf("Publish: %v", err)
	}
}

// publishMany sends n messages of a level, their bodies being their numbers.
func (e *engineSide) publishMany(n, level int) {
	e.r.Helper()
	for i := range n {
		e.publish(strconv.Itoa(i), engine.HeaderPriority, strconv.Itoa(level))
	}
}

// lane is where a message of the level is expected.
func (r *brokerRig) lane(level int) int {
	if r.h.Features.NoLanes {
		return engine.Unsorted
	}
	return level
}

// laneQueue is the name of the queue that a message of the level ends up in.
func (r *brokerRig) laneQueue(level int) string {
	if r.h.Features.NoLanes {
		return engine.WorkQueue
	}
	return engine.WorkQueue + ".p" + strconv.Itoa(level)
}

// eventually waits until ok.
func (r *brokerRig) eventually(what string, ok func() (done bool, state string)) {
	r.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, state := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.Fatalf("%s did not happen; at the end: %s", what, state)
		}
	}
}

// pass waits until some time has passed, where the broker's clock matters.
func (r *brokerRig) pass(d time.Duration) {
	r.Helper()
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
		r.Fatal("the case took too long")
	}
}

// contents is what a queue holds; it is all there again afterwards.
func (r *brokerRig) contents(queue string, atLeast int) []engine.Delivery {
	r.Helper()
	client, err := stomp.Dial(r.ctx, r.config())
	if err != nil {
		r.Fatal(err)
	}
	defer client.Close()
	var found []engine.Delivery
	view := stomp.View{Queue: queue, Quiet: 300 * time.Millisecond}
	r.eventually(fmt.Sprintf("%d messages in %s", atLeast, queue), func() (bool, string) {
		found = nil
		err := client.Consume(r.ctx, view, func(d engine.Delivery) (bool, error) {
			found = append(found, d)
			return false, nil
		})
		return err == nil && len(found) >= atLeast, fmt.Sprintf("%d messages, %v", len(found), err)
	})
	return found
}

// independent is a connection of go-stomp's own client.
func (r *brokerRig) independent(options ...func(*gostomp.Conn) error) *gostomp.Conn {
	r.Helper()
	options = append(options, gostomp.ConnOpt.HeartBeat(0, 0), gostomp.ConnOpt.Logger(noLog{}))
	if r.h.Login != "" {
		options = append(options, gostomp.ConnOpt.Login(r.h.Login, r.h.Passcode))
	}
	conn, err := gostomp.Dial("tcp", r.server.Address(), options...)
	if err != nil {
		r.Fatalf("go-stomp: %v", err)
	}
	r.Cleanup(func() { _ = conn.MustDisconnect() })
	return conn
}

// noLog keeps go-stomp from writing what it thinks of a closed connection.
type noLog struct{}

func (noLog) Debugf(string, ...any)   {}
func (noLog) Infof(string, ...any)    {}
func (noLog) Warningf(string, ...any) {}
func (noLog) Errorf(string, ...any)   {}
func (noLog) Debug(string)            {}
func (noLog) Info(string)             {}
func (noLog) Warning(string)          {}
func (noLog) Error(string)            {}
