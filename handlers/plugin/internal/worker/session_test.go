package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// byType lets a test say what each message's handler does.
func byType(funcs map[string]handlers.HandlerFunc) handlers.Handler {
	var mux handlers.Mux
	for typ, f := range funcs {
		mux.Handle(typ, f)
	}
	return &mux
}

func done(context.Context, *handlers.Message) error { return nil }

// untilCancelled tells that it runs, waits for its context and returns its cause.
func untilCancelled(running chan<- struct{}) handlers.HandlerFunc {
	return func(ctx context.Context, _ *handlers.Message) error {
		running <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
}

func TestEachAnswerBecomesItsOutcome(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name    string
		answer  func() error
		verdict wire.Verdict
		code    string
		after   time.Duration
		detail  string
	}{
		{"done", func() error { return nil }, wire.Verdict_VERDICT_DONE, "", 0, ""},
		{"plain error", func() error { return boom }, wire.Verdict_VERDICT_RETRY, "", 0, "boom"},
		{"retry after", func() error { return handlers.RetryAfter(time.Minute, boom) }, wire.Verdict_VERDICT_RETRY, "", time.Minute, "boom"},
		{"defer", func() error { return handlers.Defer(time.Hour) }, wire.Verdict_VERDICT_DEFER, "", time.Hour, ""},
		{"permanent", func() error { return handlers.Permanent(boom, "no_stock") }, wire.Verdict_VERDICT_REJECT, "no_stock", 0, "boom"},
		{"wrapped", func() error { return fmt.Errorf("ship: %w", handlers.Permanent(boom, "no_stock")) }, wire.Verdict_VERDICT_REJECT, "no_stock", 0, "ship: boom"},
		{"drop", handlers.Drop, wire.Verdict_VERDICT_DROP, "", 0, ""},
		{"panic", func() error { panic("boom") }, wire.Verdict_VERDICT_RETRY, "panic", 0, "panic: boom\n"},
		{"goexit", func() error { runtime.Goexit(); return nil }, wire.Verdict_VERDICT_RETRY, "panic", 0, "the handler ended its goroutine"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := handlers.HandlerFunc(func(context.Context, *handlers.Message) error { return test.answer() })
			p := open(t, h, 1)
			p.messages(&wire.Message{Tag: 7})
			o := p.outcome()
			if o.GetTag() != 7 || o.GetVerdict() != test.verdict || o.GetCode() != test.code || o.GetAfter().AsDuration() != test.after {
				t.Errorf("got %v", o)
			}
			if test.name == "panic" {
				if !strings.HasPrefix(o.GetDetail(), test.detail) || !strings.Contains(o.GetDetail(), "session_test.go") {
					t.Errorf("no stack: %s", o.GetDetail())
				}
			} else if o.GetDetail() != test.detail {
				t.Errorf("detail %q, want %q", o.GetDetail(), test.detail)
			}
			if p.credit != 2 {
				t.Errorf("credit is %d after one outcome", p.credit)
			}
			p.end()
		})
	}
}

func TestMessageArrivesWholeAndFollowOnsComeBack(t *testing.T) {
	priority := 8
	sent := handlers.FollowOn{
		Type: "receipt", Body: []byte{0, 0xff}, ContentType: "x/y", Headers: map[string]string{"a": "b"},
		Priority: &priority, Delay: time.Minute, Key: "\xff\x00",
	}
	var got handlers.Message
	p := open(t, handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		got = handlers.Message{
			ID: m.ID, Type: m.Type, Priority: m.Priority, Attempt: m.Attempt, IdempotencyKey: m.IdempotencyKey,
			Headers: m.Headers, ContentType: m.ContentType, Body: m.Body,
		}
		return m.EmitFollowOn(sent)
	}), 1)
	p.messages(&wire.Message{
		Tag: 1, Id: "id", Type: "order", Priority: 9, Attempt: 3, IdempotencyKey: "k",
		Headers: map[string]string{"h": "v"}, ContentType: "text/plain", Body: []byte("body\x00\xff"),
	})
	o := p.outcome()
	if got.ID != "id" || got.Type != "order" || got.Priority != 9 || got.Attempt != 3 || got.IdempotencyKey != "k" ||
		got.Headers["h"] != "v" || got.ContentType != "text/plain" || string(got.Body) != "body\x00\xff" {
		t.Errorf("the handler saw %+v", &got)
	}
	if len(o.GetFollowOns()) != 1 {
		t.Fatalf("%d follow-ons", len(o.GetFollowOns()))
	}
	f := wire.ToFollowOn(o.GetFollowOns()[0])
	if f.Type != sent.Type || !bytes.Equal(f.Body, sent.Body) || f.Key != sent.Key || *f.Priority != 8 || f.Delay != time.Minute {
		t.Errorf("the follow-on came back as %+v", f)
	}
	p.end()
}

func TestFailedMessageSendsNoFollowOn(t *testing.T) {
	p := open(t, handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		return errors.Join(m.Emit("receipt", nil), errors.New("no"))
	}), 1)
	p.messages(&wire.Message{Tag: 1})
	if o := p.outcome(); len(o.GetFollowOns()) != 0 {
		t.Errorf("follow-ons of a failure: %v", o)
	}
	p.end()
}

func TestCancelTellsWhy(t *testing.T) {
	tests := []struct {
		reason wire.CancelReason
		code   string
		detail string
	}{
		{wire.CancelReason_CANCEL_REASON_DEADLINE, handlers.CodeTimeout, "the time for this attempt is over"},
		{wire.CancelReason_CANCEL_REASON_STOPPING, "", "usher is stopping"},
		{wire.CancelReason_CANCEL_REASON_UNSPECIFIED, "", "usher cancelled the message"},
		{wire.CancelReason(99), "", "usher cancelled the message"},
	}
	for _, test := range tests {
		t.Run(test.reason.String(), func(t *testing.T) {
			running := make(chan struct{}, 2)
			p := open(t, untilCancelled(running), 2)
			p.messages(&wire.Message{Tag: 1}, &wire.Message{Tag: 2})
			await(t, running, "the first message")
			await(t, running, "the second message")
			p.cancel(test.reason, 1, 99)
			o := p.outcome()
			if o.GetTag() != 1 || o.GetVerdict() != wire.Verdict_VERDICT_RETRY || o.GetCode() != test.code || !strings.HasPrefix(o.GetDetail(), test.detail) {
				t.Errorf("got %v", o)
			}
			p.cancel(test.reason, 1) // its outcome has come: ignored
			p.cancel(test.reason, 2)
			if o := p.outcome(); o.GetTag() != 2 {
				t.Errorf("got %v", o)
			}
			p.end()
		})
	}
}

// A handler that does not ask why is a time-out as well.
func TestHostDeadlineIsTimeoutWhateverTheHandlerSays(t *testing.T) {
	running := make(chan struct{}, 1)
	p := open(t, handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		running <- struct{}{}
		<-ctx.Done()
		return errors.New("my call failed")
	}), 1)
	p.messages(&wire.Message{Tag: 1})
	await(t, running, "the message")
	p.cancel(wire.CancelReason_CANCEL_REASON_DEADLINE, 1)
	if o := p.outcome(); o.GetCode() != handlers.CodeTimeout {
		t.Errorf("got %v", o)
	}
	p.end()
}

func TestSuccessAfterCancelIsSuccess(t *testing.T) {
	running := make(chan struct{}, 1)
	p := open(t, handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		running <- struct{}{}
		<-ctx.Done()
		return nil
	}), 1)
	p.messages(&wire.Message{Tag: 1})
	await(t, running, "the message")
	p.cancel(wire.CancelReason_CANCEL_REASON_DEADLINE, 1)
	if o := p.outcome(); o.GetVerdict() != wire.Verdict_VERDICT_DONE {
		t.Errorf("got %v", o)
	}
	p.end()
}

func TestBudgetEndsTheAttempt(t *testing.T) {
	for _, budget := range []time.Duration{20 * time.Millisecond, 0, -time.Second} {
		t.Run(budget.String(), func(t *testing.T) {
			running := make(chan struct{}, 1)
			p := open(t, untilCancelled(running), 1)
			p.messages(&wire.Message{Tag: 1, Budget: durationpb.New(budget)})
			o := p.outcome()
			if o.GetVerdict() != wire.Verdict_VERDICT_RETRY || o.GetCode() != handlers.CodeTimeout {
				t.Errorf("got %v", o)
			}
			if o.GetBusy().AsDuration() < budget {
				t.Errorf("busy for %v of %v", o.GetBusy().AsDuration(), budget)
			}
			p.end()
		})
	}
}

func TestPingIsAnsweredWhileHandlersHang(t *testing.T) {
	release := make(chan struct{})
	p := open(t, handlers.HandlerFunc(func(context.Context, *handlers.Message) error {
		<-release // does not obey its context
		return nil
	}), 1)
	p.messages(&wire.Message{Tag: 1})
	p.ping(41)
	if f := p.next(); f.GetPong().GetNonce() != 41 || f.GetPong().GetRunning() != 1 {
		t.Errorf("got %v", f)
	}
	close(release)
	p.outcome()
	p.end()
}

func TestDrainFinishesWhatRuns(t *testing.T) {
	release := make(chan struct{})
	p := open(t, handlers.HandlerFunc(func(context.Context, *handlers.Message) error { <-release; return nil }), 3)
	p.messages(&wire.Message{Tag: 1}, &wire.Message{Tag: 2}, &wire.Message{Tag: 3})
	p.drain()
	p.drain() // again is no error and changes nothing
	p.ping(1)
	if p.next().GetPong() == nil {
		t.Fatal("drained while messages run, or deaf")
	}
	close(release)
	for outcomes := 0; outcomes < 3; {
		f := p.next()
		if f.GetDrained() != nil {
			t.Fatalf("drained after %d of 3 outcomes", outcomes)
		}
		outcomes += len(f.GetOutcomes().GetOutcomes())
	}
	if p.next().GetDrained() == nil {
		t.Error("not drained after the last outcome")
	}
	p.end()
}

func TestDrainOfAnIdlePlugin(t *testing.T) {
	p := open(t, handlers.HandlerFunc(done), 1)
	p.drain()
	if f := p.next(); f.GetDrained() == nil {
		t.Errorf("got %v", f)
	}
	p.end()
}

func TestHostThatBreaksTheProtocol(t *testing.T) {
	one, two := &wire.Message{Tag: 1}, &wire.Message{Tag: 2}
	tests := []struct {
		name   string
		sin    func(p *peer)
		detail string
	}{
		{"more than credit", func(p *peer) { p.messages(one, two, &wire.Message{Tag: 3}) }, "the message with tag 3 is over the credit of 2"},
		{"a tag twice", func(p *peer) { p.messages(one, one) }, "the tag 1 is in use"},
		{"a message after Drain", func(p *peer) { p.drain(); p.next(); p.messages(one) }, "the message with tag 1 came after Drain"},
		{"Hello twice", func(p *peer) { p.hello() }, "the first frame must be Hello, and no other may"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := open(t, untilCancelled(make(chan struct{}, 2)), 2)
			test.sin(p)
			requireGoodbye(t, p, test.detail)
		})
	}
	t.Run("no Hello", func(t *testing.T) {
		p := connect(t, dial(t, handlers.HandlerFunc(done), 1))
		p.messages(one)
		requireGoodbye(t, p, "the first frame must be Hello, and no other may")
	})
}

// requireGoodbye expects Goodbye at once, and the outcomes of what ran.
func requireGoodbye(t *testing.T, p *peer, detail string) {
	t.Helper()
	f := p.next()
	for f.GetGoodbye() == nil {
		f = p.next()
	}
	if g := f.GetGoodbye(); g.GetCode() != "protocol" || g.GetDetail() != detail {
		t.Errorf("got %v", g)
	}
	for {
		_, err := p.stream.Recv()
		if err == nil {
			continue
		}
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != detail {
			t.Errorf("the stream ended with %v", err)
		}
		return
	}
}

func TestFramesOfANewerHostAreIgnored(t *testing.T) {
	p := open(t, handlers.HandlerFunc(done), 1)
	p.send(&wire.HostFrame{})
	p.messages(&wire.Message{Tag: 1})
	if o := p.outcome(); o.GetVerdict() != wire.Verdict_VERDICT_DONE {
		t.Errorf("got %v", o)
	}
	p.end()
}

func TestEndOfStreamCancelsEverything(t *testing.T) {
	running, causes := make(chan struct{}, 2), make(chan error, 2)
	p := open(t, handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		running <- struct{}{}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	}), 2)
	p.messages(&wire.Message{Tag: 1}, &wire.Message{Tag: 2})
	await(t, running, "the first message")
	await(t, running, "the second message")
	if err := p.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if cause := await(t, causes, "the cancel"); !errors.Is(cause, errStreamEnded) {
			t.Errorf("cancelled because %v", cause)
		}
	}
	// A host that still listens gets every outcome.
	for outcomes := 0; outcomes < 2; {
		outcomes += len(p.next().GetOutcomes().GetOutcomes())
	}
	p.end()
}

func TestOneStreamAtATime(t *testing.T) {
	client := dial(t, handlers.HandlerFunc(done), 1)
	first := connect(t, client)
	first.hello()
	first.next()
	second := connect(t, client)
	if _, err := second.stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second stream beside the first: %v", err)
	}
	first.end()
	third := connect(t, client)
	third.hello()
	third.next()
	third.end()
}

func TestHandleIsTheUnaryTwin(t *testing.T) {
	running := make(chan struct{}, 1)
	client := dial(t, byType(map[string]handlers.HandlerFunc{
		"good": func(_ context.Context, m *handlers.Message) error {
			m.Progress(0.5, "half")
			return m.Emit("next", nil)
		},
		"bad":  func(context.Context, *handlers.Message) error { panic("boom") },
		"long": untilCancelled(running),
	}), 1)
	o, err := client.Handle(t.Context(), &wire.Message{Tag: 5, Type: "good"})
	if err != nil || o.GetTag() != 5 || o.GetVerdict() != wire.Verdict_VERDICT_DONE || len(o.GetFollowOns()) != 1 {
		t.Errorf("good: %v, %v", o, err)
	}
	o, err = client.Handle(t.Context(), &wire.Message{Type: "bad"})
	if err != nil || o.GetCode() != handlers.CodePanic {
		t.Errorf("bad: %v, %v", o, err)
	}
	o, err = client.Handle(t.Context(), &wire.Message{Type: "other"})
	if err != nil || o.GetCode() != handlers.CodeNoHandler {
		t.Errorf("other: %v, %v", o, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for range 2 { // one runs, one waits for its place
		go func() {
			_, err := client.Handle(ctx, &wire.Message{Type: "long"})
			ended <- err
		}()
	}
	await(t, running, "the message")
	cancel()
	for range 2 {
		if err := await(t, ended, "the call"); status.Code(err) != codes.Canceled {
			t.Errorf("long: %v", err)
		}
	}
}

func TestDescribe(t *testing.T) {
	d, err := dial(t, handlers.HandlerFunc(done), 3).Describe(t.Context(), &wire.DescribeRequest{HostVersion: "1"})
	if err != nil || d.GetName() != "test" || d.GetConcurrency() != 3 {
		t.Errorf("got %v, %v", d, err)
	}
}

func TestBodyLargerThanTheDefaultOfGRPC(t *testing.T) {
	body := bytes.Repeat([]byte{0xff}, 8<<20)
	p := open(t, handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		if !bytes.Equal(m.Body, body) {
			return errors.New("another body")
		}
		return nil
	}), 1)
	p.messages(&wire.Message{Tag: 1, Body: body})
	if o := p.outcome(); o.GetVerdict() != wire.Verdict_VERDICT_DONE {
		t.Errorf("got %v", o)
	}
	p.end()
}

// Ten thousand messages, always as many as credit allows: each is answered
// once, and never more run than the plugin offered.
func TestTenThousandMessages(t *testing.T) {
	const total, concurrency = 10_000, 16
	var running, most atomic.Int64
	p := open(t, handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old; old = most.Load() {
			most.CompareAndSwap(old, now)
		}
		m.Progress(0.5, "half")
		runtime.Gosched()
		return nil
	}), concurrency)
	answered := make([]int, total+1)
	sent, outcomes := uint64(0), 0
	for outcomes < total {
		for sent < min(p.credit, total) {
			sent++
			p.messages(&wire.Message{Tag: sent})
		}
		for _, o := range p.next().GetOutcomes().GetOutcomes() {
			answered[o.GetTag()]++
			outcomes++
		}
	}
	p.end()
	for tag, n := range answered[1:] {
		if n != 1 {
			t.Errorf("tag %d was answered %d times", tag+1, n)
		}
	}
	if most.Load() > concurrency {
		t.Errorf("%d messages ran at once", most.Load())
	}
	if p.credit != total+concurrency {
		t.Errorf("the credit ended at %d", p.credit)
	}
}
