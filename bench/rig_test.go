package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

const (
	// patience is how long a run may take, on a machine that others use as well.
	patience = 10 * time.Minute
	// bodyBytes is the length of a body.
	bodyBytes = 512
)

// rig is all that the measurements run on.
type rig struct {
	active   *pair // ActiveMQ as `usher deploy broker-xml` configures it
	silent   *pair // the same without its statistics plugin
	embedded *pair
	plugin   pluginProcess

	activeMQ *activemq.Server // active's
}

func openRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{embedded: openEmbedded(t), plugin: startPlugin(t)}
	r.active, r.activeMQ = openActiveMQ(t, "")
	r.silent, _ = openActiveMQ(t, "<statisticsBrokerPlugin/>")
	for _, p := range []*pair{r.active, r.silent} {
		p.warm(t)
	}
	return r
}

// warm has a broker that was just started send and take so many messages that Java
// has compiled what it runs.
func (p *pair) warm(t testing.TB) {
	t.Helper()
	fmt.Fprintln(os.Stderr, "        a broker warms up")
	p.fill(t, *messages, engine.WorkQueue, typeNothing, func(i int) int { return i % engine.Levels })
	if _, err := takeAll(p.address, *messages, engine.DefaultWindow, lanes()...); err != nil {
		t.Fatal(err)
	}
}

// pair is a broker, and records in a folder, with a STOMP client to send with.
type pair struct {
	address string
	records *records.Records
	client  *stomp.Client
	ids     atomic.Uint64

	released int // of those that were parked, one after the other
}

// openEmbedded opens the embedded broker and records in a temporary folder.
func openEmbedded(t testing.TB) *pair {
	t.Helper()
	dir := t.TempDir()
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

// openActiveMQ starts a real ActiveMQ, with records beside it. Its XML is what
// usher writes, without the given text.
func openActiveMQ(t testing.TB, without string) (*pair, *activemq.Server) {
	t.Helper()
	server := activemq.Start(t, func(w io.Writer, address, _ string) error {
		var xml bytes.Buffer
		if err := brokerxml.Write(&xml, brokerxml.Options{STOMP: address}); err != nil {
			return err
		}
		_, err := io.WriteString(w, strings.Replace(xml.String(), without, "", 1))
		return err
	})
	return pairWith(t, t.TempDir(), server.Address()), server
}

// pairWith opens records in the folder, beside the broker at the address.
func pairWith(t testing.TB, dir, address string) *pair {
	t.Helper()
	r, err := records.Open(records.Config{Path: dir + "/records.db", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{address: address, records: r}
	if p.client, err = stomp.Dial(context.Background(), p.config()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.client.Close()
		r.Close()
	})
	return p
}

func (p *pair) config() stomp.Config {
	return stomp.Config{URLs: []string{"stomp://" + p.address}, Log: zerolog.Nop()}
}

// headers are those of a message with an id of its own.
func (p *pair) headers(typ string, level int) map[string]string {
	return map[string]string{
		engine.HeaderType: typ, engine.HeaderPriority: strconv.Itoa(level),
		engine.HeaderID: "message-" + strconv.FormatUint(p.ids.Add(1), 10),
	}
}

// fill sends n messages, many at once, and waits for their receipts.
func (p *pair) fill(t testing.TB, n int, queue, typ string, level func(i int) int) {
	t.Helper()
	body := bytes.Repeat([]byte{'x'}, bodyBytes)
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(512)
	for i := range n {
		g.Go(func() error {
			return p.client.Send(ctx, engine.Outgoing{Queue: queue, Headers: p.headers(typ, level(i)), Body: body})
		})
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

// starts notes the levels in the order in which their messages first got a slot,
// how long slots were held, and counts what is settled.
type starts struct {
	begun chan struct{} // closed when the first has a slot
	all   chan struct{} // closed when want are settled
	want  int

	mu            sync.Mutex // guards the rest
	levels        []int
	ids           map[string]bool // of those
	again         int             // starts of messages that had started before: their claim was lost
	settled       int
	held, longest time.Duration
	first, last   time.Time
}

func newStarts(want int) *starts {
	return &starts{want: want, begun: make(chan struct{}), all: make(chan struct{}), ids: make(map[string]bool, want)}
}

func (s *starts) Observe(ev engine.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch ev.Kind {
	case engine.EventStarted:
		if len(s.levels) == 0 {
			s.first = ev.At
			close(s.begun)
		}
		if s.ids[ev.ID] {
			s.again++
			return
		}
		s.ids[ev.ID] = true
		s.levels = append(s.levels, ev.Level)
	case engine.EventHeld:
		s.held += ev.Wait
		s.longest = max(s.longest, ev.Wait)
	case engine.EventSettled:
		if s.settled++; s.settled == s.want {
			s.last = ev.At
			close(s.all)
		}
	}
}

// took is the time from the first start to the last settling, after run.
func (s *starts) took() time.Duration { return s.last.Sub(s.first) }

// run runs an engine on the pair until the observer has seen all it wants.
func (p *pair) run(t testing.TB, h engine.Handler, s *starts, slots int) {
	t.Helper()
	p.runOn(t, p.records, engine.Config{
		Handler: h, Observer: s, Slots: slots, Types: map[string]engine.Type{typeWork: {}, typeNothing: {}},
	}, s.all)
}

// stored is where records are.
type stored interface {
	engine.Records
	engine.Bodies
	engine.DueIndex
	engine.HoldStore
}

// runOn runs an engine on the pair's broker, and on these records, until all is closed.
func (p *pair) runOn(t testing.TB, records stored, cfg engine.Config, all <-chan struct{}) {
	t.Helper()
	b, err := stomp.New(p.config())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	cfg.Broker, cfg.Records, cfg.Bodies, cfg.Index, cfg.Holds, cfg.Log = b, records, records, records, records, zerolog.Nop()
	e, err := engine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	session, endSession := context.WithCancel(context.Background())
	working, stop := context.WithCancel(context.Background())
	sessionEnded, ended := make(chan error, 1), make(chan error, 1)
	go func() { sessionEnded <- b.Run(session) }()
	go func() { ended <- e.Run(working) }()
	select {
	case <-all:
	case <-time.After(patience):
		t.Errorf("not all are settled after %v", patience)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("engine: %v", err)
	}
	endSession()
	if err := <-sessionEnded; err != nil {
		t.Errorf("session: %v", err)
	}
}
