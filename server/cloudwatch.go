package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"usher/engine"
)

// cloudWatchEvery is how often metrics are written: CloudWatch's own resolution.
const cloudWatchEvery = time.Minute

// cloudWatchNamespace is that of all of them.
const cloudWatchNamespace = "usher"

// unit is one of CloudWatch's (API reference, MetricDatum).
type unit string

const (
	count   unit = "Count"
	seconds unit = "Seconds"
)

// number is one metric at one time.
type number struct {
	name  string
	unit  unit
	value float64
}

// CloudWatch writes, once a minute until ctx ends, what AWS scales and alarms by, as
// lines that CloudWatch Logs makes metrics of (its embedded metric format). service is
// the dimension Service; lanes have Lane as well. What is not known is left out, so that
// the number of samples of Backlog is the number of engines. A line that cannot be
// written is logged, and ends nothing.
func (s *Server) CloudWatch(ctx context.Context, w io.Writer, service string) error {
	tick := time.NewTicker(cloudWatchEvery)
	defer tick.Stop()
	for {
		if err := s.writeCloudWatch(ctx, w, service, time.Now()); err != nil {
			s.cfg.Log.Warn().Err(err).Msg("CloudWatch is not told")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) writeCloudWatch(ctx context.Context, w io.Writer, service string, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*backlogTimeout)
	defer cancel()
	whole := []number{{"Connected", count, boolean(s.cfg.BrokerFunc().Connected)}}
	if tallies, err := s.tallies.get(ctx); err == nil {
		letters := 0
		for _, t := range tallies {
			letters += t.Count
		}
		whole = append(whole, number{"DeadLetters", count, float64(letters)})
	}
	if late, err := s.overdue.get(ctx); err == nil {
		whole = append(whole, number{"ParkedOverdue", seconds, late.Seconds()})
	}
	hand := s.cfg.InHandFunc()
	known, err := s.backlogs.get(ctx)
	if err != nil {
		return writeMetrics(w, now, map[string]string{"Service": service}, whole)
	}
	if b := s.total(known, hand); b.Size != nil {
		whole = append(whole, number{"Backlog", count, float64(*b.Size)})
	}
	if err := writeMetrics(w, now, map[string]string{"Service": service}, whole); err != nil {
		return err
	}
	for lane := engine.Unsorted; lane < engine.Levels; lane++ {
		b := s.lane(lane, known, hand)
		if b.Size == nil {
			continue
		}
		var age float64
		if b.OldestSeconds != nil {
			age = *b.OldestSeconds
		}
		err := writeMetrics(w, now, map[string]string{"Service": service, "Lane": laneLabel(lane)}, []number{
			{"Depth", count, float64(*b.Size)}, {"OldestMessage", seconds, age},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeMetrics writes one line.
func writeMetrics(w io.Writer, now time.Time, dimensions map[string]string, numbers []number) error {
	type metric struct {
		Name string
		Unit unit
	}
	type directive struct {
		Namespace  string
		Dimensions [][]string
		Metrics    []metric
	}
	names := []string{"Service"}
	if _, is := dimensions["Lane"]; is {
		names = append(names, "Lane")
	}
	about := directive{Namespace: cloudWatchNamespace, Dimensions: [][]string{names}}
	line := map[string]any{}
	for name, value := range dimensions {
		line[name] = value
	}
	for _, n := range numbers {
		about.Metrics = append(about.Metrics, metric{n.name, n.unit})
		line[n.name] = n.value
	}
	line["_aws"] = struct {
		Timestamp         int64
		CloudWatchMetrics []directive
	}{now.UnixMilli(), []directive{about}}
	text, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("server: metrics for CloudWatch: %w", err)
	}
	if _, err := w.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("server: metrics for CloudWatch: %w", err)
	}
	return nil
}

// overdueLooked is how many of those that waited the longest are looked at.
const overdueLooked = 100

// fetchOverdue is for how long the parked message that waits the longest should have been
// released. What waits in the broker, and what is held with its type, should not have been.
func (s *Server) fetchOverdue(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	late, err := s.cfg.Table.Waiting(ctx, engine.Waits{Limit: overdueLooked, Before: now})
	if err != nil {
		return 0, fmt.Errorf("server: %w", err)
	}
	for _, rec := range late {
		if rec.Bucket != "" && !rec.Held() {
			return now.Sub(rec.Due), nil
		}
	}
	return 0, nil
}
