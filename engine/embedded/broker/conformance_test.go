package broker

import (
	"context"
	"net"
	"testing"

	"github.com/rs/zerolog"

	"usher/engine/enginetest"
)

// conforming is a broker for the conformance suite: it comes back at the
// address it had.
type conforming struct {
	dir, addr string
	stop      func()
}

func (c *conforming) Address() string { return c.addr }

func (c *conforming) Restart(t *testing.T) {
	t.Helper()
	c.stop()
	c.start(t)
}

func (c *conforming) start(t *testing.T) {
	t.Helper()
	b, err := Open(Config{Dir: c.dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	c.stop = func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConforms(t *testing.T) {
	enginetest.RunBroker(t, enginetest.BrokerHarness{Features: enginetest.EmbeddedFeatures(), Start: func(t *testing.T) enginetest.BrokerServer {
		c := &conforming{dir: t.TempDir(), addr: "127.0.0.1:0"}
		c.start(t)
		t.Cleanup(func() { c.stop() })
		return c
	}})
}
