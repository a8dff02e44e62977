package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/handlers"
)

// answering is a handler that answers err.
func answering(err error) handlers.Handler {
	return handlers.HandlerFunc(func(context.Context, *handlers.Message) error { return err })
}

// recovered is what Recover makes of a panic.
func recovered(t *testing.T, cause any) error {
	t.Helper()
	h := handlers.Recover(handlers.HandlerFunc(func(context.Context, *handlers.Message) error { panic(cause) }))
	return h.HandleMessage(t.Context(), &handlers.Message{})
}

func TestRecoverMakesAPanicAnError(t *testing.T) {
	var none map[string]int
	for name, cause := range map[string]any{"a string": "boom", "an error": errStock, "an answer": handlers.Permanent(errStock, "x"), "nil": nil} {
		err := recovered(t, cause)
		o := handlers.OutcomeOf(err)
		if o.Kind != handlers.Retry || o.Code != handlers.CodePanic {
			t.Errorf("%s: %v, code %q; want retry, panic", name, o.Kind, o.Code)
		}
		if text := err.Error(); !strings.HasPrefix(text, "panic: ") || !strings.Contains(text, "middleware_test.go") {
			t.Errorf("%s: %.100s; want the cause and the stack", name, text)
		}
	}
	h := handlers.Recover(handlers.HandlerFunc(func(context.Context, *handlers.Message) error {
		none["x"] = 1
		return nil
	}))
	if err := h.HandleMessage(t.Context(), &handlers.Message{}); err == nil || !strings.Contains(err.Error(), "nil map") {
		t.Errorf("a run-time panic: %v; want its words", err)
	}
}

func TestRecoverLeavesAnswersAlone(t *testing.T) {
	for _, want := range []error{nil, errStock, handlers.Drop()} {
		if err := handlers.Recover(answering(want)).HandleMessage(t.Context(), &handlers.Message{}); !errors.Is(err, want) {
			t.Errorf("%v became %v", want, err)
		}
	}
}

func TestTimeout(t *testing.T) {
	// obeying answers err when its context ends.
	obeying := func(err error) handlers.Handler {
		return handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
			<-ctx.Done()
			if err == nil {
				return ctx.Err()
			}
			return err
		})
	}
	for _, c := range []struct {
		name string
		h    handlers.Handler
		want handlers.Outcome
		took time.Duration
	}{
		{"in time", answering(nil), handlers.Outcome{Kind: handlers.Done}, 0},
		{"a failure in time", answering(errStock), handlers.Outcome{Kind: handlers.Retry, Err: errStock}, 0},
		{"too late", obeying(nil), handlers.Outcome{Kind: handlers.Retry, Code: "timeout", Err: errors.New("stopped after 5s: context deadline exceeded")}, 5 * time.Second},
		{"too late with words of its own", obeying(errStock), handlers.Outcome{Kind: handlers.Retry, Code: "timeout", Err: errors.New("stopped after 5s: no stock")}, 5 * time.Second},
		{"an answer knows better", obeying(handlers.Permanent(errStock, "x")), handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: errStock}, 5 * time.Second},
		{"RetryAfter knows better", obeying(handlers.RetryAfter(time.Minute, errStock)), handlers.Outcome{Kind: handlers.Retry, After: time.Minute, Err: errStock}, 5 * time.Second},
		{"Defer knows better", obeying(handlers.Defer(time.Minute)), handlers.Outcome{Kind: handlers.Deferred, After: time.Minute}, 5 * time.Second},
		{"a handler that does not obey is waited for", sleeping(time.Hour, nil), handlers.Outcome{Kind: handlers.Done}, time.Hour},
		{"and when it fails it was the time", sleeping(time.Hour, errStock), handlers.Outcome{Kind: handlers.Retry, Code: "timeout", Err: errors.New("stopped after 5s: no stock")}, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := handlers.Timeout(5*time.Second, c.h).HandleMessage(t.Context(), &handlers.Message{})
				sameOutcome(t, handlers.OutcomeOf(err), c.want)
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v; want %v", took, c.took)
				}
			})
		})
	}
}

// sleeping is a handler that does not look at its context.
func sleeping(d time.Duration, err error) handlers.Handler {
	return handlers.HandlerFunc(func(context.Context, *handlers.Message) error {
		<-time.After(d) // inside a bubble
		return err
	})
}

func TestMux(t *testing.T) {
	var mux handlers.Mux
	var got []string
	for _, typ := range []string{"order.rush", "order", "a"} {
		mux.Handle(typ, func(_ context.Context, m *handlers.Message) error {
			got = append(got, typ+" got "+m.Type)
			return nil
		})
	}
	if types := fmt.Sprint(mux.Types()); types != "[a order order.rush]" {
		t.Errorf("types %s; want them in order", types)
	}
	for _, typ := range []string{"order", "order.rush"} {
		if err := mux.HandleMessage(t.Context(), &handlers.Message{Type: typ}); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if want := "[order got order order.rush got order.rush]"; fmt.Sprint(got) != want {
		t.Errorf("%v; want %s", got, want)
	}
	for _, typ := range []string{"", "Order", "order.", "order.rush.now"} {
		o := handlers.OutcomeOf(mux.HandleMessage(t.Context(), &handlers.Message{Type: typ}))
		if o.Kind != handlers.Rejected || o.Code != handlers.CodeNoHandler || !strings.Contains(o.Err.Error(), "[a order order.rush]") {
			t.Errorf("%q: %+v; want permanent, no_handler, with the types there are", typ, o)
		}
	}
}

func TestZeroMuxKnowsNothing(t *testing.T) {
	var mux handlers.Mux
	if o := handlers.OutcomeOf(mux.HandleMessage(t.Context(), &handlers.Message{Type: "a"})); o.Code != handlers.CodeNoHandler {
		t.Errorf("%+v; want no_handler", o)
	}
	if types := mux.Types(); len(types) != 0 {
		t.Errorf("types %v; want none", types)
	}
}

func TestMuxPanicsOnMistakes(t *testing.T) {
	for name, mistake := range map[string]func(*handlers.Mux){
		"no type":     func(x *handlers.Mux) { x.Register("", answering(nil)) },
		"no handler":  func(x *handlers.Mux) { x.Register("b", nil) },
		"taken":       func(x *handlers.Mux) { x.Register("a", answering(nil)) },
		"taken by it": func(x *handlers.Mux) { x.Handle("a", answering(nil).HandleMessage) },
	} {
		t.Run(name, func(t *testing.T) {
			var mux handlers.Mux
			mux.Register("a", answering(nil))
			defer func() {
				if cause := recover(); cause == nil || !strings.HasPrefix(fmt.Sprint(cause), "handlers: ") {
					t.Errorf("recovered %v; want a panic that says so", cause)
				}
				if err := mux.HandleMessage(t.Context(), &handlers.Message{Type: "a"}); err != nil {
					t.Errorf("the Mux does not work any more: %v", err)
				}
			}()
			mistake(&mux)
		})
	}
}

func TestMuxIsSafeForConcurrentUse(t *testing.T) {
	var mux handlers.Mux
	errs := make(chan error)
	const n = 20
	for i := range n {
		go func() {
			typ := fmt.Sprint(i)
			mux.Register(typ, answering(nil))
			mux.Types()
			errs <- mux.HandleMessage(t.Context(), &handlers.Message{Type: typ})
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if len(mux.Types()) != n {
		t.Errorf("%d types; want %d", len(mux.Types()), n)
	}
}
