package worker

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// dial serves h in memory.
func dial(tb testing.TB, h handlers.Handler, concurrency uint32) wire.HandlerClient {
	tb.Helper()
	server := grpc.NewServer(grpc.MaxRecvMsgSize(wire.MaxFrameBytes), grpc.WaitForHandlers(true))
	wire.RegisterHandlerServer(server, New(h, &wire.Description{Name: "test", Types: []string{"any"}, Concurrency: concurrency}))
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///test",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxFrameBytes)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return wire.NewHandlerClient(conn)
}

// peer is the host's side of a Work stream, frame by frame.
type peer struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[wire.HostFrame, wire.PluginFrame]
	credit uint64 // the highest seen
}

func connect(tb testing.TB, client wire.HandlerClient) *peer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	tb.Cleanup(cancel)
	stream, err := client.Work(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return &peer{t: tb, stream: stream}
}

// open connects and greets.
func open(tb testing.TB, h handlers.Handler, concurrency uint32) *peer {
	tb.Helper()
	p := connect(tb, dial(tb, h, concurrency))
	p.hello()
	if p.next().GetReady() == nil || p.credit != uint64(concurrency) {
		tb.Fatalf("the answer to Hello is not Ready with a credit of %d but %d", concurrency, p.credit)
	}
	return p
}

func (p *peer) send(f *wire.HostFrame) {
	p.t.Helper()
	if err := p.stream.Send(f); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *peer) hello() {
	p.t.Helper()
	p.send(&wire.HostFrame{Kind: &wire.HostFrame_Hello{Hello: &wire.Hello{}}})
}

func (p *peer) messages(ms ...*wire.Message) {
	p.t.Helper()
	p.send(&wire.HostFrame{Kind: &wire.HostFrame_Messages{Messages: &wire.MessageBatch{Messages: ms}}})
}

func (p *peer) cancel(reason wire.CancelReason, tags ...uint64) {
	p.t.Helper()
	p.send(&wire.HostFrame{Kind: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Tags: tags, Reason: reason}}})
}

func (p *peer) ping(nonce uint64) {
	p.t.Helper()
	p.send(&wire.HostFrame{Kind: &wire.HostFrame_Ping{Ping: &wire.Ping{Nonce: nonce}}})
}

func (p *peer) drain() {
	p.t.Helper()
	p.send(&wire.HostFrame{Kind: &wire.HostFrame_Drain{Drain: &wire.Drain{}}})
}

// next is the next frame; it checks that credit never goes down.
func (p *peer) next() *wire.PluginFrame {
	p.t.Helper()
	f, err := p.stream.Recv()
	if err != nil {
		p.t.Fatalf("receive: %v", err)
	}
	if c := f.GetCredit(); c != 0 {
		if c < p.credit {
			p.t.Errorf("the credit went down from %d to %d", p.credit, c)
		}
		p.credit = c
	}
	return f
}

// outcome is the next frame, which holds exactly one outcome.
func (p *peer) outcome() *wire.Outcome {
	p.t.Helper()
	f := p.next()
	if got := f.GetOutcomes().GetOutcomes(); len(got) == 1 {
		return got[0]
	}
	p.t.Fatalf("not one outcome: %v", f)
	return nil
}

// end closes the host's side and expects the stream to end well with nothing more.
func (p *peer) end() {
	p.t.Helper()
	if err := p.stream.CloseSend(); err != nil {
		p.t.Fatal(err)
	}
	if f, err := p.stream.Recv(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("after the end came %v, %v", f, err)
	}
}

// await waits for a channel of the test to be closed or fed.
func await[T any](tb testing.TB, c <-chan T, what string) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		tb.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}
