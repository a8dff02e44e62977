// Package dynalite runs a server for tests that speaks as DynamoDB does: a process of
// its own, in memory, on a free port of the loopback. Only tests import it.
//
// dynalite is not DynamoDB: it never throttles, its reads and indexes are never
// stale, and it does not give the item with a condition that did not hold. The package
// dynafault puts the bad days in front of it.
package dynalite

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"usher/engine/enginetest/process"
)

// startTimeout is how long the server has until it answers.
const startTimeout = 30 * time.Second

// Server is one that runs.
type Server struct{ address string }

// Start starts one with no table in it and returns when it answers. It is killed by
// t.Cleanup. The test fails if there is none, or no Node.
func Start(t testing.TB) *Server {
	t.Helper()
	script := filepath.Join(process.ModuleRoot(t), ".cache", "dynalite", "node_modules", "dynalite", "cli.js")
	if _, err := os.Stat(script); err != nil {
		t.Fatalf("there is no dynalite: run tools/prepare, as make test does: %v", err)
	}
	s := &Server{address: process.FreeAddress(t)}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	var out output
	cmd := exec.Command("node", script, "--host", host, "--port", port, "--createTableMs", "1")
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatalf("start dynalite: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Errorf("kill dynalite: %v", err)
		}
		if t.Failed() {
			t.Logf("what dynalite wrote:\n%s", out.text())
		}
	})
	s.await(t, p)
	return s
}

// Endpoint is its address as a URL.
func (s *Server) Endpoint() string { return "http://" + s.address }

// await waits until the server answers.
func (s *Server) await(t testing.TB, p *process.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(req)
		if err == nil {
			answer.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-p.Ended:
			t.Fatal("dynalite ended while it started")
		case <-ctx.Done():
			t.Fatalf("dynalite does not answer after %v: %v", startTimeout, err)
		}
	}
}

// output gathers what a process writes, from two streams.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}
