package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"usher/engine"
)

// message answers with what the record and the engine know of a message. The
// engine is asked first: what it has settled in between is in the record.
func (s *Server) message(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	m, err := s.find(r.Context(), id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, m)
	return nil
}

// cancel ends a message that is not running. Those who watch it are told.
func (s *Server) cancel(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	running, err := readFlag(r.URL.Query(), "running")
	if err != nil {
		return err
	}
	live, inHand := s.cfg.Engine.InHand(id)
	now := time.Now()
	var rec engine.Record
	err = engine.ErrRunning
	if !inHand || live.State != engine.Processing {
		rec, err = s.cfg.Table.Cancel(r.Context(), id, now.Add(engine.FinalTTL))
	}
	switch {
	case running && (errors.Is(err, engine.ErrRunning) || errors.Is(err, engine.ErrNotFound)):
		s.cfg.Log.Info().Str("id", id).Str("remote", r.RemoteAddr).Msg("an operator stops a message that runs")
		return s.stop(w, r, id)
	case err != nil:
		return fmt.Errorf("server: cancel a message: %w", err)
	}
	s.cfg.Log.Info().Str("id", id).Str("remote", r.RemoteAddr).Msg("an operator cancelled a message")
	s.cfg.Engine.Nudge(engine.Nudge{Kind: engine.NudgeCancel, ID: id, Stop: running})
	s.cfg.NotifyFunc(rec.Watchers, rec.Snapshot(now))
	writeJSON(w, http.StatusOK, describe(rec))
	return nil
}

const (
	// stopWithin is how long is waited for a message that is stopped, and stopLook how
	// often is looked whether it has.
	stopWithin = 5 * time.Second
	stopLook   = 50 * time.Millisecond
)

// stop has the engine that runs a message stop it, and waits for what becomes of it. A
// first attempt elsewhere has no record before it ends.
func (s *Server) stop(w http.ResponseWriter, r *http.Request, id string) error {
	s.cfg.Engine.Nudge(engine.Nudge{Kind: engine.NudgeCancel, ID: id, Stop: true})
	tick := time.NewTicker(stopLook)
	defer tick.Stop()
	deadline := time.After(stopWithin)
	for {
		m, err := s.find(r.Context(), id)
		switch {
		case err != nil && !errors.Is(err, engine.ErrNotFound):
			return err
		case m.State.Final():
			writeJSON(w, http.StatusOK, m)
			return nil
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return r.Context().Err()
		case <-deadline:
			if err != nil {
				return err
			}
			return problem(http.StatusConflict, "still_running", "the message is still running",
				fmt.Sprintf("it has not ended within %v", stopWithin),
				"its plugin has the time that plugins.<name>.grace gives it; an engine that cannot be told goes on: usher msg show tells")
		}
	}
}

func (s *Server) find(ctx context.Context, id string) (Message, error) {
	live, inHand := s.cfg.Engine.InHand(id)
	rec, err := s.cfg.Table.Record(ctx, id)
	switch {
	case err == nil:
		m := describe(rec)
		if inHand {
			m.add(live, rec)
		}
		return m, nil
	case errors.Is(err, engine.ErrNotFound) && inHand:
		// The first run of an ordinary message: its record is written when it ends.
		return Message{ID: id, State: live.State, Seen: true, Hop: live.Seq.Hop, Attempts: max(live.Attempt-1, 0), Live: &live}, nil
	case errors.Is(err, engine.ErrNotFound):
		return Message{}, err
	}
	return Message{}, fmt.Errorf("server: read the record: %w", err)
}

// describe is the record as people are told of it.
func describe(r engine.Record) Message {
	m := Message{
		ID: r.ID, Type: r.Type, State: r.State, Seen: r.Digest != "", Hop: r.Hop, SetBy: r.DueBy,
		Attempts: r.Attempts, Redeliveries: r.Redeliveries, Crashes: r.Crashes, Deaths: r.Deaths, Reason: r.Reason, Held: r.Held(), UpdatedAt: r.UpdatedAt,
	}
	if m.Seen {
		m.Priority = &r.Priority
	}
	if !r.Due.IsZero() {
		ms := r.Due.UnixMilli()
		m.ProcessingTimestamp, m.ProcessingTime = &ms, r.Due.UTC()
	}
	return m
}

// add tells what the engine knows, unless the record is newer.
func (m *Message) add(live engine.Status, rec engine.Record) {
	if rec.Snapshot(live.At).Seq.Less(live.Seq) {
		m.Live, m.State, m.Seen = &live, live.State, true
	}
}

// pathID is the message id in the path, percent-decoded.
func pathID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !engine.ValidID(id) {
		return "", badRequest("bad_id", fmt.Sprintf("an id is 1 to %d printable ASCII bytes", engine.MaxIDBytes),
			"percent-encode what is not a letter or a digit")
	}
	return id, nil
}

// plugins answers with the plugins and how they are.
func (s *Server) plugins(w http.ResponseWriter, _ *http.Request) error {
	list := PluginList{Items: []Plugin{}}
	for _, p := range s.cfg.PluginsFunc() {
		if p.Types == nil {
			p.Types = []string{}
		}
		list.Items = append(list.Items, p)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// nowMillis is the present, as records keep it.
func nowMillis() time.Time { return time.UnixMilli(time.Now().UnixMilli()).UTC() }
