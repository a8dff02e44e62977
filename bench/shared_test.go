package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/engine/dynamo"
	"usher/engine/enginetest/dynafault"
	"usher/engine/enginetest/dynalite"
	"usher/engine/monitor"
	"usher/engine/stomp"
	"usher/handlers"
)

// sharedMany is how many messages a run on tables takes.
const sharedMany = 10_000

// tables are new ones, with a proxy before them that counts and makes faults.
type tables struct {
	*dynamo.Records

	proxy *dynafault.Proxy
}

func openTables(t testing.TB) tables {
	t.Helper()
	proxy := dynafault.Start(t, dynalite.Start(t).Endpoint(), 1)
	cfg := dynamo.Config{
		AWS:      aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")},
		Endpoint: proxy.Endpoint(), Names: dynamo.DefaultNames("usher"),
	}
	if err := dynamo.CreateTables(t.Context(), dynamo.NewClient(cfg), cfg.Names); err != nil {
		t.Fatal(err)
	}
	records := dynamo.Open(cfg)
	t.Cleanup(func() { records.Close() })
	return tables{records, proxy}
}

// items are how many items were read and written for each of n messages, those for
// leases and for the first window not among them.
func (x tables) items(n int) []value {
	var reads, writes float64
	ofMessages := func(id string) bool { return !strings.HasPrefix(id, "§ ") && !strings.HasPrefix(id, firstPrefix) }
	for operation, count := range x.proxy.Items(ofMessages) {
		switch operation {
		case "BatchGetItem", "GetItem":
			reads += float64(count)
		case "PutItem", "UpdateItem", "DeleteItem":
			writes += float64(count)
		}
	}
	return []value{{"items read", "", reads / float64(n)}, {"items written", "", writes / float64(n)}}
}

// requests is how many requests came, whatever for.
func (x tables) requests() (n int) {
	for _, count := range x.proxy.Requests() {
		n += count
	}
	return n
}

// firstPrefix is what the ids of a first window begin with.
const firstPrefix = "first-"

// firstWindow lets messages wait before others, which an engine then does not claim:
// it claims the first window of each level.
func firstWindow(t testing.TB, p *pair) {
	t.Helper()
	for i := range engine.DefaultWindow {
		h := map[string]string{engine.HeaderType: typeNothing, engine.HeaderPriority: strconv.Itoa(oneLevel), engine.HeaderID: fmt.Sprintf("%s%d-%d", firstPrefix, p.ids.Load(), i)}
		if err := p.client.Send(t.Context(), engine.Outgoing{Queue: engine.WorkQueue, Headers: h}); err != nil {
			t.Fatal(err)
		}
	}
}

func slowStore(r *rig) measurement {
	const calm, slow = "calm", "4 ms later"
	run := func(delay time.Duration) func(t testing.TB) []value {
		return func(t testing.TB) []value {
			x := openTables(t)
			firstWindow(t, r.active)
			r.active.fill(t, sharedMany, engine.WorkQueue, typeNothing, func(int) int { return oneLevel })
			x.proxy.Set(dynafault.Faults{Delay: delay})
			x.proxy.Reset()
			s := newStarts(engine.DefaultWindow + sharedMany)
			r.active.runOn(t, x, engine.Config{Handler: r.plugin, Observer: s, Slots: engine.DefaultSlots, Types: map[string]engine.Type{typeNothing: {}}}, s.all)
			return append(x.items(sharedMany), rate("rate", s.want, s.took()))
		}
	}
	return measurement{
		name:  "store",
		title: "A store that is slower",
		how: `10,000 messages wait in ActiveMQ; the handler, in a plugin process, returns at once. Records are in dynalite, a process that speaks as DynamoDB does,
with a proxy before it that counts, and that passes each request on 4 ms later in the second way. The items are those of these messages that requests named: each
key of a batch is one; before the messages come 100 others, because an engine claims the first window of each level after it has connected. dynalite is one thread of JavaScript, which takes about a core.`,
		ways: []way{{calm, run(0)}, {slow, run(4 * time.Millisecond)}},
		answers: func(res results) []answer {
			return []answer{
				{"An ordinary message: items read", "at most 1", "", res.of(calm, "items read"), atMost(1)},
				{"An ordinary message: items written", "at most 1", "", res.of(calm, "items written"), atMost(1)},
				{"Throughput with 4 ms added to each call, to that without", "at least 0.9", "", res.of(slow, "rate").over(res.of(calm, "rate")), atLeast(0.9)},
			}
		},
	}
}

// kindsMany is how many messages of each kind are counted.
const kindsMany = 500

func kinds(r *rig) measurement {
	type kind struct {
		name    string
		headers map[string]string
		typ     engine.Type
		fails   int // attempts of each message
		watched bool
	}
	count := func(k kind) func(t testing.TB) []value {
		return func(t testing.TB) []value {
			x := openTables(t)
			ctx := t.Context()
			var ids []string
			for i := range kindsMany {
				id := fmt.Sprintf("%s-%d", k.name, i)
				ids = append(ids, id)
				if !k.watched {
					continue
				}
				if _, err := x.Watch(ctx, id, engine.Watcher{Connection: "gw:L0SM9cOFvHcCIhw=", Until: time.Now().Add(time.Hour)}); err != nil {
					t.Fatal(err)
				}
			}
			firstWindow(t, r.active)
			for _, id := range ids {
				h := map[string]string{engine.HeaderType: typeNothing, engine.HeaderPriority: "4", engine.HeaderID: id}
				maps.Copy(h, k.headers)
				if err := r.active.client.Send(ctx, engine.Outgoing{Queue: engine.WorkQueue, Headers: h, Body: make([]byte, bodyBytes)}); err != nil {
					t.Fatal(err)
				}
			}
			x.proxy.Reset()
			done := newFinals(engine.DefaultWindow + kindsMany)
			r.active.runOn(t, x, engine.Config{
				Handler: fails(k.fails), Observer: done, Slots: engine.DefaultSlots, ParkAfter: time.Second, Types: map[string]engine.Type{typeNothing: k.typ},
			}, done.all)
			if done.dead > 0 {
				r.active.archive(t, x, done.dead)
			}
			return x.items(kindsMany)
		}
	}
	all := []kind{
		{name: "ordinary"},
		{name: "retried", typ: engine.Type{Attempts: 2, Backoff: 50 * time.Millisecond}, fails: 1},
		{name: "redelivered", typ: engine.Type{Attempts: 1, Redeliveries: []time.Duration{500 * time.Millisecond}}, fails: 1},
		{name: "dead-lettered", typ: engine.Type{Attempts: 1, Redeliveries: []time.Duration{}}, fails: 1},
		{name: "parked", headers: map[string]string{engine.HeaderDelay: "3000"}},
		{name: "watched", watched: true},
	}
	ways := make([]way, len(all))
	for i, k := range all {
		ways[i] = way{k.name, count(k)}
	}
	return measurement{
		name:  "kinds",
		title: "What each kind of message asks of the tables",
		how: `500 messages of one kind, of 512 bytes. *Retried*: the first attempt fails, the second one is in the same engine. *Redelivered*: the second one is after half a
second in the broker. *Parked*: due in three seconds, which is more than engine.parkAfter, one second, here. *Watched*: one connection watches each, and the requests for
that were made before. *Dead-lettered*: the only attempt fails, and a monitor takes the letter into the archive. Looking for what is due and leases are not in it: they are
per engine and not per message.`,
		ways: ways,
		answers: func(res results) []answer {
			var answers []answer
			for _, k := range all {
				answers = append(answers,
					answer{k.name + ": items read", "-", "", res.of(k.name, "items read"), nil},
					answer{k.name + ": items written", "-", "", res.of(k.name, "items written"), nil})
			}
			return answers
		},
	}
}

// fails is a handler whose first n attempts of each message fail, but for those of a
// first window.
func fails(n int) inProcess {
	var mu sync.Mutex
	failed := map[string]int{}
	return inProcess{Handler: handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if failed[m.ID] >= n || strings.HasPrefix(m.ID, firstPrefix) {
			return nil
		}
		failed[m.ID]++
		return errors.New("one of its first attempts")
	}), credit: engine.DefaultSlots, changed: make(chan struct{})}
}

// archive has a monitor take n dead letters.
func (p *pair) archive(t testing.TB, x tables, n int) {
	t.Helper()
	letters, err := stomp.NewSubscriber(p.config(), engine.DeadQueues(engine.WorkQueue))
	if err != nil {
		t.Fatal(err)
	}
	m, err := monitor.New(monitor.Config{Source: letters, Archive: x, Records: x, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return letters.Run(ctx) })
	g.Go(func() error { return m.Run(ctx) })
	eventually(t, "all letters are in the archive", func() bool {
		tallies, err := x.Tally(ctx)
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		for _, tally := range tallies {
			kept += tally.Count
		}
		return kept >= n
	})
	stop()
	if err := errors.Join(g.Wait(), letters.Close()); err != nil {
		t.Error(err)
	}
}

// finals counts what is done, and what is dead, and when.
type finals struct {
	all  chan struct{} // closed when want are done or dead
	want int

	mu    sync.Mutex // guards the rest
	done  int
	dead  int
	again int // finished before, and acked now
}

func newFinals(want int) *finals { return &finals{all: make(chan struct{}), want: want} }

func (f *finals) Observe(ev engine.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ev.Kind != engine.EventSettled {
		return
	}
	switch ev.Outcome {
	case engine.OutcomeDone:
		f.done++
	case engine.OutcomeDeadLettered:
		f.dead++
	case engine.OutcomeDuplicate:
		f.again++
		return
	default:
		return
	}
	if f.done+f.dead == f.want {
		close(f.all)
	}
}

func (f *finals) look() (done, dead int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done, f.dead
}

// outageFor is how long a store is as bad as it is.
const outageFor = time.Minute

func outages(r *rig) measurement {
	const throttled, gone = "throttled", "gone"
	run := func(bad dynafault.Faults) func(t testing.TB) []value {
		return func(t testing.TB) []value { return outage(t, r, bad) }
	}
	return measurement{
		name:  "outages",
		title: "A store that throttles, and one that is gone",
		how: `60,000 messages wait. After 3 s the store refuses half of all requests for 60 s with ProvisionedThroughputExceededException, or it ends every connection; then
it is well again. Requests are those that came to the proxy, of a message those divided by the messages that were done meanwhile, beside the same for the 3 s before.`,
		ways: []way{{throttled, run(dynafault.Faults{Throttle: 0.5})}, {gone, run(dynafault.Faults{Gone: true})}},
		answers: func(res results) []answer {
			return []answer{
				{"Throttled 50 % for 60 s: dead-lettered", "0", "", res.of(throttled, "dead"), never(0)},
				{"Throttled 50 % for 60 s: requests a message, to calm", "at most 2.2", "", res.of(throttled, "requests a message").over(res.of(throttled, "requests a message, calm")), atMost(2.2)},
				{"Throttled 50 % for 60 s: rate, to calm", "falls", "", res.of(throttled, "rate").over(res.of(throttled, "rate, calm")), atMost(1)},
				{"Gone for 60 s: calls a second", "at most 2", "", res.of(gone, "requests a second"), atMost(2)},
				{"Gone for 60 s: back after", "at most 10 s", "s", res.of(gone, "back after"), atMost(10)},
				{"Gone for 60 s: lost or dead-lettered", "0", "", res.of(gone, "dead"), never(0)},
			}
		},
	}
}

// outage runs an engine through a bad minute.
func outage(t testing.TB, r *rig, bad dynafault.Faults) []value {
	const waiting, calmFor = 60_000, 3 * time.Second
	x := openTables(t)
	r.active.fill(t, waiting, engine.WorkQueue, typeNothing, func(int) int { return oneLevel })
	f := newFinals(waiting)
	var values []value
	enough := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		defer close(enough)
		wait(t.Context(), 2*time.Second) // for the session
		rateOf := func(d time.Duration) (perSecond, each, requests float64, dead int) {
			before, _ := f.look()
			x.proxy.Reset()
			wait(t.Context(), d)
			after, dead := f.look()
			n := float64(x.requests())
			return float64(after-before) / d.Seconds(), n / max(float64(after-before), 1), n / d.Seconds(), dead
		}
		calmRate, calmEach, _, _ := rateOf(calmFor)
		x.proxy.Set(bad)
		badRate, badEach, perSecond, _ := rateOf(outageFor)
		x.proxy.Set(dynafault.Faults{})
		back := time.Now()
		before, _ := f.look()
		for done := before; done == before && time.Since(back) < time.Minute; done, _ = f.look() {
			wait(t.Context(), 10*time.Millisecond)
		}
		took := time.Since(back)
		_, dead := f.look()
		fmt.Fprintf(os.Stderr, "        %.0f/s, then %.0f/s\n", calmRate, badRate)
		values = []value{
			{"rate, calm", "/s", calmRate}, {"rate", "/s", badRate}, {"requests a message, calm", "", calmEach}, {"requests a message", "", badEach},
			{"requests a second", "", perSecond}, {"back after", "s", took.Seconds()}, {"dead", "", float64(dead)},
		}
	})
	r.active.runOn(t, x, engine.Config{Handler: r.plugin, Observer: f, Slots: engine.DefaultSlots, Types: map[string]engine.Type{typeNothing: {}}}, enough)
	watch.Wait()
	// What is left is taken away: that it is there, all of it, is what counts.
	acked := f.done + f.dead + f.again
	if _, err := takeAll(r.active.address, waiting-acked, engine.DefaultWindow, lanes()...); err != nil {
		t.Errorf("%d of %d messages are acked, and the others are not in the broker: %v", acked, waiting, err)
	}
	return values
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
