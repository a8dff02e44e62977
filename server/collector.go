package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"usher/engine"
)

// collector tells, when it is asked, what others know at that moment: the
// broker, the engine and the plugin host.
type collector struct {
	server *Server

	depth, inFlight       *prometheus.Desc // by lane, like the next
	laneInHand, oldest    *prometheus.Desc
	backlog, dead, inHand *prometheus.Desc
	finding               *prometheus.Desc // by finding
	letters, oldestLetter *prometheus.Desc // by reason
	ready                 *prometheus.Desc // by level
	running               *prometheus.Desc // by plugin, like those after it
	up, credit, restarts  *prometheus.Desc
	quarantined           *prometheus.Desc
	failing               *prometheus.Desc // by type
	nudges                *prometheus.Desc // by what
	overdue               *prometheus.Desc
}

func newCollector(s *Server) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		server:       s,
		depth:        desc("usher_queue_depth", "Messages in the lane at the broker, those in flight included.", "lane"),
		inFlight:     desc("usher_queue_in_flight", "Messages of the lane that are delivered and not acked.", "lane"),
		laneInHand:   desc("usher_queue_in_hand", "Messages of the lane that were delivered to this engine and are not acked.", "lane"),
		backlog:      desc("usher_backlog", "Messages in all lanes at the broker, those in flight included: the same from each engine."),
		finding:      desc("usher_broker_finding", "1 if what usher relies on at its broker is so, 0 if not.", "finding"),
		oldest:       desc("usher_queue_oldest_seconds", "Age of the oldest message that waits in the lane, where the broker tells.", "lane"),
		dead:         desc("usher_dead_queue_depth", "Messages in the queue of dead letters, where the broker tells."),
		letters:      desc("usher_dead_letters", "Dead letters in the archive that wait for somebody.", "reason"),
		oldestLetter: desc("usher_dead_letters_oldest_seconds", "Age of the oldest of them.", "reason"),
		overdue:      desc("usher_parked_overdue_seconds", "For how long the parked message that waits the longest should have been released; 0 if none should."),
		nudges:       desc("usher_nudges_total", "What engines have told each other, as far as it came here; junk could not be read, lost was not taken in time.", "what"),
		inHand:       desc("usher_in_hand", "Messages that the engine was given and has not settled."),
		ready:        desc("usher_ready", "Messages in the engine that may run and have no slot yet.", "level"),
		running:      desc("usher_running", "Messages in handlers.", "plugin"),
		up:           desc("usher_plugin_up", "1 while the plugin takes messages.", "plugin"),
		credit:       desc("usher_plugin_credit", "Messages that the plugin takes at once, those that it has included.", "plugin"),
		restarts:     desc("usher_plugin_restarts_total", "Processes of the plugin started after the first.", "plugin"),
		quarantined:  desc("usher_plugin_quarantined", "1 while the plugin gets one message at a time, because it crashed too often.", "plugin"),
		failing:      desc("usher_type_failing", "1 while attempts of the type fail one after the other, and its messages wait: see types.<name>.breaker.", "type"),
	}
}

var _ prometheus.Collector = (*collector)(nil)

// Describe lists what Collect may tell.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.depth, c.inFlight, c.laneInHand, c.oldest, c.backlog, c.dead, c.letters, c.oldestLetter, c.inHand, c.finding, c.ready, c.running, c.up, c.credit, c.restarts, c.quarantined, c.failing, c.nudges, c.overdue,
	} {
		out <- d
	}
}

// Collect asks. What is not known is left out.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	c.collectBacklogs(gauge)
	broker := c.server.cfg.BrokerFunc()
	for what, n := range map[string]uint64{"came": broker.Nudges.Came, "junk": broker.Nudges.Junk, "lost": broker.Nudges.Lost} {
		out <- prometheus.MustNewConstMetric(c.nudges, prometheus.CounterValue, float64(n), what)
	}
	for _, f := range broker.Findings {
		if f.State != StateUnknown {
			gauge(c.finding, boolean(f.State == StateOK), f.Name)
		}
	}
	c.collectLetters(gauge)
	c.collectOverdue(gauge)
	plugins := c.server.cfg.PluginsFunc()
	if view, ok := c.server.cfg.Engine.View(); ok {
		gauge(c.inHand, float64(view.InHand))
		for level, n := range view.Ready {
			gauge(c.ready, float64(n), strconv.Itoa(level))
		}
		for _, p := range plugins {
			gauge(c.running, float64(view.ByPlugin[p.Name]), p.Name)
		}
		for typ, v := range view.ByType {
			gauge(c.failing, boolean(!v.Failing.IsZero()), typ)
		}
	}
	for _, p := range plugins {
		gauge(c.up, boolean(p.Ready), p.Name)
		gauge(c.credit, float64(p.Credit), p.Name)
		gauge(c.quarantined, boolean(!p.Quarantined.IsZero()), p.Name)
		out <- prometheus.MustNewConstMetric(c.restarts, prometheus.CounterValue, float64(p.Restarts), p.Name)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c *collector) collectBacklogs(gauge func(*prometheus.Desc, float64, ...string)) {
	s := c.server
	hand := s.cfg.InHandFunc()
	for lane, n := range hand {
		gauge(c.laneInHand, float64(n), laneLabel(lane))
	}
	ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
	defer cancel()
	known, err := s.backlogs.get(ctx)
	if err != nil {
		return // the lanes are absent from this scrape; /api/v1/queues says why
	}
	for lane := engine.Unsorted; lane < engine.Levels; lane++ {
		b := s.lane(lane, known, hand)
		if b.Size == nil {
			continue
		}
		gauge(c.depth, float64(*b.Size), laneLabel(lane))
		gauge(c.inFlight, float64(*b.InFlight), laneLabel(lane))
		if b.OldestSeconds != nil {
			gauge(c.oldest, *b.OldestSeconds, laneLabel(lane))
		}
	}
	if b := s.total(known, hand); b.Size != nil {
		gauge(c.backlog, float64(*b.Size))
	}
	if b := backlog(engine.DeadQueue, known); b.Size != nil {
		gauge(c.dead, float64(*b.Size))
	}
}

// collectLetters adds up the reasons that share a label.
func (c *collector) collectLetters(gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
	defer cancel()
	tallies, err := c.server.tallies.get(ctx)
	if err != nil {
		return // they are absent from this scrape; /readyz says more
	}
	counts, oldest := map[string]int{}, map[string]time.Time{}
	for _, t := range tallies {
		label := c.server.cfg.Metrics.reasonLabel(t.Reason)
		counts[label] += t.Count
		if at, ok := oldest[label]; !ok || t.Oldest.Before(at) {
			oldest[label] = t.Oldest
		}
	}
	for label, n := range counts {
		gauge(c.letters, float64(n), label)
		gauge(c.oldestLetter, max(time.Since(oldest[label]).Seconds(), 0), label)
	}
}

func (c *collector) collectOverdue(gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
	defer cancel()
	if late, err := c.server.overdue.get(ctx); err == nil {
		gauge(c.overdue, late.Seconds())
	}
}

// metricsHandler serves the registry in the formats that Prometheus knows.
func (s *Server) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.cfg.Metrics.registry, promhttp.HandlerOpts{
		ErrorLog: promLog{s.cfg.Log}, ErrorHandling: promhttp.ContinueOnError,
	})
}

// promLog lets promhttp log where everybody does.
type promLog struct{ log zerolog.Logger }

// Println logs one line.
func (l promLog) Println(v ...any) {
	l.log.Error().Msgf("metrics: %v", v)
}
