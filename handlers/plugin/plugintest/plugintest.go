// Package plugintest lets the author of a plugin test handlers across the wire,
// in the test's own process and without usher.
package plugintest

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"usher/handlers"
	"usher/handlers/plugin"
	"usher/handlers/plugin/internal/worker"
	"usher/handlers/plugin/wire"
)

// Across runs h behind the protocol that plugins speak, on an in-memory
// connection, and returns a Handler that runs messages through it: what h
// answers, emits and reports comes back as it would come to usher. So one test
// can be run on h and on Across(t, h), and should find no difference.
//
// The Handler is safe for concurrent use, runs [plugin.DefaultConcurrency]
// messages at once, and ends with the test, which fails if h did not answer each
// message exactly once.
func Across(t testing.TB, h handlers.Handler) handlers.Handler {
	t.Helper()
	return start(t, Connect(t, h), plugin.DefaultConcurrency)
}

// Connect serves h as [Across] does and returns the bare client, for tests of
// the protocol itself. The connection ends with the test.
func Connect(t testing.TB, h handlers.Handler) wire.HandlerClient {
	t.Helper()
	server := grpc.NewServer(grpc.MaxRecvMsgSize(wire.MaxFrameBytes), grpc.WaitForHandlers(true))
	wire.RegisterHandlerServer(server, worker.New(h, &wire.Description{
		Name: t.Name(), Version: "test", Sdk: "plugintest", Types: []string{"any"}, Concurrency: plugin.DefaultConcurrency,
	}))
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	conn, err := grpc.NewClient("passthrough:///plugin",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxFrameBytes)))
	if err != nil {
		t.Fatalf("plugintest: connect: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("plugintest: close the connection: %v", err)
		}
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("plugintest: serve: %v", err)
		}
	})
	return wire.NewHandlerClient(conn)
}
