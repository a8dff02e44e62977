package server

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"usher/engine"
)

const (
	// maxCodes is how many different codes of authors become labels.
	maxCodes = 50
	// other is the label of what would be one too many, or is not configured.
	other = "other"
)

// Metrics counts what the engine does, for Prometheus. It is the engine's
// Observer. No label carries what a producer or an author chooses freely: types
// are those of the configuration, codes of authors the first 50. It is safe for
// concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	types    atomic.Pointer[map[string]bool] // configured; replaced, never changed

	mu    sync.Mutex
	codes map[string]bool // of authors, that have a label; guarded by mu

	received    *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	settled     *prometheus.CounterVec
	dead        *prometheus.CounterVec
	followOns   prometheus.Counter
	released    *prometheus.CounterVec
	lateness    prometheus.Histogram
	queueWait   *prometheus.HistogramVec
	handlerTime *prometheus.HistogramVec
	hold        prometheus.Counter
	sessions    prometheus.Counter
	refused     *prometheus.CounterVec
	pushLost    *prometheus.CounterVec
	spansLost   prometheus.Counter
	connected   prometheus.Gauge
	recordsUp   prometheus.Gauge
	configOK    prometheus.Gauge
	configAt    prometheus.Gauge
}

var _ engine.Observer = (*Metrics)(nil)

// NewMetrics makes the metrics of one process; messages of other types than
// the given are counted under the type "other".
func NewMetrics(types []string) *Metrics {
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		codes:     map[string]bool{},
		received:  counters("usher_messages_received_total", "Deliveries that came from the broker.", "type", "lane"),
		attempts:  counters("usher_attempts_total", "Attempts that ended.", "type", "outcome"),
		settled:   counters("usher_messages_settled_total", "Deliveries that were settled.", "type", "outcome"),
		dead:      counters("usher_dead_lettered_total", "Messages that were dead-lettered.", "type", "reason"),
		followOns: counter("usher_follow_ons_total", "Messages that handlers sent."),
		released:  counters("usher_released_total", "Parked messages that were sent again when they were due.", "type"),
		lateness: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "usher_release_lateness_seconds", Help: "From due to sent again, of parked messages.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
		queueWait: histograms("usher_queue_wait_seconds", "From queued or due to the start of an attempt.", "level",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
		handlerTime: histograms("usher_handler_duration_seconds", "Time in the handler, by attempt.", "type",
			.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300),
		hold:      counter("usher_hold_seconds_total", "Time in which slots idled so that a higher level could go first."),
		sessions:  counter("usher_broker_sessions_total", "Sessions with the broker that were made."),
		refused:   counters("usher_watch_refused_total", "Connections and subscriptions of watchers that were refused or ended.", "cause"),
		pushLost:  counters("usher_push_lost_total", "Statuses that watchers over API Gateway were not told of.", "cause"),
		spansLost: counter("usher_trace_spans_lost_total", "Spans that the collector of traces did not take."),
		connected: gauge("usher_broker_connected", "1 while there is a session with the broker."),
		recordsUp: gauge("usher_records_up", "1 while the record table answers the engine."),
		configOK:  gauge("usher_config_last_reload_successful", "1 if the configuration was good when it was last read, 0 if it is not used."),
		configAt:  gauge("usher_config_last_reload_success_timestamp_seconds", "When the configuration that is in use was read."),
	}
	m.recordsUp.Set(1)
	m.SetTypes(types)
	for level := range engine.Levels {
		m.queueWait.WithLabelValues(strconv.Itoa(level)) // so that all are there from the start
	}
	m.registry.MustRegister(
		m.received, m.attempts, m.settled, m.dead, m.followOns, m.released, m.lateness, m.queueWait, m.handlerTime,
		m.hold, m.sessions, m.refused, m.pushLost, m.spansLost, m.connected, m.recordsUp, m.configOK, m.configAt,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return m
}

// SetTypes replaces the types that are counted under their own names, after
// the configuration has changed.
func (m *Metrics) SetTypes(types []string) {
	set := make(map[string]bool, len(types))
	for _, t := range types {
		set[t] = true
	}
	m.types.Store(&set)
}

// Observe counts one step. It does not block.
func (m *Metrics) Observe(e engine.Event) {
	switch e.Kind {
	case engine.EventReceived:
		m.received.WithLabelValues(m.typeLabel(e.Type), laneLabel(e.Lane)).Inc()
	case engine.EventStarted:
		m.queueWait.WithLabelValues(strconv.Itoa(e.Level)).Observe(e.Wait.Seconds())
	case engine.EventRan:
		m.attempts.WithLabelValues(m.typeLabel(e.Type), e.Outcome).Inc()
		m.handlerTime.WithLabelValues(m.typeLabel(e.Type)).Observe(e.Run.Seconds())
	case engine.EventSettled:
		m.settled.WithLabelValues(m.typeLabel(e.Type), e.Outcome).Inc()
		m.followOns.Add(float64(max(e.FollowOn, 0)))
		if e.Outcome == engine.OutcomeDeadLettered {
			m.dead.WithLabelValues(m.typeLabel(e.Type), m.reasonLabel(e.Reason)).Inc()
		}
	case engine.EventSession:
		m.session(e.Epoch)
	case engine.EventHeld:
		m.hold.Add(max(e.Wait.Seconds(), 0))
	case engine.EventReleased:
		m.released.WithLabelValues(m.typeLabel(e.Type)).Inc()
		m.lateness.Observe(max(e.Wait.Seconds(), 0))
	case engine.EventStoreDown:
		m.recordsUp.Set(0)
	case engine.EventStoreUp:
		m.recordsUp.Set(1)
	}
}

// Describe lists all that /metrics can tell, once the server is made; see [prometheus.Collector].
func (m *Metrics) Describe(out chan<- *prometheus.Desc) { m.registry.Describe(out) }

// ConfigLoaded notes that the configuration was read, and whether it is in use now.
func (m *Metrics) ConfigLoaded(ok bool, at time.Time) {
	m.configOK.Set(0)
	if ok {
		m.configOK.Set(1)
		m.configAt.Set(float64(at.UnixMilli()) / 1000)
	}
}

// WatchRefused counts a watcher who was refused, by one of the few causes that
// the endpoint knows. It does not block.
func (m *Metrics) WatchRefused(cause string) { m.refused.WithLabelValues(cause).Inc() }

// PushLost counts a status that was not pushed, by one of the few causes that the pusher
// knows. It does not block.
func (m *Metrics) PushLost(cause string) { m.pushLost.WithLabelValues(cause).Inc() }

// SpansLost counts spans that the collector of traces did not take. It does not block.
func (m *Metrics) SpansLost(n int) { m.spansLost.Add(float64(n)) }

func (m *Metrics) session(epoch uint64) {
	if epoch == 0 {
		m.connected.Set(0)
		return
	}
	m.sessions.Inc()
	m.connected.Set(1)
}

func (m *Metrics) typeLabel(typ string) string {
	if (*m.types.Load())[typ] {
		return typ
	}
	return other
}

// reasonLabel keeps the closed list of reasons as it is, and the first of the
// codes that authors make.
func (m *Metrics) reasonLabel(reason string) string {
	if !strings.HasPrefix(reason, engine.ReasonPermanent) {
		return reason
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.codes[reason] {
		if len(m.codes) >= maxCodes {
			return engine.ReasonPermanent + other
		}
		m.codes[reason] = true
	}
	return reason
}

func laneLabel(lane int) string {
	if lane == engine.Unsorted {
		return "unsorted"
	}
	return fmt.Sprintf("p%d", lane)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func histograms(name, help, label string, buckets ...float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{label})
}
