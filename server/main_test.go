package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEngine says what it was given.
type fakeEngine struct {
	mu      sync.Mutex
	stopped bool // guarded by mu, as the rest
	view    engine.View
	inHand  map[string]engine.Status
	nudges  []engine.Nudge
	// obeys is called when a message is to be stopped; nil: nothing obeys.
	obeys func(id string)
}

func (f *fakeEngine) Nudge(n engine.Nudge) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nudges = append(f.nudges, n)
	if n.Stop && f.obeys != nil {
		f.obeys(n.ID)
	}
}

func (f *fakeEngine) InHand(id string) (engine.Status, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.inHand[id]
	return s, ok
}

func (f *fakeEngine) View() (engine.View, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view, !f.stopped
}

// fakeBroker tells the depths it was given, and counts the questions.
type fakeBroker struct {
	mu     sync.Mutex
	depths engine.Depths // guarded by mu, as the rest
	err    error
	asked  int
}

func (f *fakeBroker) Depths(context.Context) (engine.Depths, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.depths, f.err
}

// rig is a server on fakes.
type rig struct {
	t       *testing.T
	table   *enginetest.Memory
	engine  *fakeEngine
	broker  *fakeBroker
	metrics *server.Metrics
	cfg     server.Config
	server  *server.Server
	handler http.Handler
}

// setup changes the configuration with the given functions before it is used.
func setup(t *testing.T, changes ...func(*server.Config)) *rig {
	t.Helper()
	r := &rig{
		t: t, table: enginetest.NewMemory(), metrics: server.NewMetrics([]string{"order.placed"}),
		engine: &fakeEngine{view: engine.View{Epoch: 1}, inHand: map[string]engine.Status{}},
		broker: &fakeBroker{depths: engine.Depths{At: time.Now(), Lanes: map[int]engine.Depth{9: {Size: 3, InFlight: 2}, engine.Unsorted: {}}}},
	}
	r.cfg = server.Config{
		Addr: "127.0.0.1:0", Table: r.table, Broker: r.broker, Engine: r.engine, Metrics: r.metrics, Log: zerolog.Nop(),
	}
	for _, change := range changes {
		change(&r.cfg)
	}
	s, err := server.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.server, r.handler = s, s.Handler()
	return r
}

// ask sends one request for localhost; headers come as pairs.
func (r *rig) ask(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	request := httptest.NewRequestWithContext(r.t.Context(), method, path, strings.NewReader(body))
	request.Host = "localhost:8080"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, request)
	return w
}

// want asks and decodes the answer of the given status.
func (r *rig) want(status int, answer any, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	w := r.ask(method, path, body, headers...)
	if w.Code != status {
		r.t.Fatalf("%s %s is answered with %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		r.t.Errorf("%s %s is %q", method, path, got)
	}
	decode(r.t, w, answer)
	return w
}

// wantProblem asks and checks that the answer is this problem, told in full.
func (r *rig) wantProblem(status int, code, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	w := r.ask(method, path, body, headers...)
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		r.t.Fatalf("%s %s is answered with %d %q: %s", method, path, w.Code, got, w.Body)
	}
	var p server.Problem
	decode(r.t, w, &p)
	if w.Code != status || p.Status != status || p.Code != code || p.Type != "urn:usher:problem:"+code || p.Title == "" {
		r.t.Errorf("%s %s is answered with %d %+v, want %d %s", method, path, w.Code, p, status, code)
	}
	return w
}

// decode reads an answer that has no fields but the expected.
func decode(t *testing.T, w *httptest.ResponseRecorder, answer any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(w.Body.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(answer); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("there is more than one value in %s", w.Body)
	}
}

// write puts a record into the table.
func (r *rig) write(id string, state engine.State, change func(*engine.Change)) {
	r.t.Helper()
	c := engine.Change{
		ID: id, Type: "order.placed", Digest: "d", Priority: 7, Token: "t-" + id, State: state, Attempts: 1, Now: time.Now(),
	}
	if change != nil {
		change(&c)
	}
	if _, err := r.table.Write(r.t.Context(), c); err != nil {
		r.t.Fatal(err)
	}
}

// waits puts a record into the table that is due then.
func (r *rig) waits(id string, due time.Time) {
	r.t.Helper()
	r.write(id, engine.Delayed, func(c *engine.Change) { c.Due, c.DueBy, c.NextHop = due, engine.ByRule, 1 })
}

// brokenTable does not answer.
type brokenTable struct{ server.Table }

func (brokenTable) Record(context.Context, string) (engine.Record, error) {
	return engine.Record{}, errors.New("dial tcp 10.0.0.7:8000: connection refused")
}

func (brokenTable) SetDue(context.Context, string, time.Time) (engine.Record, error) {
	return engine.Record{}, errors.New("dial tcp 10.0.0.7:8000: connection refused")
}

func (brokenTable) Waiting(context.Context, engine.Waits) ([]engine.Record, error) {
	return nil, errors.New("dial tcp 10.0.0.7:8000: connection refused")
}
