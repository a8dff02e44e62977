package server_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usher/server"
)

// Three instances behind one address that hands requests out in turn: in the end each
// holds a poll, which can only be its own.
func TestEachInstanceHoldsItsOwnPoll(t *testing.T) {
	const instances = 3
	handlers := make([]http.Handler, instances)
	var turn, underWay atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		underWay.Add(1)
		defer underWay.Add(-1)
		handlers[turn.Add(1)%instances].ServeHTTP(w, r)
	}))
	defer front.Close()
	ctx, end := context.WithCancel(t.Context())
	var polls sync.WaitGroup
	defer polls.Wait()
	defer end()
	var servers []*server.Server
	for i := range instances {
		r := setup(t, func(c *server.Config) { c.Awake = front.URL })
		handlers[i] = r.handler
		servers = append(servers, r.server)
	}
	for _, s := range servers {
		polls.Go(func() {
			if err := s.KeepAwake(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	// What is sent away is gone within moments; three that stay are held.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for together := 0; together < 50; {
		select {
		case <-tick.C:
			if together++; underWay.Load() != instances {
				together = 0
			}
		case <-deadline:
			t.Fatalf("%d polls are held", underWay.Load())
		}
	}
}

func TestAPollOfAnotherIsSentAway(t *testing.T) {
	r := setup(t, func(c *server.Config) { c.Awake = "https://usher.example" })
	if w := r.ask(http.MethodGet, "/awake/another", ""); w.Code != http.StatusMisdirectedRequest {
		t.Errorf("answered %d", w.Code)
	}
}

func TestNobodyPollsWhereThatIsNotAskedFor(t *testing.T) {
	r := setup(t)
	if w := r.ask(http.MethodGet, "/awake/x", ""); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no_route") {
		t.Errorf("answered %d: %s", w.Code, w.Body)
	}
}
