package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"usher/engine"
)

// readinessTimeout is how long all checks together may take.
const readinessTimeout = 3 * time.Second

// probeID is looked up to see whether the record table answers; no message has it.
const probeID = "usher.readyz"

func (s *Server) livez(w http.ResponseWriter, _ *http.Request) error {
	writeText(w, http.StatusOK, []byte("ok\n"))
	return nil
}

// readyz tells how each check went. Reasons may name hosts and files, so they
// need the token.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	verbose := r.URL.Query().Has("verbose")
	if verbose && !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="usher"`)
		return problem(http.StatusUnauthorized, "no_token", "the token is missing or wrong", "reasons are told with the token only",
			"leave ?verbose out, or send the header Authorization: Bearer <token>")
	}
	results, err := s.readiness.get(r.Context())
	if err != nil {
		return err
	}
	answer := Readiness{Ready: true}
	for _, c := range results {
		if !verbose {
			c.Detail = ""
		}
		answer.Ready = answer.Ready && c.OK
		answer.Checks = append(answer.Checks, c)
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, status, answer)
		return nil
	}
	writeText(w, status, answer.text())
	return nil
}

// text is one line a check, and a last one that says it all.
func (a Readiness) text() []byte {
	var b bytes.Buffer
	for _, c := range a.Checks {
		mark, word := "+", "ok"
		if !c.OK {
			mark, word = "-", "failed"
		}
		fmt.Fprintf(&b, "[%s] %s %s", mark, c.Name, word)
		if c.Detail != "" {
			fmt.Fprintf(&b, ": %s", c.Detail)
		}
		b.WriteByte('\n')
	}
	if a.Ready {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	return b.Bytes()
}

// check asks all that must be well for messages to be run.
func (s *Server) check(ctx context.Context) ([]CheckResult, error) {
	view, runs := s.cfg.Engine.View()
	checks := []Check{
		{"engine", func(context.Context) error { return engineReady(view, runs) }},
		{"broker", func(context.Context) error { return brokerReady(view) }},
		{"records", func(ctx context.Context) error { return s.recordsReady(ctx, view) }},
		{"plugins", func(context.Context) error { return s.pluginsReady() }},
	}
	if s.cfg.Engine == (nobody{}) {
		checks = checks[2:]
	}
	checks = append(checks, s.cfg.Checks...)
	var results []CheckResult
	for _, c := range checks {
		i := slices.IndexFunc(results, func(r CheckResult) bool { return r.Name == c.Name })
		if i < 0 {
			i = len(results)
			results = append(results, CheckResult{Name: c.Name, OK: true})
		}
		if !results[i].OK {
			continue // it has failed already
		}
		if err := c.Func(ctx); err != nil {
			results[i].OK, results[i].Detail = false, oneLine(err.Error())
		}
	}
	return results, nil
}

func engineReady(v engine.View, runs bool) error {
	switch {
	case !runs:
		return errors.New("it does not run")
	case v.Draining:
		return errors.New("it drains: what runs is finished and nothing is started")
	}
	return nil
}

// brokerReady goes by the session, which ends when the broker misses its
// heart-beats (STOMP 1.2, Heart-beating).
func brokerReady(v engine.View) error {
	if v.Epoch == 0 {
		return errors.New("there is no session with the broker; the log says why")
	}
	return nil
}

func (s *Server) recordsReady(ctx context.Context, v engine.View) error {
	_, err := s.cfg.Table.Record(ctx, probeID)
	if errors.Is(err, engine.ErrNotFound) {
		err = nil
	}
	if v.StoreDown {
		return errors.Join(errors.New("the record table does not answer the engine; nothing is started until it does"), err)
	}
	return err
}

func (s *Server) pluginsReady() error {
	var out []string
	for _, p := range s.cfg.PluginsFunc() {
		if !p.Ready {
			out = append(out, strings.TrimSpace(p.Name+" is "+p.State+" "+p.Error))
		}
	}
	if len(out) > 0 {
		return errors.New(strings.Join(out, "; "))
	}
	return nil
}

func writeText(w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that is gone is not waited for
}

// oneLine makes an error fit for a line of text.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const limit = 300
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
