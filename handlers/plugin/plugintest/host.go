package plugintest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// host is the least that can be called a host: it sends each message as soon as
// there is credit and waits for its outcome.
type host struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[wire.HostFrame, wire.PluginFrame]
	places chan struct{} // one element for each message that may be sent
	ended  chan struct{} // closed when the stream has ended

	sending sync.Mutex // gRPC allows one Send at a time
	mu      sync.Mutex // guards the rest
	tag     uint64
	calls   map[uint64]*call
	err     error // of the stream
}

// call is a message in hand.
type call struct {
	message *handlers.Message
	outcome chan *wire.Outcome // holds one
}

var _ handlers.Handler = (*host)(nil)

func start(t testing.TB, client wire.HandlerClient, concurrency int) *host {
	t.Helper()
	stream, err := client.Work(context.Background())
	if err != nil {
		t.Fatalf("plugintest: open the stream: %v", err)
	}
	h := &host{
		t: t, stream: stream,
		places: make(chan struct{}, concurrency),
		ended:  make(chan struct{}),
		calls:  map[uint64]*call{},
	}
	if err := stream.Send(&wire.HostFrame{Kind: &wire.HostFrame_Hello{Hello: &wire.Hello{HostVersion: "plugintest"}}}); err != nil {
		t.Fatalf("plugintest: send Hello: %v", err)
	}
	go h.receive()
	t.Cleanup(h.close)
	return h
}

// close ends the stream and waits until every message has ended.
func (h *host) close() {
	h.sending.Lock()
	err := h.stream.CloseSend()
	h.sending.Unlock()
	<-h.ended
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := errors.Join(err, h.err); err != nil {
		h.t.Errorf("plugintest: the stream ended with %v", err)
	}
	for tag, c := range h.calls {
		h.t.Errorf("plugintest: message %q (tag %d) had no outcome", c.message.ID, tag)
	}
}

// receive takes frames until the stream ends.
func (h *host) receive() {
	defer close(h.ended)
	var granted uint64
	for {
		frame, err := h.stream.Recv()
		if err != nil {
			h.end(err)
			return
		}
		switch kind := frame.GetKind().(type) {
		case *wire.PluginFrame_Outcomes:
			for _, o := range kind.Outcomes.GetOutcomes() {
				h.settle(o)
			}
		case *wire.PluginFrame_Progress:
			for _, p := range kind.Progress.GetItems() {
				h.progress(p)
			}
		case *wire.PluginFrame_Goodbye:
			h.t.Errorf("plugintest: the plugin said goodbye: %s: %s", kind.Goodbye.GetCode(), kind.Goodbye.GetDetail())
		default:
		}
		for ; granted < frame.GetCredit(); granted++ {
			select {
			case h.places <- struct{}{}:
			default:
				h.t.Errorf("plugintest: a credit of %d is more than its outcomes have freed", frame.GetCredit())
			}
		}
	}
}

func (h *host) end(err error) {
	if errors.Is(err, io.EOF) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *host) settle(o *wire.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.calls[o.GetTag()]
	if c == nil {
		h.t.Errorf("plugintest: an outcome for the tag %d, which waits for none", o.GetTag())
		return
	}
	delete(h.calls, o.GetTag())
	c.outcome <- o
}

func (h *host) progress(in *wire.Progress) {
	h.mu.Lock()
	c := h.calls[in.GetTag()]
	h.mu.Unlock()
	if c != nil {
		p := wire.ToProgress(in)
		c.message.Progress(p.Ratio, p.Note)
	}
}

// HandleMessage runs m across the stream. When ctx ends it cancels the message,
// and waits for its outcome all the same.
func (h *host) HandleMessage(ctx context.Context, m *handlers.Message) error {
	select {
	case <-h.places:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-h.ended:
		return h.lost(m)
	}
	tag, c, err := h.send(ctx, m)
	if err != nil {
		return err
	}
	select {
	case o := <-c.outcome:
		return answer(m, o)
	case <-h.ended:
		return h.lost(m)
	case <-ctx.Done():
	}
	if err := h.cancel(ctx, tag); err != nil {
		return err
	}
	select {
	case o := <-c.outcome:
		return answer(m, o)
	case <-h.ended:
		return h.lost(m)
	}
}

// send sends m, with what is left of ctx as its budget.
func (h *host) send(ctx context.Context, m *handlers.Message) (uint64, *call, error) {
	c := &call{message: m, outcome: make(chan *wire.Outcome, 1)}
	h.mu.Lock()
	h.tag++
	tag := h.tag
	h.calls[tag] = c
	h.mu.Unlock()
	batch := &wire.MessageBatch{Messages: []*wire.Message{wire.FromMessage(m, wire.AttemptUntil(ctx, tag))}}
	return tag, c, h.write(&wire.HostFrame{Kind: &wire.HostFrame_Messages{Messages: batch}})
}

func (h *host) cancel(ctx context.Context, tag uint64) error {
	reason := wire.CancelReason_CANCEL_REASON_STOPPING
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason = wire.CancelReason_CANCEL_REASON_DEADLINE
	}
	return h.write(&wire.HostFrame{Kind: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Tags: []uint64{tag}, Reason: reason}}})
}

func (h *host) write(frame *wire.HostFrame) error {
	h.sending.Lock()
	defer h.sending.Unlock()
	if err := h.stream.Send(frame); err != nil {
		return fmt.Errorf("plugintest: send: %w", err)
	}
	return nil
}

func (h *host) lost(m *handlers.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Errorf("plugintest: the stream ended while it had message %q: %w", m.ID, errors.Join(io.ErrUnexpectedEOF, h.err))
}

// answer gives m what the handler emitted, and returns what it answered.
func answer(m *handlers.Message, in *wire.Outcome) error {
	o, followOns := wire.ToOutcome(in)
	for _, f := range followOns {
		if err := m.EmitFollowOn(f); err != nil {
			return fmt.Errorf("plugintest: the follow-on came back wrong: %w", err)
		}
	}
	return handlers.ErrorOf(o)
}
