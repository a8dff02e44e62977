package bench

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"usher/deploy/brokerxml"
	"usher/engine"
	"usher/engine/embedded/broker"
	"usher/engine/embedded/records"
	"usher/engine/enginetest/activemq"
	"usher/engine/stomp"
	"usher/handlers"
)

// pair is a broker, and records in a folder, with a STOMP client to send with.
type pair struct {
	dir     string
	url     string
	records *records.Records
	client  *stomp.Client
}

// openPair opens the embedded broker and records in one folder.
func openPair(t testing.TB, dir string) *pair {
	t.Helper()
	b, err := broker.Open(broker.Config{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		b.Close()
	})
	return pairWith(t, dir, ln.Addr().String())
}

// openActiveMQ starts a real ActiveMQ beside the embedded records.
func openActiveMQ(t testing.TB, dir string) *pair {
	t.Helper()
	server := activemq.Start(t, func(w io.Writer, address, _ string) error {
		return brokerxml.Write(w, brokerxml.Options{STOMP: address}) // its files go where it is started with
	})
	return pairWith(t, dir, server.Address())
}

// pairWith opens records in the folder, beside the broker at the address.
func pairWith(t testing.TB, dir, address string) *pair {
	t.Helper()
	r, err := records.Open(records.Config{Path: dir + "/records.db", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{dir: dir, url: "stomp://" + address, records: r}
	if p.client, err = stomp.Dial(context.Background(), stomp.Config{URLs: []string{p.url}, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.client.Close()
		r.Close()
	})
	return p
}

// send sends n messages, many at once, and waits for their receipts.
func (p *pair) send(t testing.TB, n int, message func(i int) engine.Outgoing) {
	t.Helper()
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(512)
	for i := range n {
		g.Go(func() error { return p.client.Send(ctx, message(i)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// inProcess serves every type with one function, as a plugin with the given credit.
type inProcess struct {
	handlers.Handler
	credit  int
	changed chan struct{}
}

func (h inProcess) Plugin(string) (string, bool) { return "test", true }
func (h inProcess) Credit(string) int            { return h.credit }
func (h inProcess) Changed() <-chan struct{}     { return h.changed }

// starts notes the levels in the order in which their messages got a slot, and
// counts what is settled.
type starts struct {
	mu      sync.Mutex
	levels  []int
	settled int
	held    time.Duration
	want    int
	all     chan struct{} // closed when want are settled
}

func newStarts(want int) *starts { return &starts{want: want, all: make(chan struct{})} }

func (s *starts) Observe(ev engine.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch ev.Kind {
	case engine.EventStarted:
		s.levels = append(s.levels, ev.Level)
	case engine.EventHeld:
		s.held += ev.Wait
	case engine.EventSettled:
		if s.settled++; s.settled == s.want {
			close(s.all)
		}
	}
}

// run runs an engine on the pair until the observer has seen all it wants.
func (p *pair) run(t testing.TB, h engine.Handler, s *starts, slots int) time.Duration {
	t.Helper()
	b, err := stomp.New(stomp.Config{URLs: []string{p.url}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Config{
		Broker: b, Records: p.records, Handler: h, Observer: s, Slots: slots, Log: zerolog.Nop(),
		Types: map[string]engine.Type{"work": {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	session, endSession := context.WithCancel(context.Background())
	working, stop := context.WithCancel(context.Background())
	sessionEnded, ended := make(chan error, 1), make(chan error, 1)
	began := time.Now()
	go func() { sessionEnded <- b.Run(session) }()
	go func() { ended <- e.Run(working) }()
	select {
	case <-s.all:
	case <-time.After(3 * time.Minute):
		t.Errorf("%d of %d settled after 3 minutes", s.settled, s.want)
	}
	took := time.Since(began)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("engine: %v", err)
	}
	endSession()
	if err := <-sessionEnded; err != nil {
		t.Errorf("session: %v", err)
	}
	return took
}
