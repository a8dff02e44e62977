package handlertest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"usher/handlers"
)

const (
	// Grace is how long a handler may take to return after its context ended.
	Grace = 5 * time.Second
	// Limit is how long an attempt may take before its context ends.
	Limit = 30 * time.Second
)

// Message makes a message of the type as a handler gets it: the first attempt,
// priority 4, a JSON body. The caller may change its fields.
func Message(typ string, body []byte) *handlers.Message {
	return &handlers.Message{
		ID: "test-1", Type: typ, Priority: 4, Attempt: 1, IdempotencyKey: "test-1",
		Headers: map[string]string{}, ContentType: "application/json", Body: body,
	}
}

// Result is what came of one attempt.
type Result struct {
	// Outcome is the handler's answer. A panic is a Retry with the code
	// handlers.CodePanic and the stack in Err, as it would be in a plugin.
	Outcome handlers.Outcome
	// FollowOns are the messages that would be sent: none unless it is Done.
	FollowOns []handlers.FollowOn
	// Progress is what was reported, in order.
	Progress []handlers.Progress
}

// Run makes one attempt at a copy of m, so that m can be used again. The
// attempt's context ends after Limit; the test fails if h has not returned
// Grace later.
func Run(tb testing.TB, h handlers.Handler, m *handlers.Message) Result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), Limit)
	defer cancel()
	res, err := attempt(ctx, h, m)
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// Check tests that h keeps every one of the Promises with each of the messages.
func Check(t *testing.T, h handlers.Handler, messages ...*handlers.Message) {
	t.Helper()
	if len(messages) == 0 {
		t.Fatal("handlertest: Check needs a message that the handler knows")
	}
	for _, m := range messages {
		t.Run(m.Type, func(t *testing.T) {
			for _, p := range Promises() {
				t.Run(p.Name, func(t *testing.T) {
					if err := p.Check(t.Context(), h, m); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// Promise is one thing that every handler promises.
type Promise struct {
	Name string
	// Check gives an error that says how h broke the promise with m, or with
	// messages like it. It runs h on copies of m, several times, and returns at
	// the latest a few seconds after Limit.
	Check func(ctx context.Context, h handlers.Handler, m *handlers.Message) error
}

// Promises are what Check tests, in order.
func Promises() []Promise {
	return []Promise{
		{"DoesNotPanic", doesNotPanic},
		{"ReturnsWhenCancelled", returnsWhenCancelled},
		{"SurvivesAnyBody", survivesAnyBody},
		{"RunsBesideItself", runsBesideItself},
	}
}

func doesNotPanic(ctx context.Context, h handlers.Handler, m *handlers.Message) error {
	return survives(ctx, h, m, "the message given")
}

// returnsWhenCancelled cancels before the handler starts, and while it runs.
func returnsWhenCancelled(ctx context.Context, h handlers.Handler, m *handlers.Message) error {
	for _, after := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
		ctx, cancel := context.WithCancel(ctx)
		timer := time.AfterFunc(after, cancel)
		if after == 0 {
			cancel()
		}
		err := survives(ctx, h, m, fmt.Sprintf("a context that was cancelled after %v", after))
		timer.Stop()
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func survivesAnyBody(ctx context.Context, h handlers.Handler, m *handlers.Message) error {
	for _, odd := range oddBodies() {
		other := fresh(m)
		other.Body = odd.body
		if err := survives(ctx, h, other, odd.what); err != nil {
			return err
		}
	}
	return nil
}

// oddBody is a body that nobody expects.
type oddBody struct {
	what string
	body []byte
}

func oddBodies() []oddBody {
	return []oddBody{
		{"no body", nil},
		{"an empty body", []byte{}},
		{"a NUL byte", []byte{0}},
		{"a body that is not UTF-8", []byte("{\"a\": \"\xff\xfe\xc3\"}")},
		{"a body that is no JSON", []byte("not JSON")},
		{"JSON that ends too early", []byte(`{"a": [1, 2`)},
		{"JSON null", []byte("null")},
		{"a JSON number", []byte("-1e308")},
		{"a JSON string", []byte(`"\u0000\ud800"`)},
		{"an empty JSON array", []byte("[]")},
		{"an empty JSON object", []byte("{}")},
		{"a JSON object of other fields", []byte(`{"": null, "unknown": {"a": [true]}}`)},
		{"JSON that is 10,000 levels deep", bytes.Repeat([]byte("["), 10_000)},
		{"a body of 1 MiB", bytes.Repeat([]byte("x"), 1<<20)},
		{"a JSON string of 1 MiB", slices.Concat([]byte(`"`), bytes.Repeat([]byte("x"), 1<<20-2), []byte(`"`))},
	}
}

// runsBesideItself makes several attempts at the same message, and at others
// of its type, at once.
func runsBesideItself(ctx context.Context, h handlers.Handler, m *handlers.Message) error {
	const attempts = 8
	errs := make(chan error, attempts)
	start := make(chan struct{})
	for i := range attempts {
		other := fresh(m)
		if i%2 == 1 {
			other.ID = fmt.Sprintf("%s-%d", m.ID, i)
			other.IdempotencyKey = other.ID
		}
		go func() {
			<-start
			errs <- survives(ctx, h, other, fmt.Sprintf("%d attempts at once", attempts))
		}()
	}
	close(start)
	var first error
	for range attempts {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// survives makes an attempt, of which nothing is wanted but that it ends with
// an answer.
func survives(ctx context.Context, h handlers.Handler, m *handlers.Message, what string) error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	res, err := attempt(ctx, h, m)
	switch {
	case err != nil:
		return fmt.Errorf("with %s: %w", what, err)
	case res.Outcome.Code == handlers.CodePanic:
		return fmt.Errorf("with %s the handler panicked: %w", what, res.Outcome.Err)
	}
	return nil
}

// attempt runs h on a copy of m. The error says that it did not return.
func attempt(ctx context.Context, h handlers.Handler, m *handlers.Message) (Result, error) {
	answer := make(chan Result, 1) // read by nobody if h returns too late
	go func() {
		var mu sync.Mutex
		var progress []handlers.Progress
		followOns, err := handlers.Run(ctx, handlers.Recover(h), fresh(m), func(p handlers.Progress) {
			mu.Lock()
			defer mu.Unlock()
			progress = append(progress, p)
		})
		mu.Lock()
		defer mu.Unlock()
		answer <- Result{Outcome: handlers.OutcomeOf(err), FollowOns: followOns, Progress: progress}
	}()
	select {
	case res := <-answer:
		return res, nil
	case <-ctx.Done():
	}
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	select {
	case res := <-answer:
		return res, nil
	case <-grace.C:
		return Result{}, fmt.Errorf("the handler of %q had not returned %v after its context ended (%w): it must select on ctx.Done wherever it waits, and hand ctx to what it calls", m.Type, Grace, context.Cause(ctx))
	}
}

// fresh is a copy of m that was not run yet and shares nothing with it.
func fresh(m *handlers.Message) *handlers.Message {
	return &handlers.Message{
		ID: m.ID, Type: m.Type, Priority: m.Priority, Attempt: m.Attempt, IdempotencyKey: m.IdempotencyKey,
		Headers: maps.Clone(m.Headers), ContentType: m.ContentType, Body: bytes.Clone(m.Body),
	}
}
