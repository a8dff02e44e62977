package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/engine/stomp"
	"usher/handlers"
)

const (
	parkedMany, parkedMore = 100_000, 1_000_000
	ordinary               = 30_000 // fill the caches first
	dueAtOnce              = 10_000
	idleFor                = 10 * time.Second
	few                    = 10 // urgent messages may be under way at once
	releasesAsked          = 20
)

// Names of the ways and their numbers.
const (
	wayMany, wayMore                = "100,000", "1,000,000"
	numberCPU, numberSent           = "CPU, of a core", "sent meanwhile"
	numberMemory, numberRelease     = "memory", "release to handler, slowest"
	numberList, numberLate, numberP = "list, slowest", "lateness, p99", "urgent, p99"
)

// waiting is what parked messages cost, on the embedded broker and its records.
func waiting(*rig) measurement {
	var million *pair
	cost := func(res results, way, name string) series { return res.of(way, name) }
	return measurement{
		name:  "waiting",
		title: "Messages that wait",
		how: `Messages that are due in an hour are parked. *100,000* are sent to the embedded broker and parked by the engine; memory is how much
more of this process (engine, broker and records) is resident afterwards than before, when 30,000 ordinary messages had filled the caches. *1,000,000* were written into the records beforehand; memory is
how much more is resident after the engine has run beside them. CPU is the time of all threads of this process while the engine has nothing else to do for
10 s; what is sent meanwhile is counted at the engine's broker. Then 20 messages are released, one after the other: the slowest, from the change
of its record to its handler. A list is one page of 51, by type, by level and of all, 20 times each.`,
		ways: []way{
			{wayMany, func(t testing.TB) []value {
				p := openEmbedded(t)
				w := p.wait(t)
				p.fill(t, ordinary, engine.WorkQueue, typeNothing, func(i int) int { return i % engine.Levels })
				eventually(t, "the ordinary ones are done", func() bool { return w.settled() >= ordinary })
				before := resident(t)
				p.park(t, parkedMany)
				eventually(t, "all are parked", func() bool { return w.settled() >= ordinary+parkedMany })
				values := p.parkedCost(t, w, resident(t)-before)
				w.stop()
				return values
			}},
			{wayMore, func(t testing.TB) []value {
				if million == nil {
					million = openEmbedded(t)
					million.write(t, parkedMore)
				}
				before := resident(t)
				w := million.wait(t)
				<-time.After(2 * time.Second)
				values := million.parkedCost(t, w, resident(t)-before)
				w.stop()
				return values
			}},
		},
		answers: func(res results) []answer {
			var all []answer
			for _, way := range []string{wayMany, wayMore} {
				all = append(all,
					answer{way + " parked: CPU of the engine", "under 2 %", "%", cost(res, way, numberCPU), atMost(2)},
					answer{way + " parked: sent for them", "0", "", cost(res, way, numberSent), never(0)},
					answer{way + " parked: memory", "under 32 MB", "MB", cost(res, way, numberMemory), atMost(32)},
					answer{way + " parked: release of one, to its handler", "at most 2,000 ms", "ms", cost(res, way, numberRelease), never(2000)},
				)
			}
			return append(all, answer{wayMore + " parked: a list", "at most 300 ms", "ms", cost(res, wayMore, numberList), never(300)})
		},
	}
}

// due is what 10,000 messages that come due in one second do to each other and to
// urgent ones.
func due(*rig) measurement {
	return measurement{
		name:  "due",
		title: "Ten thousand due in one second",
		how: `10,000 parked messages of level 2 become due within the same second; a message of level 9 is sent each 50 ms from before that until
all have run. Handlers return at once, in 32 slots, on the embedded broker. Lateness is from the time a message is due to its handler; an urgent one's time
is from SEND to its handler.`,
		ways: []way{{"usher", func(t testing.TB) []value {
			p := openEmbedded(t)
			w := p.wait(t)
			late, urgent := p.burst(t, w)
			w.stop()
			return []value{millis(numberLate, p99(late)), millis(numberP, p99(urgent))}
		}}},
		answers: func(res results) []answer {
			return []answer{
				{"10,000 due in a second: lateness, p99", "at most 5,000 ms", "ms", res.of("usher", numberLate), atMost(5000)},
				{"10,000 due in a second: urgent, p99", "under 50 ms", "ms", res.of("usher", numberP), atMost(50)},
			}
		},
	}
}

// waited is an engine that runs beside parked messages.
type waited struct {
	stop func()

	mu    sync.Mutex
	ends  int                  // settled
	died  int                  // of them, dead-lettered
	begun map[string]time.Time // when the handler had it first
}

func (w *waited) Observe(ev engine.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch ev.Kind {
	case engine.EventStarted:
		if _, again := w.begun[ev.ID]; !again {
			w.begun[ev.ID] = ev.At
		}
	case engine.EventSettled:
		w.ends++
		if ev.Outcome == engine.OutcomeDeadLettered {
			w.died++
		}
	}
}

func (w *waited) dead() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.died
}

func (w *waited) settled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ends
}

func (w *waited) started(id string) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, there := w.begun[id]
	return at, there
}

// wait starts an engine whose handlers return at once.
func (p *pair) wait(t testing.TB, options ...func(*engine.Config)) *waited {
	t.Helper()
	w := &waited{begun: map[string]time.Time{}}
	done := handlers.HandlerFunc(func(context.Context, *handlers.Message) error { return nil })
	b, err := stomp.New(p.config())
	if err != nil {
		t.Fatal(err)
	}
	cfg := engine.Config{
		Broker: b, Records: p.records, Bodies: p.records, Index: p.records, Holds: p.records, Observer: w, Log: zerolog.Nop(),
		Handler: inProcess{Handler: done, credit: 1000, changed: make(chan struct{})},
		Types:   map[string]engine.Type{typeWork: {}, typeNothing: {}},
	}
	for _, o := range options {
		o(&cfg)
	}
	e, err := engine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	session, endSession := context.WithCancel(context.Background())
	working, stop := context.WithCancel(context.Background())
	sessionEnded, ended := make(chan error, 1), make(chan error, 1)
	go func() { sessionEnded <- b.Run(session) }()
	go func() { ended <- e.Run(working) }()
	w.stop = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("engine: %v", err)
		}
		endSession()
		if err := <-sessionEnded; err != nil {
			t.Errorf("session: %v", err)
		}
		b.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// park sends messages that are due in an hour.
func (p *pair) park(t testing.TB, n int) {
	t.Helper()
	body := bytes.Repeat([]byte{'x'}, bodyBytes)
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(512)
	for i := range n {
		headers := map[string]string{
			engine.HeaderType: typeNothing, engine.HeaderPriority: strconv.Itoa(i % engine.Levels), engine.HeaderID: parkedID(i), engine.HeaderDelay: "1h",
		}
		g.Go(func() error {
			return p.client.Send(ctx, engine.Outgoing{Queue: engine.WorkQueue, Headers: headers, Body: body})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func parkedID(i int) string { return "parked-" + strconv.Itoa(i) }

// write makes the records as they are after an engine has parked such messages.
func (p *pair) write(t testing.TB, n int) {
	t.Helper()
	body := bytes.Repeat([]byte{'x'}, bodyBytes)
	digest, now := engine.DigestOf(body), time.Now()
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(512)
	for i := range n {
		id, level := parkedID(i), i%engine.Levels
		at := now.Add(time.Hour + time.Duration(i)*time.Millisecond)
		g.Go(func() error {
			headers := map[string]string{engine.HeaderType: typeNothing, engine.HeaderPriority: strconv.Itoa(level), engine.HeaderID: id, engine.HeaderHop: "1"}
			if err := p.records.Keep(ctx, id, 1, engine.Parked{Headers: headers, Body: body}); err != nil {
				return err
			}
			_, err := p.records.Write(ctx, engine.Change{
				ID: id, Type: typeNothing, Digest: digest, Priority: level, NextHop: 1, Token: "bench", State: engine.Delayed,
				Due: at, DueBy: engine.ByRule, Bucket: engine.BucketOf(id), Now: now,
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// parkedCost measures beside what is parked.
func (p *pair) parkedCost(t testing.TB, w *waited, memory int64) []value {
	t.Helper()
	settled, cpu := w.settled(), processorTime(t)
	<-time.After(idleFor)
	cpu = processorTime(t) - cpu
	sent := w.settled() - settled // what was sent would have come back, and been settled
	var slowest time.Duration
	for range releasesAsked {
		id := parkedID(p.released * 1009)
		p.released++
		asked := time.Now()
		if _, err := p.records.SetDue(t.Context(), id, asked); err != nil {
			t.Fatal(err)
		}
		var at time.Time
		eventually(t, id+" has run", func() (there bool) { at, there = w.started(id); return there })
		slowest = max(slowest, at.Sub(asked))
	}
	return []value{
		{numberCPU, "%", 100 * cpu.Seconds() / idleFor.Seconds()}, {numberSent, "", float64(sent)},
		{numberMemory, "MB", float64(memory) / (1 << 20)}, millis(numberRelease, slowest), millis(numberList, p.slowestList(t)),
	}
}

// slowestList asks for a page in each of the ways that people ask.
func (p *pair) slowestList(t testing.TB) (slowest time.Duration) {
	t.Helper()
	seven := 7
	for range 20 {
		for _, q := range []engine.Waits{{}, {Type: typeNothing}, {Level: &seven}, {Type: typeNothing, Level: &seven, Before: time.Now().Add(2 * time.Hour)}} {
			q.Limit = 51
			began := time.Now()
			page, err := p.records.Waiting(t.Context(), q)
			if err != nil || len(page) != q.Limit {
				t.Fatalf("%d are listed: %v", len(page), err)
			}
			slowest = max(slowest, time.Since(began))
		}
	}
	return slowest
}

// burst parks messages that are due in the same second, and sends urgent ones beside.
func (p *pair) burst(t testing.TB, w *waited) (late, urgent []time.Duration) {
	t.Helper()
	at := time.Now().Add(25 * time.Second).Truncate(time.Second)
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(512)
	dueAt := make([]time.Time, dueAtOnce)
	for i := range dueAtOnce {
		dueAt[i] = at.Add(time.Duration(i) * time.Second / dueAtOnce)
		headers := map[string]string{
			engine.HeaderType: typeNothing, engine.HeaderPriority: "2", engine.HeaderID: parkedID(i), engine.HeaderNotBefore: dueAt[i].Format(time.RFC3339Nano),
		}
		g.Go(func() error {
			return p.client.Send(ctx, engine.Outgoing{Queue: engine.WorkQueue, Headers: headers, Body: []byte("{}")})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are parked", func() bool { return w.settled() >= dueAtOnce })
	if time.Now().After(at) {
		t.Fatal("it took too long to park them")
	}
	<-time.After(time.Until(at.Add(-time.Second)))
	sent := map[string]time.Time{}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); w.settled() < 2*dueAtOnce+len(sent)-few; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d settled", w.settled())
		}
		id := fmt.Sprint("urgent-", len(sent))
		sent[id] = time.Now()
		headers := map[string]string{engine.HeaderType: typeNothing, engine.HeaderPriority: "9", engine.HeaderID: id}
		if err := p.client.Send(t.Context(), engine.Outgoing{Queue: engine.WorkQueue, Headers: headers, Body: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all have run", func() bool { return w.settled() >= 2*dueAtOnce+len(sent) })
	for i, due := range dueAt {
		begun, _ := w.started(parkedID(i))
		late = append(late, begun.Sub(due))
	}
	for id, from := range sent {
		if begun, there := w.started(id); there {
			urgent = append(urgent, begun.Sub(from))
		}
	}
	return late, urgent
}

func p99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}

// processorTime is what this process has used of all cores.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		t.Fatal(err)
	}
	return time.Duration(self.Utime.Nano() + self.Stime.Nano())
}

// resident is the memory that this process has now, in bytes, after it has given back
// what it does not use.
func resident(t testing.TB) int64 {
	t.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kB, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kB << 10
}

// eventually waits for what no event tells of.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v still not so: %s", patience, what)
		}
	}
}
