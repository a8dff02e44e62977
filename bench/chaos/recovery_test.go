package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/enginetest/faultproxy"
	"usher/engine/enginetest/ledger"
)

// What is asked for.
const (
	backAfterBroker = 5 * time.Second // the first effect, from when the broker's port opens: each time
	backAfterEngine = 2 * time.Second // the first redelivered effect, from kill -9: in 95 of 100
)

// BenchmarkBackAfterABrokerRestart kills the broker, lets it be away for up to 10 s
// and starts it on the same files; each op is the time from when its port is open
// again until the first effect, of two engines.
func BenchmarkBackAfterABrokerRestart(b *testing.B) {
	r := newRig(b)
	for i, name := range []string{"a", "b"} {
		r.engines[i] = newProcess(b, name, r.dir, r.broker.Address(), engine.DefaultSlots) // without a proxy
	}
	r.start()
	r.load(ledger.Config{Kinds: ledger.Shop(), Every: 20 * time.Millisecond, Seed: 1}, 4)
	var took []time.Duration
	for b.Loop() {
		pause(time.Second)
		r.broker.Kill(b)
		away := rand.N(10 * time.Second)
		pause(away)
		opened := opens(b, r.broker.Address())
		r.broker.Run(b)
		open := <-opened
		var done map[string]time.Time
		eventually(b, time.Minute, "the first effect", func() bool {
			done = effectsSince(b, r.effects(), open, func(string) bool { return true })
			return len(done) > 0
		})
		first := slices.MinFunc(slices.Collect(maps.Values(done)), time.Time.Compare)
		took = append(took, first.Sub(open))
		b.Logf("away for %v and its start; first effect after %v", away.Round(time.Millisecond), first.Sub(open).Round(time.Millisecond))
		r.ready()
	}
	report(b, took)
	if worst := slices.Max(took); worst > backAfterBroker {
		b.Errorf("the first effect came %v after the port was open, want at most %v", worst, backAfterBroker)
	}
}

// opens says when somebody listens at the address; it is closed now.
func opens(t testing.TB, address string) <-chan time.Time {
	opened := make(chan time.Time, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
				opened <- time.Now()
				conn.Close()
				return
			}
			<-tick.C
		}
		opened <- time.Time{}
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return opened
}

// effectsSince gives when the messages that are asked for were done, for the first
// time from then on.
func effectsSince(t testing.TB, paths []string, from time.Time, asked func(id string) bool) map[string]time.Time {
	t.Helper()
	done := map[string]time.Time{}
	for _, path := range paths {
		effects, err := ledger.ReadEffects(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range effects {
			if before, ok := done[e.ID]; e.At.After(from) && asked(e.ID) && (!ok || e.At.Before(before)) {
				done[e.ID] = e.At
			}
		}
	}
	return done
}

// BenchmarkBackAfterAnEngineIsKilled kills one engine of two while both work and
// keep up; each op is the time until the other has made the first effect of a message that the
// broker delivers again. In the end the books are closed.
func BenchmarkBackAfterAnEngineIsKilled(b *testing.B) {
	r := newRig(b)
	var again redelivered
	for i, name := range []string{"a", "b"} {
		proxy := faultproxy.Start(b, r.broker.Address(), again.observe)
		r.engines[i] = newProcess(b, name, r.dir, proxy.Address(), engine.DefaultSlots)
	}
	r.start()
	table := r.openRecords()
	// Each takes 100 ms, so that several run at any time.
	l, stop := r.load(ledger.Config{Kinds: []ledger.Kind{{Type: "report.daily"}}, Every: 50 * time.Millisecond, Seed: 1}, 5)
	var took, all []time.Duration
	for n := 0; b.Loop(); n++ {
		dies, lives := r.engines[n%2], r.engines[1-n%2]
		pause(rand.N(2 * time.Second))
		eventually(b, time.Minute, "both engines at work", func() bool { return lives.busy() && dies.busy() })
		again.forget()
		killed := time.Now()
		dies.kill()
		var done map[string]time.Time
		eventually(b, time.Minute, "an end of all that was redelivered", func() bool {
			done = effectsSince(b, []string{lives.effects}, killed, again.has)
			return len(done) > 0 && len(unfinished(b, table, again.all())) == 0 // the dead one may have done some, and not acked
		})
		times := slices.SortedFunc(maps.Values(done), time.Time.Compare)
		took, all = append(took, times[0].Sub(killed)), append(all, times[len(times)-1].Sub(killed))
		b.Logf("the first of %d redelivered messages was done after %v, the last after %v", len(done), took[n].Round(time.Millisecond), all[n].Round(time.Millisecond))
		dies.start()
		r.ready()
	}
	stop()
	r.settled(l, table)
	closed(b, r, l, table, fmt.Sprintf("%d kills", len(took)))
	report(b, took)
	b.ReportMetric(float64(quantile(all, 0.95).Milliseconds()), "last-p95-ms")
	if p95 := quantile(took, 0.95); p95 > backAfterEngine {
		b.Errorf("p95 of the first redelivered effect is %v, want at most %v", p95, backAfterEngine)
	}
}

// busy says that it works, and keeps up: what the other has in hand would run
// before anything that is delivered again.
func (p *process) busy() bool {
	p.t.Helper()
	q := p.queues()
	return q.Running["shop"] >= 2 && q.InHand <= 20
}

// redelivered are the ids of messages that the broker has delivered again.
type redelivered struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (r *redelivered) observe(_ faultproxy.Direction, f *frame.Frame) {
	if f.Command == frame.MESSAGE && f.Header.Get(engine.HeaderRedelivered) == "true" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ids[f.Header.Get(engine.HeaderID)] = true
	}
}

func (r *redelivered) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = map[string]bool{}
}

func (r *redelivered) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

func (r *redelivered) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.ids))
}

// quantile is the smallest of the times that a share of them does not exceed.
func quantile(times []time.Duration, share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	rank := int(share*float64(len(sorted)) + 0.999)
	return sorted[max(min(rank, len(sorted))-1, 0)]
}

// report gives the times as metrics, in place of the time of an op.
func report(b *testing.B, times []time.Duration) {
	b.Helper()
	b.ReportMetric(0, "ns/op")
	for name, share := range map[string]float64{"p50-ms": 0.5, "p95-ms": 0.95, "max-ms": 1} {
		b.ReportMetric(float64(quantile(times, share).Milliseconds()), name)
	}
}
