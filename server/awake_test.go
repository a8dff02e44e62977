package server_test

import (
	"context"
	"errors"
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

// What an engine takes messages with runs while its own poll is held, not before, not
// when it is late, and again when it is back.
func TestWhatNeedsToBeAwakeRunsWhileThePollIsHeld(t *testing.T) {
	var lets atomic.Bool
	var handler http.Handler
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !lets.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		ctx, end := context.WithCancel(r.Context())
		defer end()
		go func() { // what is under way ends when no more is let through
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for lets.Load() && ctx.Err() == nil {
				<-tick.C
			}
			end()
		}()
		handler.ServeHTTP(w, r.WithContext(ctx))
	}))
	defer front.Close()
	r := setup(t, func(c *server.Config) { c.Awake, c.AwakeGrace = front.URL, 50*time.Millisecond })
	handler = r.handler
	ctx, end := context.WithCancel(t.Context())
	running, stopped := make(chan struct{}), make(chan struct{})
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := r.server.KeepAwake(ctx); err != nil {
			t.Error(err)
		}
	})
	parts.Go(func() {
		err := r.server.WhileAwake(ctx, func(ctx context.Context) error {
			running <- struct{}{}
			<-ctx.Done()
			stopped <- struct{}{}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		select {
		case <-running:
			t.Fatal("it runs, and no poll is let through")
		case <-time.After(100 * time.Millisecond): // twice the grace
		}
		lets.Store(true)
		await(t, running, "it runs, for the poll is held")
		lets.Store(false)
		await(t, stopped, "it has stopped, for the poll is late")
	}
	lets.Store(true)
	await(t, running, "it runs")
	end()
	await(t, stopped, "it has stopped with everything")
	parts.Wait()
}

func TestWhatNeedsToBeAwakeEndsAllWhenItFails(t *testing.T) {
	r := setup(t)
	broken := errors.New("broken")
	if err := r.server.WhileAwake(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("where nobody polls: %v", err)
	}
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatal("it is not so after a minute: " + what)
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
