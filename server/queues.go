package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"usher/engine"
)

// backlogTimeout is how long the broker has to tell how much waits.
const backlogTimeout = 3 * time.Second

// queues answers with how much waits, at the broker and here.
func (s *Server) queues(w http.ResponseWriter, r *http.Request) error {
	view, _ := s.cfg.Engine.View()
	known, err := s.backlogs.get(r.Context())
	hand := s.cfg.InHandFunc()
	report := QueueReport{
		Unsorted: s.lane(engine.Unsorted, known, hand), Total: s.total(known, hand), Dead: backlog(engine.DeadQueue, known),
		Running: map[string]int{}, InHand: view.InHand, Floor: view.Floor, Connected: view.Epoch > 0,
	}
	switch {
	case errors.Is(err, engine.ErrNoStatistics):
		report.Note = "the broker gives no statistics: enable its statisticsBrokerPlugin"
	case err != nil:
		report.Note = "the broker did not tell how much waits: " + oneLine(err.Error())
	}
	maps.Copy(report.Running, view.ByPlugin)
	for level := engine.Levels - 1; level >= 0; level-- {
		report.Levels = append(report.Levels, LevelReport{
			Level: level, Backlog: s.lane(level, known, hand), Ready: view.Ready[level], Running: view.Running[level],
		})
	}
	writeJSON(w, http.StatusOK, report)
	return nil
}

// broker answers with what was found of the broker.
func (s *Server) broker(w http.ResponseWriter, _ *http.Request) error {
	report := s.cfg.BrokerFunc()
	if s.cfg.Engine != (nobody{}) {
		view, _ := s.cfg.Engine.View()
		report.Connected = view.Epoch > 0
	}
	if report.Findings == nil {
		report.Findings = []Finding{}
	}
	writeJSON(w, http.StatusOK, report)
	return nil
}

// laneQueue names the queue of a lane.
func (s *Server) laneQueue(lane int) string {
	if lane == engine.Unsorted {
		return s.cfg.Queue
	}
	return s.cfg.Queue + ".p" + strconv.Itoa(lane)
}

// lane is what is known of one lane.
func (s *Server) lane(lane int, known map[string]Queue, hand map[int]int) Backlog {
	b := backlog(s.laneQueue(lane), known)
	if n, ok := hand[lane]; ok {
		b.InHand = &n
	}
	return b
}

// total adds up what is known of the lanes. Its queue is their names' pattern.
func (s *Server) total(known map[string]Queue, hand map[int]int) Backlog {
	sum := Backlog{Queue: s.cfg.Queue + ".>"}
	for lane := engine.Unsorted; lane < engine.Levels; lane++ {
		b := s.lane(lane, known, hand)
		sum.Size, sum.InFlight, sum.Waiting = plus(sum.Size, b.Size), plus(sum.InFlight, b.InFlight), plus(sum.Waiting, b.Waiting)
		sum.InHand = plus(sum.InHand, b.InHand)
		if b.OldestSeconds != nil && (sum.OldestSeconds == nil || *b.OldestSeconds > *sum.OldestSeconds) {
			sum.OldestSeconds = b.OldestSeconds
		}
	}
	return sum
}

// plus adds what is known; nil is "not known".
func plus(sum, n *int) *int {
	if n == nil {
		return sum
	}
	total := *n
	if sum != nil {
		total += *sum
	}
	return &total
}

func backlog(name string, known map[string]Queue) Backlog {
	b := Backlog{Queue: name}
	q, ok := known[name]
	if !ok {
		return b
	}
	waiting := max(q.Size-q.InFlight, 0)
	b.Size, b.InFlight, b.Waiting = &q.Size, &q.InFlight, &waiting
	if !q.Oldest.IsZero() {
		age := max(time.Since(q.Oldest), 0).Round(time.Millisecond).Seconds()
		b.OldestSeconds = &age
	}
	return b
}

// fetchBacklogs asks who knows how much waits; by queue name.
func (s *Server) fetchBacklogs(ctx context.Context) (map[string]Queue, error) {
	known := map[string]Queue{}
	if s.cfg.QueuesFunc != nil {
		for _, q := range s.cfg.QueuesFunc() {
			known[q.Name] = q
		}
		return known, nil
	}
	depths, err := s.cfg.Broker.Depths(ctx)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	for lane, d := range depths.Lanes {
		name := s.laneQueue(lane)
		known[name] = Queue{Name: name, Size: d.Size, InFlight: d.InFlight, Oldest: d.Oldest}
	}
	if d := depths.Dead; d != nil {
		known[engine.DeadQueue] = Queue{Name: engine.DeadQueue, Size: d.Size, InFlight: d.InFlight}
	}
	return known, nil
}
