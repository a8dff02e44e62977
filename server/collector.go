package server

import (
	"context"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"usher/engine"
)

// collector tells, when it is asked, what others know at that moment: the
// broker, the engine and the plugin host.
type collector struct {
	server *Server

	depth, inFlight, oldest *prometheus.Desc // by lane
	dead, inHand            *prometheus.Desc
	ready                   *prometheus.Desc // by level
	running                 *prometheus.Desc // by plugin, like those after it
	up, credit, restarts    *prometheus.Desc
}

func newCollector(s *Server) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		server:   s,
		depth:    desc("usher_queue_depth", "Messages in the lane at the broker, those in flight included.", "lane"),
		inFlight: desc("usher_queue_in_flight", "Messages of the lane that are delivered and not acked.", "lane"),
		oldest:   desc("usher_queue_oldest_seconds", "Age of the oldest message that waits in the lane, where the broker tells.", "lane"),
		dead:     desc("usher_dead_queue_depth", "Messages in the queue of dead letters, where the broker tells."),
		inHand:   desc("usher_in_hand", "Messages that the engine was given and has not settled."),
		ready:    desc("usher_ready", "Messages in the engine that may run and have no slot yet.", "level"),
		running:  desc("usher_running", "Messages in handlers.", "plugin"),
		up:       desc("usher_plugin_up", "1 while the plugin takes messages.", "plugin"),
		credit:   desc("usher_plugin_credit", "Messages that the plugin takes at once, those that it has included.", "plugin"),
		restarts: desc("usher_plugin_restarts_total", "Processes of the plugin started after the first.", "plugin"),
	}
}

var _ prometheus.Collector = (*collector)(nil)

// Describe lists what Collect may tell.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.depth, c.inFlight, c.oldest, c.dead, c.inHand, c.ready, c.running, c.up, c.credit, c.restarts,
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
	plugins := c.server.cfg.PluginsFunc()
	if view, ok := c.server.cfg.Engine.View(); ok {
		gauge(c.inHand, float64(view.InHand))
		for level, n := range view.Ready {
			gauge(c.ready, float64(n), strconv.Itoa(level))
		}
		for _, p := range plugins {
			gauge(c.running, float64(view.ByPlugin[p.Name]), p.Name)
		}
	}
	for _, p := range plugins {
		up := 0.0
		if p.Ready {
			up = 1
		}
		gauge(c.up, up, p.Name)
		gauge(c.credit, float64(p.Credit), p.Name)
		out <- prometheus.MustNewConstMetric(c.restarts, prometheus.CounterValue, float64(p.Restarts), p.Name)
	}
}

func (c *collector) collectBacklogs(gauge func(*prometheus.Desc, float64, ...string)) {
	s := c.server
	ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
	defer cancel()
	known, err := s.backlogs.get(ctx)
	if err != nil {
		return // the lanes are absent from this scrape; /api/v1/queues says why
	}
	for lane := engine.Unsorted; lane < engine.Levels; lane++ {
		b := backlog(s.laneQueue(lane), known)
		if b.Size == nil {
			continue
		}
		gauge(c.depth, float64(*b.Size), laneLabel(lane))
		gauge(c.inFlight, float64(*b.InFlight), laneLabel(lane))
		if b.OldestSeconds != nil {
			gauge(c.oldest, *b.OldestSeconds, laneLabel(lane))
		}
	}
	if b := backlog(engine.DeadQueue, known); b.Size != nil {
		gauge(c.dead, float64(*b.Size))
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
