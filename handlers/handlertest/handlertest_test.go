package handlertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"usher/handlers"
	"usher/handlers/handlertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type placed struct {
	Items int `json:"items"`
}

// order is a handler as an author writes it.
func order(ctx context.Context, m *handlers.Message) error {
	var o placed
	if err := json.Unmarshal(m.Body, &o); err != nil {
		return handlers.Permanent(err, "bad_body")
	}
	m.Progress(0.5, "packing")
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.Emit("parcel.collect", m.Body)
}

func TestCheckOfAGoodHandler(t *testing.T) {
	var mux handlers.Mux
	mux.Handle("order.rush", order)
	mux.Handle("order.placed", order)
	handlertest.Check(t, &mux, handlertest.Message("order.rush", []byte(`{"items": 2}`)), handlertest.Message("order.placed", nil))
}

func TestRun(t *testing.T) {
	m := handlertest.Message("order.rush", []byte(`{"items": 2}`))
	for range 2 { // the message can be used again
		res := handlertest.Run(t, handlers.HandlerFunc(order), m)
		if res.Outcome != (handlers.Outcome{}) || len(res.FollowOns) != 1 || res.FollowOns[0].Type != "parcel.collect" ||
			!slices.Equal(res.Progress, []handlers.Progress{{Ratio: 0.5, Note: "packing"}}) {
			t.Errorf("%+v; want it done, with a follow-on and progress", res)
		}
	}
	res := handlertest.Run(t, handlers.HandlerFunc(order), handlertest.Message("order.rush", []byte("?")))
	if res.Outcome.Kind != handlers.Rejected || res.Outcome.Code != "bad_body" || len(res.FollowOns) != 0 {
		t.Errorf("%+v; want it rejected", res)
	}
	boom := handlers.HandlerFunc(func(context.Context, *handlers.Message) error { panic("boom") })
	if res := handlertest.Run(t, boom, m); res.Outcome.Code != handlers.CodePanic || !strings.Contains(res.Outcome.Err.Error(), "boom") {
		t.Errorf("%+v; want the panic", res)
	}
}

// TestRunCopiesTheWholeMessage looks at every exported field, so that a new one
// is not forgotten.
func TestRunCopiesTheWholeMessage(t *testing.T) {
	m := &handlers.Message{
		ID: "i", Type: "t", Priority: 9, Attempt: 3, IdempotencyKey: "k",
		Headers: map[string]string{"a": "b"}, ContentType: "text/plain", Body: []byte("body"),
	}
	fields := reflect.VisibleFields(reflect.TypeFor[handlers.Message]())
	handlertest.Run(t, handlers.HandlerFunc(func(_ context.Context, got *handlers.Message) error {
		for _, f := range fields {
			if !f.IsExported() {
				continue
			}
			want := reflect.ValueOf(m).Elem().FieldByIndex(f.Index)
			if want.IsZero() {
				t.Errorf("the test does not set %s", f.Name)
			}
			if v := reflect.ValueOf(got).Elem().FieldByIndex(f.Index); !reflect.DeepEqual(v.Interface(), want.Interface()) {
				t.Errorf("%s is %v; want %v", f.Name, v, want)
			}
		}
		got.Headers["a"], got.Body[0] = "scribbled", 'X'
		return nil
	}), m)
	if m.Headers["a"] != "b" || string(m.Body) != "body" {
		t.Errorf("the handler wrote into the author's message: %v, %s", m.Headers, m.Body)
	}
}

// TestPromisesFindWhatIsWrong has a bad handler for each promise.
func TestPromisesFindWhatIsWrong(t *testing.T) {
	var running atomic.Int32
	for _, c := range []struct {
		promise string
		h       handlers.HandlerFunc
		want    string
	}{
		{"DoesNotPanic", func(context.Context, *handlers.Message) error { panic("boom") }, "panicked: panic: boom"},
		{"DoesNotPanic", func(context.Context, *handlers.Message) error { return hidden() }, "panicked"},
		{"DoesNotPanic", func(context.Context, *handlers.Message) error { <-time.After(time.Hour); return nil }, "had not returned 5s after its context ended (context deadline exceeded)"},
		{"ReturnsWhenCancelled", func(context.Context, *handlers.Message) error { <-time.After(10 * time.Second); return nil }, "had not returned 5s after"},
		{"ReturnsWhenCancelled", func(ctx context.Context, _ *handlers.Message) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			<-time.After(10 * time.Second) // looks once, and never again
			return nil
		}, "cancelled after 1ms"},
		{"SurvivesAnyBody", func(_ context.Context, m *handlers.Message) error { _ = m.Body[0]; return nil }, "with no body the handler panicked"},
		{"SurvivesAnyBody", func(_ context.Context, m *handlers.Message) error {
			if len(m.Body) > 1<<19 {
				panic("too long")
			}
			return nil
		}, "a body of 1 MiB"},
		{"SurvivesAnyBody", func(_ context.Context, m *handlers.Message) error {
			var o *placed
			if err := json.Unmarshal(m.Body, &o); err != nil {
				return err
			}
			_ = o.Items
			return nil
		}, "JSON null"},
		{"RunsBesideItself", func(ctx context.Context, _ *handlers.Message) error {
			if running.Add(1) > 1 {
				panic("I thought I was alone")
			}
			defer running.Add(-1)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			return nil
		}, "8 attempts at once"},
	} {
		t.Run(c.promise+"/"+c.want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := promise(t, c.promise).Check(t.Context(), c.h, handlertest.Message("a", []byte(`{"items": 1}`)))
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v; want it to say %q", err, c.want)
				}
				<-time.After(2 * time.Hour) // let the bad handler end
			})
		})
	}
}

// hidden is a panic as it looks from the other side of a process.
func hidden() error {
	return handlers.ErrorOf(handlers.Outcome{Kind: handlers.Retry, Code: handlers.CodePanic, Err: errors.New("panic: boom")})
}

func promise(t *testing.T, name string) handlertest.Promise {
	t.Helper()
	for _, p := range handlertest.Promises() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("there is no promise %s", name)
	return handlertest.Promise{}
}

// TestSlowHandlerThatObeysIsGood: taking long is no fault.
func TestSlowHandlerThatObeysIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
			<-ctx.Done()
			<-time.After(handlertest.Grace - time.Millisecond) // puts things in order
			return ctx.Err()
		})
		for _, p := range handlertest.Promises() {
			if err := p.Check(t.Context(), h, handlertest.Message("a", nil)); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
	})
}
