// Package worker is the plugin's side of the wire: a [Worker] answers the
// Handler service by running a handlers.Handler.
//
// A Work stream has one goroutine that receives, one that sends and one for each
// message in hand. The receiver starts messages and keeps the rules of
// handler.proto; a message ends by putting its outcome into the outbox, which
// frees its place; the sender empties the outbox. When the stream ends, every
// message is cancelled, and Work returns when all have ended.
package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// Worker serves one Handler. It is safe for concurrent use.
type Worker struct {
	wire.UnimplementedHandlerServer
	handler     handlers.Handler
	description *wire.Description
	places      chan struct{} // one element for each message that runs
	working     atomic.Bool   // there is a Work stream
}

var _ wire.HandlerServer = (*Worker)(nil)

// New returns a Worker that runs h and describes itself with d, whose
// concurrency is at least 1. It keeps d.
func New(h handlers.Handler, d *wire.Description) *Worker {
	return &Worker{handler: handlers.Recover(h), description: d, places: make(chan struct{}, d.GetConcurrency())}
}

// Describe returns the description given to New.
func (w *Worker) Describe(context.Context, *wire.DescribeRequest) (*wire.Description, error) {
	return w.description, nil
}

// Handle runs one message and waits for a place first, until ctx ends.
func (w *Worker) Handle(ctx context.Context, in *wire.Message) (*wire.Outcome, error) {
	return w.run(ctx, in, nil), nil
}

// Work runs the messages of one stream. It refuses a second stream beside the first.
func (w *Worker) Work(stream grpc.BidiStreamingServer[wire.HostFrame, wire.PluginFrame]) error {
	if !w.working.CompareAndSwap(false, true) {
		return status.Error(codes.FailedPrecondition, "the plugin has a Work stream already; a process serves one at a time")
	}
	defer w.working.Store(false)

	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	out := newOutbox(uint64(w.description.GetConcurrency()))
	s := &session{worker: w, ctx: ctx, out: out, running: map[uint64]context.CancelCauseFunc{}}
	sent := make(chan error, 1)
	go func() { sent <- out.run(stream) }()

	err := s.receive(stream)
	cancel(errStreamEnded)
	s.messages.Wait()
	out.close()
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return err
}

// run runs one attempt in a place of its own. The host's credit and the places
// are as many, so only messages of Handle ever make one wait.
func (w *Worker) run(ctx context.Context, in *wire.Message, report func(handlers.Progress)) *wire.Outcome {
	m, attempt := wire.ToMessage(in)
	h := w.handler
	if attempt.Limited {
		h = handlers.Timeout(attempt.Budget, h)
	}
	select {
	case w.places <- struct{}{}:
	case <-ctx.Done():
		return wire.FromOutcome(attempt.Tag, handlers.OutcomeOf(context.Cause(ctx)), nil, 0)
	}
	defer func() { <-w.places }()

	began := time.Now()
	followOns, err := handlers.Run(ctx, h, m, report)
	o := handlers.OutcomeOf(err)
	if o.Kind == handlers.Retry && o.Code == "" && o.After == 0 && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		o.Code = handlers.CodeTimeout // the host's clock was first
	}
	return wire.FromOutcome(attempt.Tag, o, followOns, time.Since(began))
}
