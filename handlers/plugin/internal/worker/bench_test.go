package worker

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// BenchmarkStream runs messages of 1 KiB with a window always full, both sides
// in this process, over a unix socket as plugins use.
func BenchmarkStream(b *testing.B) {
	for _, window := range []uint32{1, 32, 256} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) { benchmarkStream(b, window) })
	}
}

func benchmarkStream(b *testing.B, window uint32) {
	b.Helper()
	listener, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	wire.RegisterHandlerServer(server, New(handlers.HandlerFunc(done), &wire.Description{Concurrency: window}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	}()
	p := connect(b, wire.NewHandlerClient(conn))
	p.hello()
	p.next()
	body := bytes.Repeat([]byte("x"), 1024)
	sent, outcomes := uint64(0), 0
	b.ReportAllocs()
	for b.Loop() {
		// One outcome an iteration, and the messages that its credit allows.
		for sent < p.credit {
			sent++
			p.messages(&wire.Message{Tag: sent, Id: "order-1234567", Type: "order.placed", Attempt: 1, Body: body})
		}
		for outcomes <= 0 {
			outcomes += len(p.next().GetOutcomes().GetOutcomes())
		}
		outcomes--
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
