package stomp_test

import (
	"context"
	"net"
	"testing"

	"github.com/rs/zerolog"

	"usher/engine/embedded/broker"
)

// embedded is an embedded broker that serves on a port of its own.
type embedded struct {
	dir     string
	address string
	stop    func(t *testing.T)
}

func startEmbedded(t *testing.T) *embedded {
	t.Helper()
	e := &embedded{dir: t.TempDir(), address: "127.0.0.1:0"}
	e.start(t)
	t.Cleanup(func() { e.stop(t) })
	return e
}

func (e *embedded) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", e.address)
	if err != nil {
		t.Fatal(err)
	}
	e.address = ln.Addr().String()
	b, err := broker.Open(broker.Config{Dir: e.dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	e.stop = func(t *testing.T) {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func (e *embedded) Address() string { return e.address }

func (e *embedded) Restart(t *testing.T) {
	t.Helper()
	e.stop(t)
	e.start(t)
}
