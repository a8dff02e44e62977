package monitor

import (
	"context"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/rs/zerolog"

	"usher/deploy/brokerxml"
	"usher/engine"
	"usher/engine/embedded/broker"
	"usher/engine/embedded/records"
	"usher/engine/enginetest/activemq"
	"usher/engine/stomp"
)

// Both brokers, with all that can die in them.
func TestOnABroker(t *testing.T) {
	t.Run("ActiveMQ", func(t *testing.T) {
		server := activemq.Start(t, func(w io.Writer, address, data string) error {
			return brokerxml.Write(w, brokerxml.Options{STOMP: address, Data: data})
		})
		testOnBroker(t, server.Address())
	})
	t.Run("Embedded", func(t *testing.T) { testOnBroker(t, startEmbedded(t)) })
}

func startEmbedded(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Open(broker.Config{Dir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return ln.Addr().String()
}

// place is a broker with an archive, and monitors one after the other.
type place struct {
	t       *testing.T
	config  stomp.Config
	client  *stomp.Client
	records *records.Records
	log     *lines
	holds   func() bool // whether the newest monitor has left something in its queue
}

func testOnBroker(t *testing.T, address string) {
	t.Helper()
	p := &place{t: t, log: &lines{}, config: stomp.Config{URLs: []string{"stomp://" + address}, MaxBodyBytes: engine.MinArchived, Log: zerolog.Nop()}}
	var err error
	if p.client, err = stomp.Dial(t.Context(), p.config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close() })
	if p.records, err = records.Open(records.Config{Path: t.TempDir() + "/records.db", Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.records.Close() })
	p.fill(address)

	// The first monitor dies each time between the archive and the ack.
	stop := p.monitor(func(s Source) Source { return deaf{s} })
	p.want("archived", 24)
	stop()
	p.config.Window = 4 // less than there is
	p.wantLetters()
	stop = p.monitor(func(s Source) Source { return s })
	p.wantEmptied()
	p.dropTheLarge(stop)
	if all := letters(t, p.records); len(all) != 24 {
		t.Errorf("%d letters are archived, want 24", len(all))
	}
	for id, reason := range map[string]string{"late": engine.ReasonExpired, "nacked": engine.ReasonRefused} {
		if rec, err := p.records.Record(t.Context(), id); err != nil || rec.State != engine.Dead || rec.Reason != reason {
			t.Errorf("the record of %s is %+v, %v", id, rec, err)
		}
	}
	if keys := p.logged(func(map[string]any) bool { return true }); len(keys) != 24 {
		t.Errorf("%d dead letters were logged, want 24", len(keys))
	}
	if strings.Contains(p.log.String(), "payload") {
		t.Error("a body is in the log")
	}
}

// deaf loses every ack.
type deaf struct{ Source }

func (deaf) Ack(engine.Delivery) error { return nil }

func (p *place) send(queue, body string, headers ...string) {
	p.t.Helper()
	h := map[string]string{engine.HeaderType: "order.placed"}
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	if err := p.client.Send(p.t.Context(), engine.Outgoing{Queue: queue, Headers: h, Body: []byte(body)}); err != nil {
		p.t.Fatal(err)
	}
}

// fill makes dead letters: 20 of ours, one of which the broker knows nothing but
// that it is there, an expired one, a refused one, and a large one.
func (p *place) fill(address string) {
	p.t.Helper()
	for i := range 20 {
		p.send(engine.DeadQueue, "payload "+strconv.Itoa(i), engine.HeaderID, "ours-"+strconv.Itoa(i), engine.HeaderHop, "1", engine.HeaderAttempts, "3",
			engine.HeaderPriority, "7", engine.HeaderDeadReason, engine.ReasonExhausted, engine.HeaderDeadDetail, "attempt 3 of 3: boom", engine.HeaderOrigin, engine.WorkQueue)
	}
	p.send(engine.DeadQueue, "payload", engine.HeaderType, "") // no id, no type, no reason
	p.send(engine.DeadQueue, strings.Repeat("payload ", 1<<18), engine.HeaderID, "large", engine.HeaderDeadReason, engine.ReasonTooLarge)
	p.send(engine.WorkQueue, "payload", engine.HeaderID, "late", engine.HeaderPriority, "6", engine.HeaderExpires, strconv.FormatInt(time.Now().Add(500*time.Millisecond).UnixMilli(), 10))
	p.send(engine.WorkQueue, "payload", engine.HeaderID, "nacked", engine.HeaderPriority, "4")
	conn, err := gostomp.Dial("tcp", address, gostomp.ConnOpt.HeartBeat(0, 0))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.MustDisconnect() //nolint:errcheck // the NACK has its own receipt
	sub, err := conn.Subscribe("/queue/usher.work.p4", gostomp.AckClientIndividual)
	if err != nil {
		p.t.Fatal(err)
	}
	m := <-sub.C
	if m.Err != nil {
		p.t.Fatal(m.Err)
	}
	if err := conn.Nack(m); err != nil {
		p.t.Fatal(err)
	}
	// A broker sees that a message is late when somebody asks for it.
	<-time.After(time.Second)
	v := stomp.View{Queue: "usher.work.p6", Quiet: 200 * time.Millisecond}
	err = p.client.Consume(p.t.Context(), v, func(d engine.Delivery) (bool, error) {
		p.t.Errorf("what is late was delivered: %v", d.Headers)
		return false, nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// monitor runs one on a connection of its own until stop is called.
func (p *place) monitor(change func(Source) Source) (stop func()) {
	p.t.Helper()
	sub, err := stomp.NewSubscriber(p.config, engine.DeadQueues(engine.WorkQueue))
	if err != nil {
		p.t.Fatal(err)
	}
	m, err := New(Config{Source: change(sub), Archive: p.records, Records: p.records, Log: zerolog.New(p.log)})
	if err != nil {
		p.t.Fatal(err)
	}
	m.check = 50 * time.Millisecond
	p.holds = func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.stay) > 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- sub.Run(ctx) }()
	go func() { ended <- m.Run(ctx) }()
	return func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				p.t.Errorf("Run: %v", err)
			}
		}
		sub.Close()
	}
}

// want waits until so many letters are archived.
func (p *place) want(what string, n int) {
	p.t.Helper()
	p.eventually(what, func() bool { return len(letters(p.t, p.records)) >= n })
}

func (p *place) eventually(what string, good func() bool) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !good() {
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("after a minute it is not: %s\n%s", what, p.log)
		}
	}
}

func (p *place) wantLetters() {
	p.t.Helper()
	reasons := map[string]int{}
	for _, l := range letters(p.t, p.records) {
		reasons[l.Why.Reason]++
		want := map[string]engine.DeadLetter{
			"late":   {Queue: "DLQ.usher.work.p6", Origin: "usher.work.p6", Level: 6, Type: "order.placed"},
			"nacked": {Queue: "DLQ.usher.work.p4", Origin: "usher.work.p4", Level: 4, Type: "order.placed"},
			"large":  {Queue: engine.DeadQueue, Level: 4, Type: "order.placed", Stays: true},
			"ours-3": {Queue: engine.DeadQueue, Origin: engine.WorkQueue, Level: 7, Hop: 1, Type: "order.placed"},
		}
		w, ok := want[l.ID]
		if !ok {
			continue
		}
		if l.Queue != w.Queue || l.Origin != w.Origin && l.ID != "large" || l.Level != w.Level || l.Hop != w.Hop || l.Type != w.Type || l.Stays != w.Stays ||
			l.State != engine.LetterKept || l.DeadAt.IsZero() || time.Since(l.DeadAt) > time.Hour {
			p.t.Errorf("%s is %+v", l.ID, l)
		}
		_, content, err := p.records.Letter(p.t.Context(), l.Key)
		if err != nil || !l.Stays && !strings.HasPrefix(string(content.Body), "payload") || l.Stays && content.Body != nil {
			p.t.Errorf("%s has a body of %d bytes (%v)", l.ID, len(content.Body), err)
		}
	}
	if reasons[engine.ReasonExhausted] != 20 || reasons[engine.ReasonExpired] != 1 || reasons[engine.ReasonRefused] != 2 || reasons[engine.ReasonTooLarge] != 1 {
		p.t.Errorf("the reasons are %v", reasons)
	}
}

// wantEmptied waits until the second monitor has taken what the first one had not
// acked, and says so of each but the large one.
func (p *place) wantEmptied() {
	p.t.Helper()
	p.eventually("taken again", func() bool {
		return len(p.logged(func(said map[string]any) bool { return said["again"] == true })) >= 23
	})
}

// logged are the keys of the letters of which a line is in the log.
func (p *place) logged(which func(map[string]any) bool) map[any]bool {
	p.t.Helper()
	keys := map[any]bool{}
	for _, said := range p.log.with(p.t, "a dead letter") {
		if which(said) {
			keys[said["key"]] = true
		}
	}
	return keys
}

// dropTheLarge looks that nothing but the large letter is left in the queues, and
// then that dropping it takes it out.
func (p *place) dropTheLarge(stop func()) {
	p.t.Helper()
	stop()
	if left := p.left(); !slices.Equal(left, []string{"large"}) {
		p.t.Errorf("in the queues are %v, want the large one", left)
	}
	stop = p.monitor(func(s Source) Source { return s })
	p.eventually("taken once more", p.holds)
	all, err := p.records.Letters(p.t.Context(), engine.LetterQuery{ID: "large", Limit: 2})
	if err != nil || len(all) != 1 {
		p.t.Fatalf("%d letters of the large one, %v", len(all), err)
	}
	if _, err := p.records.Settle(p.t.Context(), engine.LetterChange{Key: all[0].Key, State: engine.LetterDropped, Now: time.Now()}); err != nil {
		p.t.Fatal(err)
	}
	p.eventually("gone from its queue", func() bool {
		for _, said := range p.log.with(p.t, "what stayed in its queue was dropped") {
			return said["key"] == all[0].Key
		}
		return false
	})
	stop()
	if left := p.left(); len(left) > 0 {
		p.t.Errorf("in the queues are %v, want nothing", left)
	}
}

// left are the ids of what is in all queues of dead letters.
func (p *place) left() (ids []string) {
	p.t.Helper()
	for _, queue := range engine.DeadQueues(engine.WorkQueue) {
		v := stomp.View{Queue: queue, Quiet: 300 * time.Millisecond}
		err := p.client.Consume(p.t.Context(), v, func(d engine.Delivery) (bool, error) {
			ids = append(ids, d.Headers[engine.HeaderID])
			return false, nil
		})
		if err != nil {
			p.t.Fatal(err)
		}
	}
	return ids
}
