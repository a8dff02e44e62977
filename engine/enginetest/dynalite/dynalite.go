// Package dynalite runs a server for tests that speaks as DynamoDB does: a process of
// its own, in memory, on a free port of the loopback. Only tests import it.
//
// dynalite is not DynamoDB: it never throttles, its reads and indexes are never
// stale, and it does not give the item with a condition that did not hold. The package
// dynafault puts the bad days in front of it.
package dynalite

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"usher/engine/enginetest/process"
)

// Server is one that runs.
type Server struct{ address string }

// Start starts one with no table in it and returns when it answers. It is killed by
// t.Cleanup. The test fails if there is none, or no Node.
func Start(t testing.TB) *Server {
	t.Helper()
	root := process.ModuleRoot(t)
	script := filepath.Join(root, ".cache", "dynalite", "node_modules", "dynalite", "cli.js")
	if _, err := os.Stat(script); err != nil {
		t.Fatalf("there is no dynalite: run tools/prepare, as make test does: %v", err)
	}
	s := &Server{address: process.FreeAddress(t)}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	process.Serve(t, "dynalite", s.Endpoint(), exec.Command("node", "--require", filepath.Join(root, "tools", "dynalite", "guard.cjs"), script, "--host", host, "--port", port, "--createTableMs", "1"))
	return s
}

// Endpoint is its address as a URL.
func (s *Server) Endpoint() string { return "http://" + s.address }
