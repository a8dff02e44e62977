package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"usher/engine"
)

// maxText is how much of a body is shown as text.
const maxText = 64 << 10

// deadRoutes are those of the archive of dead letters.
func (s *Server) deadRoutes() []route {
	if s.cfg.Archive == nil {
		return nil
	}
	return []route{
		{path: "/api/v1/dead", about: "dead letters without their content, the youngest first; ?limit and ?after page, ?id, ?type, ?level, ?reason, ?fingerprint, ?since, ?until and ?state choose", methods: map[string]endpoint{http.MethodGet: s.letters}},
		{path: "/api/v1/dead/tally", about: "how many dead letters wait for somebody, by reason", methods: map[string]endpoint{http.MethodGet: s.tally}},
		{path: "/api/v1/dead/{key}", about: "GET gives a dead letter with headers and body, DELETE drops it", methods: map[string]endpoint{
			http.MethodGet: s.letter, http.MethodDelete: s.drop,
		}},
		{path: "/api/v1/dead/{key}/redrive", about: `POST sends it to be tried again; {"force":true} however often that was done`, methods: map[string]endpoint{http.MethodPost: s.redrive}},
	}
}

// letters lists dead letters. The next page begins after the last item of this one.
func (s *Server) letters(w http.ResponseWriter, r *http.Request) error {
	q, err := readLetterQuery(r.URL.Query())
	if err != nil {
		return err
	}
	limit := q.Limit
	q.Limit++ // one more tells that there is another page
	found, err := s.cfg.Archive.Letters(r.Context(), q)
	if err != nil {
		return fmt.Errorf("server: list dead letters: %w", err)
	}
	list := LetterList{Items: []Letter{}}
	if len(found) > limit {
		found = found[:limit]
		list.Next = cursor(engine.Place{Due: found[limit-1].DeadAt, ID: found[limit-1].Key})
	}
	for _, l := range found {
		list.Items = append(list.Items, describeLetter(l))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// readLetterQuery reads which dead letters are asked for: those that are kept,
// unless ?state says otherwise.
func readLetterQuery(query url.Values) (q engine.LetterQuery, err error) {
	if q.Limit, err = pageSize(query.Get("limit")); err != nil {
		return q, err
	}
	after, err := readCursor(query.Get("after"))
	if err != nil {
		return q, err
	}
	q.After = engine.LetterPlace{DeadAt: after.Due, Key: after.ID}
	q.ID, q.Type, q.Reason, q.Fingerprint = query.Get("id"), query.Get("type"), query.Get("reason"), query.Get("fingerprint")
	if q.Level, err = readLevel(query.Get("level")); err != nil {
		return q, err
	}
	if q.Since, err = readTime("since", query.Get("since")); err != nil {
		return q, err
	}
	if q.Until, err = readTime("until", query.Get("until")); err != nil {
		return q, err
	}
	switch state := engine.LetterState(cmp.Or(query.Get("state"), string(engine.LetterKept))); state {
	case engine.LetterKept, engine.LetterRedriven, engine.LetterDropped:
		q.State = state
	case "all":
	default:
		return q, badRequest("bad_state", fmt.Sprintf("state is %.40q", state), "it is kept, redriven, dropped or all")
	}
	return q, nil
}

// readLevel reads a level; nil: none is asked for.
func readLevel(text string) (*int, error) {
	if text == "" {
		return nil, nil
	}
	level, err := strconv.Atoi(text)
	if err != nil || level < 0 || level >= engine.Levels {
		return nil, badRequest("bad_level", fmt.Sprintf("level is %.40q", text), "a level is 0 to 9")
	}
	return &level, nil
}

// readFlag reads a parameter that is true, false or absent.
func readFlag(query url.Values, name string) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequest("bad_"+name, fmt.Sprintf("%s is %.40q", name, text), "it is true or false")
	}
	return on, nil
}

// readTime reads a time; zero: none is asked for.
func readTime(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, badRequest("bad_time", fmt.Sprintf("%s is %.40q", name, text), "a time is RFC 3339 with a zone, such as 2030-01-02T15:04:05Z")
	}
	return t, nil
}

// tally counts what waits for somebody, the most frequent reason first.
func (s *Server) tally(w http.ResponseWriter, r *http.Request) error {
	tallies, err := s.tallies.get(r.Context())
	if err != nil {
		return err
	}
	list := TallyList{Items: []ReasonTally{}}
	for _, t := range tallies {
		list.Items = append(list.Items, ReasonTally{Reason: t.Reason, Count: t.Count, Oldest: t.Oldest})
		list.Total += t.Count
	}
	slices.SortFunc(list.Items, func(a, b ReasonTally) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Reason, b.Reason))
	})
	writeJSON(w, http.StatusOK, list)
	return nil
}

// fetchTallies asks the archive; none without one.
func (s *Server) fetchTallies(ctx context.Context) ([]engine.Tally, error) {
	if s.cfg.Archive == nil {
		return nil, nil
	}
	tallies, err := s.cfg.Archive.Tally(ctx)
	if err != nil {
		return nil, fmt.Errorf("server: count dead letters: %w", err)
	}
	return tallies, nil
}

// letter gives one with its content.
func (s *Server) letter(w http.ResponseWriter, r *http.Request) error {
	l, content, err := s.cfg.Archive.Letter(r.Context(), r.PathValue("key"))
	if err != nil {
		return unknownLetter(err)
	}
	writeJSON(w, http.StatusOK, LetterWhole{
		Letter: describeLetter(l), Headers: content.Headers, Body: content.Body, Text: Printable(content.Body),
	})
	return nil
}

// drop says that nobody wants a letter any more; its content is forgotten.
func (s *Server) drop(w http.ResponseWriter, r *http.Request) error {
	l, err := s.cfg.Archive.Settle(r.Context(), engine.LetterChange{Key: r.PathValue("key"), State: engine.LetterDropped, Now: time.Now()})
	if errors.Is(err, engine.ErrGuarded) {
		return problem(http.StatusConflict, engine.RefusedSettled, "nothing is left to do for it",
			fmt.Sprintf("%s was %s at %s", l.ID, l.State, l.ChangedAt.Format(time.RFC3339)), "")
	}
	if err != nil {
		return unknownLetter(err)
	}
	s.cfg.Log.Info().Str("id", l.ID).Str("key", l.Key).Str("remote", r.RemoteAddr).Msg("an operator dropped a dead letter")
	writeJSON(w, http.StatusOK, describeLetter(l))
	return nil
}

// redrive sends a letter to be tried again.
func (s *Server) redrive(w http.ResponseWriter, r *http.Request) error {
	var want struct {
		Force bool `json:"force"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&want); err != nil && !errors.Is(err, io.EOF) {
		return badRequest("bad_body", oneLine(err.Error()), `send nothing, or {"force":true}`)
	}
	l, err := s.cfg.RedriveFunc(r.Context(), r.PathValue("key"), want.Force)
	var refusal *engine.RedriveError
	switch {
	case errors.As(err, &refusal):
		return problem(http.StatusConflict, refusal.Code, "it is not redriven", refusal.Detail, refusal.Hint)
	case err != nil:
		return unknownLetter(err)
	}
	s.cfg.Log.Info().Str("id", l.ID).Str("key", l.Key).Bool("force", want.Force).Str("remote", r.RemoteAddr).Msg("an operator redrove a dead letter")
	writeJSON(w, http.StatusOK, describeLetter(l))
	return nil
}

// unknownLetter names what was not found.
func unknownLetter(err error) error {
	if errors.Is(err, engine.ErrNotFound) {
		return problem(http.StatusNotFound, "no_letter", "there is no such dead letter", "none has this key", "GET /api/v1/dead lists them")
	}
	return fmt.Errorf("server: a dead letter: %w", err)
}

// describeLetter is the letter as people are told of it.
func describeLetter(l engine.DeadLetter) Letter {
	return Letter{
		Key: l.Key, ID: l.ID, Type: l.Type, Level: l.Level, Hop: l.Hop,
		Reason: l.Why.Reason, Detail: l.Why.Detail, Fingerprint: l.Why.Fingerprint, Attempts: l.Why.Attempts, Redeliveries: l.Why.Redeliveries,
		Handler: l.Why.Handler, FirstFailedAt: l.Why.FirstFailedAt, DeadAt: l.DeadAt, Queue: l.Queue, Origin: l.Origin,
		Size: l.Size, Stays: l.Stays, Redrives: l.Redrives, State: l.State, ChangedAt: l.ChangedAt,
	}
}

// Printable is a body as text that can do nothing to a screen: control characters
// are escaped, and what is long is cut. It is "" for what is no UTF-8.
func Printable(body []byte) string {
	if !utf8.Valid(body) {
		return ""
	}
	cut := body[:min(len(body), maxText)]
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(string(cut), "") {
		switch {
		case r == '\n', r == '\t', !unicode.IsControl(r) && !unicode.Is(unicode.Cf, r) && r != '\u2028' && r != '\u2029':
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	if len(cut) < len(body) {
		fmt.Fprintf(&b, "\n… (%d bytes in all)", len(body))
	}
	return b.String()
}
