// Package moto runs a server for tests that answers as services of AWS do: a process of
// its own, in memory, on a free port of the loopback. Only tests import it.
//
// moto is not AWS: it checks no signature and no right, and knows only what it was taught.
package moto

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"usher/engine/enginetest/process"
)

// Server is one that runs.
type Server struct{ address string }

// Start starts one with nothing in it and returns when it answers. It is killed by
// t.Cleanup. The test fails if there is none.
func Start(t testing.TB) *Server {
	t.Helper()
	python := filepath.Join(process.ModuleRoot(t), ".cache", "aws", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("there is no moto: run tools/prepare, as make test does: %v", err)
	}
	s := &Server{address: process.FreeAddress(t)}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	process.Serve(t, "moto", s.Endpoint(), exec.Command(python, "-m", "moto.server", "-H", host, "-p", port))
	return s
}

// Endpoint is its address as a URL, for every service.
func (s *Server) Endpoint() string { return "http://" + s.address }

// Config is what clients of it are made from.
func (s *Server) Config() aws.Config {
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: aws.String(s.Endpoint()),
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	}
}
