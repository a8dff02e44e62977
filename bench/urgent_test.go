package bench

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"golang.org/x/sync/errgroup"

	"usher/engine"
)

const (
	urgentEvery  = 50 * time.Millisecond
	urgentSlots  = 8
	urgentBelow  = 2   // the level of what waits
	sorterWindow = 500 // the window of the client with a heap
)

// plainQueue is a queue of the same broker, with the same policy as the lanes
// (prioritizedMessages among it), that no lane is made of.
const plainQueue = engine.WorkQueue + ".plain"

// urgents is how many urgent messages a run sends: no more than what waits is
// enough for, if every slot is always busy.
func urgents() int { return *messages / int(urgentSlots*urgentEvery/workTime) }

func urgency(r *rig) measurement {
	return measurement{
		name:  "urgent",
		title: "Urgent messages beside a backlog",
		how: `A message of level 9 is sent each 50 ms, 100 in all, while 20,000 of level 2 wait; each takes 2 ms of waiting in one of 8
slots or workers. What is measured is the time from just before SEND to the first line of the handler. *usher* runs the messages in a
plugin process and writes their records; *a client with a heap* takes a window of 500 from one queue with
` + "`prioritizedMessages`" + `, keeps it in a heap in its own process and gives its 8 workers the highest first. Both take turns on one broker
process; before the urgent messages come 100 of level 9 that do nothing, because an engine claims the first window of each level after it has
connected, one write more for each, and what is to be measured is an engine that has been up. What limits usher is the machine: the broker, the
engine and the plugin share its cores, and one of the messages that run has to leave its slot before an urgent one starts.`,
		ways: []way{
			{"usher", func(t testing.TB) []value { return urgentEngine(t, r) }},
			{"a client with a heap", func(t testing.TB) []value { return urgentSorter(t, r) }},
		},
		answers: func(res results) []answer {
			p50, p99 := res.of("usher", "p50"), res.of("usher", "p99")
			return []answer{
				{"Urgent, p50: usher to a client with a heap", "at most 1/3", "", p50.over(res.of("a client with a heap", "p50")), atMost(1.0 / 3)},
				{"Urgent, p99: usher to a client with a heap", "at most 1/2", "", p99.over(res.of("a client with a heap", "p99")), atMost(1.0 / 2)},
				{"Urgent, p99: usher", "aim: 30 ms", "ms", p99, atMost(30)},
			}
		},
	}
}

// urgentBacklog lets the messages wait, and before them a window of level 9: an
// engine claims the first window of a session, and one that has been up for a
// second is to be measured.
func urgentBacklog(t testing.TB, p *pair, queue string) {
	t.Helper()
	p.fill(t, engine.DefaultWindow, queue, typeNothing, func(int) int { return urgentLevel })
	p.fill(t, *messages, queue, typeWork, func(int) int { return urgentBelow })
}

// urgentAll is how many messages a run has in all.
func urgentAll() int { return engine.DefaultWindow + *messages + urgents() }

func urgentEngine(t testing.TB, r *rig) []value {
	urgentBacklog(t, r.active, engine.WorkQueue)
	if err := r.plugin.forget(); err != nil {
		t.Fatal(err)
	}
	s := newStarts(urgentAll())
	var sending errgroup.Group
	sending.Go(func() error { return sendUrgent(r.active, engine.WorkQueue, s.begun) })
	r.active.run(t, r.plugin, s, urgentSlots)
	waits, err := r.plugin.waits()
	if err := errors.Join(err, sending.Wait()); err != nil {
		t.Fatal(err)
	}
	return urgentValues(t, waits, s.levels, s.took())
}

func urgentSorter(t testing.TB, r *rig) []value {
	urgentBacklog(t, r.active, plainQueue)
	var mu sync.Mutex // guards the next two
	var waits []time.Duration
	var levels []int
	begun := make(chan struct{})
	var sending errgroup.Group
	sending.Go(func() error { return sendUrgent(r.active, plainQueue, begun) })
	var began time.Time
	err := takeSorted(r.active.address, plainQueue, urgentAll(), sorterWindow, urgentSlots, func(f *frame.Frame) {
		mu.Lock()
		if len(levels) == 0 {
			began = time.Now()
			close(begun)
		}
		works, level := f.Header.Get(engine.HeaderType) == typeWork, int(f.Header.Get(engine.HeaderPriority)[0]-'0')
		if levels = append(levels, level); works && level == urgentLevel {
			waits = append(waits, sinceSent(f.Body))
		}
		mu.Unlock()
		if works {
			_ = work(context.Background(), workTime) // which does not end
		}
	})
	took := time.Since(began)
	if err := errors.Join(err, sending.Wait()); err != nil {
		t.Fatal(err)
	}
	return urgentValues(t, waits, levels, took)
}

// sendUrgent sends an urgent message at each tick, whether or not the broker has
// confirmed the one before, as soon as others run.
func sendUrgent(p *pair, queue string, begun <-chan struct{}) error {
	<-begun
	tick := time.NewTicker(urgentEvery)
	defer tick.Stop()
	g, ctx := errgroup.WithContext(context.Background())
	for range urgents() {
		<-tick.C
		g.Go(func() error {
			return p.client.Send(ctx, engine.Outgoing{Queue: queue, Headers: p.headers(typeWork, urgentLevel), Body: sentNow()})
		})
	}
	return g.Wait()
}

// urgentValues are those of a run, in which messages of these levels started one
// after the other.
func urgentValues(t testing.TB, waits []time.Duration, levels []int, took time.Duration) []value {
	if len(waits) != urgents() {
		t.Fatalf("%d urgent messages were run, of %d", len(waits), urgents())
	}
	if levels[len(levels)-1] == urgentLevel {
		t.Fatal("the backlog came to its end before the urgent messages did")
	}
	slices.Sort(waits)
	return []value{
		millis("p50", quantile(waits, 0.50)), millis("p99", quantile(waits, 0.99)), rate("all messages", len(levels), took),
	}
}

// quantile is the smallest of the sorted times that a share q of them does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}
