package server_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/server"
)

// scrape reads /metrics as samples: name and labels to value.
func (r *rig) scrape() map[string]float64 {
	r.t.Helper()
	w := r.ask(http.MethodGet, "/metrics", "")
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		r.t.Fatalf("/metrics is answered with %d %v: %s", w.Code, w.Header(), w.Body)
	}
	samples := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
		if err != nil {
			r.t.Fatalf("%q: %v", line, err)
		}
		samples[line[:i]] = v
	}
	return samples
}

// wantSamples checks some of what a scrape has.
func (r *rig) wantSamples(want map[string]float64) map[string]float64 {
	r.t.Helper()
	got := r.scrape()
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			r.t.Errorf("%s is %v (there: %v), want %v", name, g, ok, v)
		}
	}
	return got
}

func TestEachStepIsCounted(t *testing.T) {
	r := setup(t)
	typ := "order.placed"
	for _, e := range []engine.Event{
		{Kind: engine.EventSession, Epoch: 1},
		{Kind: engine.EventReceived, Type: typ, Lane: 9},
		{Kind: engine.EventReceived, Type: typ, Lane: engine.Unsorted},
		{Kind: engine.EventStarted, Type: typ, Level: 9, Wait: 30 * time.Millisecond},
		{Kind: engine.EventRan, Type: typ, Run: 2 * time.Second, Outcome: engine.OutcomeRetried},
		{Kind: engine.EventRan, Type: typ, Run: time.Second, Outcome: engine.OutcomeDone},
		{Kind: engine.EventSettled, Type: typ, Outcome: engine.OutcomeDone, FollowOn: 3},
		{Kind: engine.EventSettled, Type: typ, Outcome: engine.OutcomeDeadLettered, Reason: engine.ReasonExhausted},
		{Kind: engine.EventHeld, Wait: 1500 * time.Millisecond},
		{Kind: engine.EventReleased, Type: typ, Wait: 2 * time.Second},
		{Kind: engine.EventStoreDown, Err: errors.New("x")},
		{Kind: engine.EventSession, Epoch: 0},
		{Kind: engine.EventSession, Epoch: 2},
	} {
		r.metrics.Observe(e)
	}
	r.wantSamples(map[string]float64{
		`usher_messages_received_total{lane="p9",type="order.placed"}`:              1,
		`usher_messages_received_total{lane="unsorted",type="order.placed"}`:        1,
		`usher_attempts_total{outcome="retried",type="order.placed"}`:               1,
		`usher_attempts_total{outcome="done",type="order.placed"}`:                  1,
		`usher_messages_settled_total{outcome="done",type="order.placed"}`:          1,
		`usher_messages_settled_total{outcome="dead_lettered",type="order.placed"}`: 1,
		`usher_dead_lettered_total{reason="exhausted",type="order.placed"}`:         1,
		`usher_released_total{type="order.placed"}`:                                 1,
		`usher_release_lateness_seconds_sum`:                                        2,
		`usher_follow_ons_total`:                                                    3,
		`usher_queue_wait_seconds_sum{level="9"}`:                                   0.03,
		`usher_queue_wait_seconds_bucket{level="9",le="0.025"}`:                     0,
		`usher_queue_wait_seconds_bucket{level="9",le="0.05"}`:                      1,
		`usher_queue_wait_seconds_count{level="0"}`:                                 0,
		`usher_handler_duration_seconds_sum{type="order.placed"}`:                   3,
		`usher_hold_seconds_total`:                                                  1.5,
		`usher_broker_sessions_total`:                                               2,
		`usher_broker_connected`:                                                    1,
		`usher_records_up`:                                                          0,
	})
	r.metrics.Observe(engine.Event{Kind: engine.EventSession})
	r.metrics.Observe(engine.Event{Kind: engine.EventStoreUp})
	got := r.wantSamples(map[string]float64{`usher_broker_connected`: 0, `usher_records_up`: 1})
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestTheStateOfOthersIsAskedAtTheScrape(t *testing.T) {
	r := setup(t, func(c *server.Config) {
		c.PluginsFunc = func() []server.Plugin {
			return []server.Plugin{{Name: "orders", Ready: true, Credit: 32, Restarts: 4}, {Name: "reports", Quarantined: time.Now()}}
		}
	})
	r.engine.view.InHand, r.engine.view.ByPlugin = 5, map[string]int{"orders": 2, "a-plugin-of-yesterday": 1}
	r.engine.view.Ready[3] = 7
	got := r.wantSamples(map[string]float64{
		`usher_queue_depth{lane="p9"}`: 3, `usher_queue_in_flight{lane="p9"}`: 2, `usher_queue_depth{lane="unsorted"}`: 0,
		`usher_ready{level="3"}`: 7, `usher_ready{level="9"}`: 0, `usher_in_hand`: 5,
		`usher_running{plugin="orders"}`: 2, `usher_running{plugin="reports"}`: 0,
		`usher_plugin_up{plugin="orders"}`: 1, `usher_plugin_up{plugin="reports"}`: 0,
		`usher_plugin_credit{plugin="orders"}`: 32, `usher_plugin_restarts_total{plugin="orders"}`: 4,
		`usher_plugin_quarantined{plugin="orders"}`: 0, `usher_plugin_quarantined{plugin="reports"}`: 1,
	})
	for _, name := range []string{`usher_queue_depth{lane="p8"}`, `usher_dead_queue_depth`, `usher_queue_oldest_seconds{lane="p9"}`} {
		if v, ok := got[name]; ok {
			t.Errorf("%s is not known and told as %v", name, v)
		}
	}
}

func TestABrokerOfOurOwnTellsAgesAndDeadLetters(t *testing.T) {
	r := setup(t, func(c *server.Config) {
		c.QueuesFunc = func() []server.Queue {
			return []server.Queue{{Name: "usher.dead", Size: 12}, {Name: "usher.work.p0", Size: 1, Oldest: time.Now().Add(-time.Hour)}}
		}
	})
	got := r.wantSamples(map[string]float64{`usher_dead_queue_depth`: 12})
	if age := got[`usher_queue_oldest_seconds{lane="p0"}`]; age < 3600 || age > 3700 {
		t.Errorf("the oldest is %v s old", age)
	}
}

func TestWithoutStatisticsTheRestIsStillTold(t *testing.T) {
	r := setup(t)
	r.broker.err = engine.ErrNoStatistics
	r.engine.stopped = true
	got := r.wantSamples(map[string]float64{`usher_records_up`: 1})
	for name := range got {
		if strings.HasPrefix(name, "usher_queue_depth") || strings.HasPrefix(name, "usher_in_hand") {
			t.Errorf("%s is told", name)
		}
	}
}

func TestLabelsAreNotChosenByProducers(t *testing.T) {
	r := setup(t)
	const noise = 500
	for i := range noise {
		secret := fmt.Sprintf("secret-%d", i)
		for _, e := range []engine.Event{
			{Kind: engine.EventReceived, Lane: 4},
			{Kind: engine.EventStarted, Level: 4},
			{Kind: engine.EventRan, Outcome: engine.OutcomeDone},
			{Kind: engine.EventSettled, Outcome: engine.OutcomeDeadLettered, Reason: engine.ReasonNoType},
			{Kind: engine.EventSettled, Outcome: engine.OutcomeDeadLettered, Reason: fmt.Sprintf("permanent:code_%d", i)},
		} {
			e.ID, e.Type, e.Detail = secret, secret, secret
			r.metrics.Observe(e)
		}
	}
	got := r.wantSamples(map[string]float64{
		`usher_messages_received_total{lane="p4",type="other"}`:              noise,
		`usher_dead_lettered_total{reason="no_type",type="other"}`:           noise,
		`usher_dead_lettered_total{reason="permanent:code_0",type="other"}`:  1,
		`usher_dead_lettered_total{reason="permanent:code_49",type="other"}`: 1,
		`usher_dead_lettered_total{reason="permanent:other",type="other"}`:   noise - 50,
		`usher_messages_settled_total{outcome="dead_lettered",type="other"}`: 2 * noise,
	})
	for name := range maps.Keys(got) {
		if strings.Contains(name, "secret") {
			t.Errorf("a label tells an id: %s", name)
		}
	}
}

func TestTypesOfANewConfigurationAreCounted(t *testing.T) {
	r := setup(t)
	received := func(typ string) { r.metrics.Observe(engine.Event{Kind: engine.EventReceived, Type: typ, Lane: 1}) }
	received("new")
	r.metrics.SetTypes([]string{"new"})
	received("new")
	received("order.placed")
	r.wantSamples(map[string]float64{
		`usher_messages_received_total{lane="p1",type="new"}`: 1, `usher_messages_received_total{lane="p1",type="other"}`: 2,
	})
}

func TestMetricsAreCountedAndReadAtOnce(t *testing.T) {
	r := setup(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 200 {
				r.metrics.Observe(engine.Event{
					Kind: engine.EventSettled, Type: "order.placed", Outcome: engine.OutcomeDeadLettered,
					Reason: fmt.Sprintf("permanent:%d", (i+n)%60),
				})
				if n%50 == 0 {
					r.metrics.SetTypes([]string{"order.placed"})
					r.scrape()
				}
			}
		})
	}
	group.Wait()
	r.wantSamples(map[string]float64{`usher_messages_settled_total{outcome="dead_lettered",type="order.placed"}`: 1600})
}

// Observe is on the engine's path.
func BenchmarkObserve(b *testing.B) {
	m := server.NewMetrics([]string{"order.placed"})
	events := []engine.Event{
		{Kind: engine.EventReceived, Type: "order.placed", Lane: 4},
		{Kind: engine.EventStarted, Type: "order.placed", Level: 4, Wait: time.Millisecond},
		{Kind: engine.EventRan, Type: "order.placed", Run: time.Millisecond, Outcome: engine.OutcomeDone},
		{Kind: engine.EventSettled, Type: "order.placed", Outcome: engine.OutcomeDone},
	}
	b.ReportAllocs()
	for b.Loop() { // one message
		for _, e := range events {
			m.Observe(e)
		}
	}
}
