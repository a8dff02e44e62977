package plugintest_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/handlers"
	"usher/handlers/plugin/plugintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// what is everything that came of an attempt, as text.
func what(ctx context.Context, h handlers.Handler, m *handlers.Message) string {
	var mu sync.Mutex
	var last handlers.Progress
	followOns, err := handlers.Run(ctx, h, m, func(p handlers.Progress) {
		mu.Lock()
		defer mu.Unlock()
		last = p
	})
	o := handlers.OutcomeOf(err)
	var text strings.Builder
	fmt.Fprintf(&text, "%v after %v code %q err %v, last %v", o.Kind, o.After, o.Code, o.Err, last)
	for _, f := range followOns {
		fmt.Fprintf(&text, ", %s %q %q %v %v %q", f.Type, f.Body, f.ContentType, f.Headers, f.Delay, f.Key)
	}
	return text.String()
}

func TestAcrossMakesNoDifference(t *testing.T) {
	boom := errors.New("boom")
	var mux handlers.Mux
	mux.Handle("done", func(context.Context, *handlers.Message) error { return nil })
	mux.Handle("fail", func(context.Context, *handlers.Message) error { return boom })
	mux.Handle("later", func(context.Context, *handlers.Message) error { return handlers.RetryAfter(time.Minute, boom) })
	mux.Handle("defer", func(context.Context, *handlers.Message) error { return handlers.Defer(time.Hour) })
	mux.Handle("never", func(context.Context, *handlers.Message) error { return handlers.Permanent(boom, "no_stock") })
	mux.Handle("drop", func(context.Context, *handlers.Message) error { return handlers.Drop() })
	mux.Handle("emit", func(_ context.Context, m *handlers.Message) error {
		m.Progress(0.3, "packing")
		m.Progress(0.6, "sending")
		return m.EmitFollowOn(handlers.FollowOn{
			Type: "receipt", Body: m.Body, ContentType: m.ContentType, Headers: m.Headers, Delay: time.Second,
			Key: fmt.Sprint(m.ID, m.Type, m.Priority, m.Attempt, m.IdempotencyKey),
		})
	})
	across := plugintest.Across(t, &mux)
	for _, typ := range append(mux.Types(), "unknown") {
		message := func() *handlers.Message {
			return &handlers.Message{
				ID: "m-1", Type: typ, Priority: 7, Attempt: 2, IdempotencyKey: "k", ContentType: "text/plain",
				Headers: map[string]string{"a": "b"}, Body: []byte("body"),
			}
		}
		direct, there := what(t.Context(), &mux, message()), what(t.Context(), across, message())
		if direct != there {
			t.Errorf("%s:\n  in process  %s\n  across      %s", typ, direct, there)
		}
	}
}

func TestAcrossRecoversPanics(t *testing.T) {
	across := plugintest.Across(t, handlers.HandlerFunc(func(context.Context, *handlers.Message) error { panic("boom") }))
	o := handlers.OutcomeOf(across.HandleMessage(t.Context(), &handlers.Message{}))
	if o.Kind != handlers.Retry || o.Code != handlers.CodePanic || !strings.Contains(o.Err.Error(), "panic: boom") {
		t.Errorf("got %+v", o)
	}
}

func TestAcrossCarriesCancelAndDeadline(t *testing.T) {
	running := make(chan struct{}, 3)
	across := plugintest.Across(t, handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		running <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-running; cancel() }()
	if o := handlers.OutcomeOf(across.HandleMessage(ctx, &handlers.Message{})); o.Kind != handlers.Retry || o.Code != "" {
		t.Errorf("cancelled: %+v", o)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if o := handlers.OutcomeOf(across.HandleMessage(ctx, &handlers.Message{})); o.Kind != handlers.Retry || o.Code != handlers.CodeTimeout {
		t.Errorf("too late: %+v", o)
	}
	// A context that is over before the message is sent.
	if o := handlers.OutcomeOf(across.HandleMessage(ctx, &handlers.Message{})); o.Kind != handlers.Retry || o.Code != handlers.CodeTimeout {
		t.Errorf("without time: %+v", o)
	}
}

func TestAcrossManyAtOnce(t *testing.T) {
	across := plugintest.Across(t, handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		return m.Emit("echo", []byte(m.ID))
	}))
	var all sync.WaitGroup
	for i := range 1000 {
		all.Go(func() {
			id := strconv.Itoa(i)
			followOns, err := handlers.Run(t.Context(), across, &handlers.Message{ID: id}, nil)
			if err != nil || len(followOns) != 1 || string(followOns[0].Body) != id {
				t.Errorf("message %s: %v, %v", id, followOns, err)
			}
		})
	}
	all.Wait()
}
