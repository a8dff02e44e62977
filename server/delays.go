package server

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"usher/engine"
)

const (
	defaultPage = 50
	maxPage     = 500
	// maxAhead is how far a message can be moved; beyond is a slip of the pen.
	maxAhead = 10 * 365 * 24 * time.Hour
)

// delays lists what waits. The next page begins after the last item of this
// one, wherever that is by then.
func (s *Server) delays(w http.ResponseWriter, r *http.Request) error {
	q, err := readWaits(r.URL.Query())
	if err != nil {
		return err
	}
	limit := q.Limit
	q.Limit++ // one more tells that there is another page
	recs, err := s.cfg.Table.Waiting(r.Context(), q)
	if err != nil {
		return fmt.Errorf("server: list what waits: %w", err)
	}
	list := DelayList{Items: []Message{}}
	if len(recs) > limit {
		recs = recs[:limit]
		list.Next = cursor(engine.Place{Due: recs[limit-1].Due, ID: recs[limit-1].ID})
	}
	for _, rec := range recs {
		list.Items = append(list.Items, describe(rec))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// readWaits reads which waiting messages are asked for.
func readWaits(query url.Values) (q engine.Waits, err error) {
	if q.Limit, err = pageSize(query.Get("limit")); err != nil {
		return q, err
	}
	if q.After, err = readCursor(query.Get("after")); err != nil {
		return q, err
	}
	q.Type = query.Get("type")
	if q.Level, err = readLevel(query.Get("level")); err != nil {
		return q, err
	}
	q.Before, err = readTime("dueBefore", query.Get("dueBefore"))
	return q, err
}

func pageSize(text string) (int, error) {
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, badRequest("bad_limit", fmt.Sprintf("limit is 1 to %d", maxPage), "use next as after to go on")
	}
	return n, nil
}

// cursor names a place in the list; clients pass it back and read nothing into it.
func cursor(p engine.Place) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.Due.UnixMilli(), 10) + " " + p.ID))
}

func readCursor(text string) (engine.Place, error) {
	if text == "" {
		return engine.Place{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	due, id, ok := strings.Cut(string(raw), " ")
	ms, errDue := strconv.ParseInt(due, 10, 64)
	if err != nil || errDue != nil || !ok || !engine.ValidID(id) {
		return engine.Place{}, badRequest("bad_cursor", "after is not the next of an answer", "leave it out to begin at the start")
	}
	return engine.Place{Due: time.UnixMilli(ms).UTC(), ID: id}, nil
}

// setDelay moves a message to another time, before or after it was first seen.
func (s *Server) setDelay(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	due, err := readDue(r.Body, nowMillis())
	if err != nil {
		return err
	}
	return s.move(w, r, id, due)
}

// release lets a message run that waits. Unlike setDelay it needs one: there is
// nothing to release in what nobody has seen.
func (s *Server) release(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := s.find(r.Context(), id); err != nil {
		return err
	}
	return s.move(w, r, id, nowMillis())
}

func (s *Server) move(w http.ResponseWriter, r *http.Request, id string, due time.Time) error {
	live, inHand := s.cfg.Engine.InHand(id)
	rec, err := s.cfg.Table.SetDue(r.Context(), id, due)
	if err != nil {
		return fmt.Errorf("server: set the time of a message: %w", err)
	}
	s.cfg.Log.Info().Str("id", id).Time("due", due).Str("remote", r.RemoteAddr).Msg("an operator moved a message")
	s.cfg.Engine.Nudge(engine.Nudge{Kind: engine.NudgeDelay, ID: id})
	answer := Delay{
		Message: describe(rec), TakesEffectWithin: engine.BindsWithin.String(),
		Note: "one that waits in the broker, for seconds only or because it is too large to be parked, is looked at again when that wait is over; an attempt that runs is not stopped",
	}
	if rec.Held() {
		answer.Note = "its type is held: it runs when that ends (usher type list says why), and not before this time"
	}
	if inHand {
		answer.add(live, rec)
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// readDue reads the body of a PUT: {"until":"…"} or {"in":"…"}. What is past is now.
func readDue(body io.Reader, now time.Time) (time.Time, error) {
	var want struct {
		Until *string `json:"until"`
		In    *string `json:"in"`
	}
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(&want)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one value")
		}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return time.Time{}, err
	case err != nil:
		return time.Time{}, badRequest("bad_body", oneLine(err.Error()), `send {"until":"2030-01-02T15:04:05Z"} or {"in":"15m"}`)
	case (want.Until == nil) == (want.In == nil):
		return time.Time{}, badRequest("bad_body", "give either until or in", `send {"until":"2030-01-02T15:04:05Z"} or {"in":"15m"}`)
	}
	due, err := dueOf(want.Until, want.In, now)
	if err != nil {
		return time.Time{}, err
	}
	if due.Sub(now) > maxAhead {
		return time.Time{}, badRequest("bad_time", due.Format(time.RFC3339)+" is more than ten years ahead", "")
	}
	if due.Before(now) {
		return now, nil
	}
	return due, nil
}

func dueOf(until, in *string, now time.Time) (time.Time, error) {
	if in != nil {
		d, err := time.ParseDuration(*in)
		if err != nil || d < 0 {
			return time.Time{}, badRequest("bad_time", fmt.Sprintf("in is %.40q", *in), "in is a duration such as 90s, 15m or 2h30m")
		}
		return now.Add(d).Truncate(time.Millisecond), nil
	}
	t, err := time.Parse(time.RFC3339, *until)
	if err != nil {
		return time.Time{}, badRequest("bad_time", fmt.Sprintf("until is %.40q", *until), "until is RFC 3339 with a zone, such as 2030-01-02T15:04:05Z")
	}
	return t.UTC().Truncate(time.Millisecond), nil
}
