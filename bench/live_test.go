package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/pluginhost"
	"usher/engine/stomp"
	"usher/handlers"
)

// failing is a type that fails each time beside a healthy one.
func failing(r *rig) measurement {
	m := measurement{
		name:  "failing",
		title: "A type that fails beside a healthy one",
		how: `2,000 healthy messages on ActiveMQ: *alone*, and *beside* as many of another type and the same level, which come in turn with them, a hundred of each, and
whose handler fails at once each time (3 attempts, then a redelivery after 5 s, then 3 more). Healthy ones take 100 ms in the default of 32 slots, or 20 ms in 8.
The rate is that of the healthy messages, from the first that starts to the last that is done. What limits it is the slots: 320 and 400 a second. A retry that comes back through
the broker is claimed in its slot, a write that takes half a millisecond to four while others write as well: that is what the healthy ones lose.`,
	}
	var asked []func(results) answer
	for _, c := range []struct {
		slots int
		takes time.Duration
	}{{engine.DefaultSlots, 100 * time.Millisecond}, {8, 20 * time.Millisecond}} {
		what := fmt.Sprintf("%d slots, %v", c.slots, c.takes)
		alone, beside := "alone, "+what, "beside, "+what
		m.ways = append(m.ways,
			way{alone, func(t testing.TB) []value { return r.healthy(t, c.slots, c.takes, false) }},
			way{beside, func(t testing.TB) []value { return r.healthy(t, c.slots, c.takes, true) }})
		asked = append(asked, func(res results) answer {
			return answer{"Rate beside a type that fails, to alone: " + what, "at least 0.95", "", res.of(beside, "rate").over(res.of(alone, "rate")), atLeast(0.95)}
		})
	}
	m.answers = func(res results) (all []answer) {
		for _, a := range asked {
			all = append(all, a(res))
		}
		return all
	}
	return m
}

const healthyMessages = 2000

// healthy measures how fast the healthy messages are done.
func (r *rig) healthy(t testing.TB, slots int, takes time.Duration, beside bool) []value {
	p := &pair{address: r.active.address, records: r.active.records, client: r.active.client}
	p.ids.Store(uint64(time.Now().UnixNano()))
	for range healthyMessages / 100 { // in turn, a hundred of each
		p.fill(t, 100, engine.WorkQueue, typeWork, func(int) int { return oneLevel })
		if beside {
			p.fill(t, 100, engine.WorkQueue, typeNothing, func(int) int { return oneLevel })
		}
	}
	var mu sync.Mutex
	var first, last time.Time
	done, n := make(chan struct{}), 0
	handle := handlers.HandlerFunc(func(ctx context.Context, m *handlers.Message) error {
		if m.Type == typeNothing {
			return errors.New("it fails each time")
		}
		mu.Lock()
		if first.IsZero() {
			first = time.Now()
		}
		mu.Unlock()
		if err := work(ctx, takes); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if n++; n == healthyMessages {
			last = time.Now()
			close(done)
		}
		return nil
	})
	w := p.wait(t, func(c *engine.Config) {
		c.Slots, c.Handler = slots, inProcess{Handler: handle, credit: 1000, changed: make(chan struct{})}
		c.Types[typeNothing] = engine.Type{Redeliveries: []time.Duration{5 * time.Second}}
	})
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%d of %d are done", n, healthyMessages)
	}
	if beside { // so that the next way begins with nothing left
		eventually(t, "the others are dead", func() bool { return w.dead() >= healthyMessages })
	}
	w.stop()
	return []value{rate("rate", healthyMessages, last.Sub(first))}
}

// reloads changes the configuration, plugin included, while messages flow.
func reloads(*rig) measurement {
	return measurement{
		name:  "reload",
		title: "Reloads while messages flow",
		how: `200 messages a second of 2 ms are sent to an engine with a plugin process, on the embedded broker; 50 times, once 300 ms after the last change is
complete, the configuration is changed: the plugin's environment (a new process is started, takes over, and the old one ends), slots and types. The pause
of a change is the longest time between two starts of messages from the change until its new process has taken over and 200 ms more. Lost is what was sent and is not done in the end.`,
		ways: []way{{"usher", func(t testing.TB) []value {
			p := openEmbedded(t)
			pauses, lost := p.reloaded(t)
			slices.Sort(pauses)
			return []value{
				millis("pause, p99", p99(pauses)), millis("pause, median", pauses[len(pauses)/2]), {"lost", "", float64(lost)},
			}
		}}},
		answers: func(res results) []answer {
			return []answer{
				{"50 reloads under load: lost", "0", "", res.of("usher", "lost"), never(0)},
				{"50 reloads under load: pause, p99", "at most 500 ms", "ms", res.of("usher", "pause, p99"), never(500)},
			}
		},
	}
}

const reloadsAsked = 50

func (p *pair) reloaded(t testing.TB) (pauses []time.Duration, lost int) {
	t.Helper()
	plugin := startPlugin(t)
	host := plugin.Host
	var starts moments
	b, err := stomp.New(p.config())
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Config{
		Broker: b, Records: p.records, Bodies: p.records, Index: p.records, Holds: p.records, Handler: host, Observer: &starts, Log: zerolog.Nop(),
		Types: map[string]engine.Type{typeWork: {}, typeNothing: {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	session, endSession := context.WithCancel(context.Background())
	working, stop := context.WithCancel(context.Background())
	sessionEnded, ended := make(chan error, 1), make(chan error, 1)
	go func() { sessionEnded <- b.Run(session) }()
	go func() { ended <- e.Run(working) }()
	sending, stopSending := context.WithCancel(context.Background())
	sent := make(chan int, 1)
	go func() { sent <- p.flow(sending, t) }()
	eventually(t, "messages flow", func() bool { return starts.count() > 100 })
	for i := range reloadsAsked {
		from := time.Now()
		swap(t, e, host, plugin.config, i)
		<-time.After(200 * time.Millisecond)
		pauses = append(pauses, starts.longestGap(from, time.Now()))
		<-time.After(100 * time.Millisecond)
	}
	stopSending()
	n := <-sent
	eventually(t, "all are done", func() bool { return starts.done() >= n })
	stop()
	endSession()
	if err := errors.Join(<-ended, <-sessionEnded, b.Close()); err != nil {
		t.Error(err)
	}
	return pauses, n - starts.done()
}

// swap changes engine and plugin, and waits until the new process has taken over.
func swap(t testing.TB, e *engine.Engine, host *pluginhost.Host, cfg pluginhost.Config, i int) {
	t.Helper()
	next := cfg
	next.Plugins = maps.Clone(cfg.Plugins)
	p := next.Plugins["bench"]
	p.Env = maps.Clone(p.Env)
	p.Env["CHANGE"] = strconv.Itoa(i)
	next.Plugins["bench"] = p
	err := e.Reconfigure(func(c *engine.Config) {
		c.Slots = 32 + i%2
		c.Types = map[string]engine.Type{typeWork: {Attempts: 3 + i%2}, typeNothing: {}}
	}, func() error { return host.Reconfigure(next) })
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new process has taken over", func() bool {
		s := host.Status()[0]
		return s.Next == nil && s.State == pluginhost.Ready
	})
}

// flow sends until ctx ends, and tells how many were sent.
func (p *pair) flow(ctx context.Context, t testing.TB) (sent int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return sent
		case <-tick.C:
		}
		if err := p.client.Send(context.Background(), engine.Outgoing{Queue: engine.WorkQueue, Headers: p.headers(typeWork, oneLevel), Body: []byte("{}")}); err != nil {
			t.Error(err)
			return sent
		}
		sent++
	}
}

// moments notes when messages started, and what was done.
type moments struct {
	mu    sync.Mutex
	at    []time.Time
	ended map[string]bool
}

func (m *moments) Observe(ev engine.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ev.Kind == engine.EventStarted:
		m.at = append(m.at, ev.At)
	case ev.Kind == engine.EventSettled && ev.Outcome == engine.OutcomeDone:
		if m.ended == nil {
			m.ended = map[string]bool{}
		}
		m.ended[ev.ID] = true
	}
}

func (m *moments) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.at)
}

func (m *moments) done() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ended)
}

// longestGap is the longest time between two starts, of which the later is within.
func (m *moments) longestGap(from, to time.Time) (longest time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := from
	for _, at := range m.at {
		if at.Before(from) || at.After(to) {
			continue
		}
		longest = max(longest, at.Sub(before))
		before = at
	}
	return max(longest, to.Sub(before))
}
