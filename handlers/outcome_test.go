package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/handlers"
)

var errStock = errors.New("no stock")

func TestOutcomeOf(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want handlers.Outcome // Err is compared by its words
	}{
		{"nil", nil, handlers.Outcome{Kind: handlers.Done}},
		{"plain", errStock, handlers.Outcome{Kind: handlers.Retry, Err: errStock}},
		{"deadline", context.DeadlineExceeded, handlers.Outcome{Kind: handlers.Retry, Code: "timeout", Err: context.DeadlineExceeded}},
		{"wrapped deadline", fmt.Errorf("call: %w", context.DeadlineExceeded), handlers.Outcome{Kind: handlers.Retry, Code: "timeout", Err: errors.New("call: context deadline exceeded")}},
		{"cancelled", context.Canceled, handlers.Outcome{Kind: handlers.Retry, Err: context.Canceled}},
		{"RetryAfter", handlers.RetryAfter(time.Minute, errStock), handlers.Outcome{Kind: handlers.Retry, After: time.Minute, Err: errStock}},
		{"RetryAfter of a negative time", handlers.RetryAfter(-1, errStock), handlers.Outcome{Kind: handlers.Retry, Err: errStock}},
		{"RetryAfter without a cause", handlers.RetryAfter(1, nil), handlers.Outcome{Kind: handlers.Retry, After: 1, Err: errors.New("the handler asked for a retry")}},
		{"RetryAfter of a deadline", handlers.RetryAfter(1, context.DeadlineExceeded), handlers.Outcome{Kind: handlers.Retry, After: 1, Err: context.DeadlineExceeded}},
		{"Defer", handlers.Defer(time.Hour), handlers.Outcome{Kind: handlers.Deferred, After: time.Hour}},
		{"Defer of too little", handlers.Defer(time.Millisecond), handlers.Outcome{Kind: handlers.Deferred, After: handlers.MinDefer}},
		{"Defer of a negative time", handlers.Defer(-time.Hour), handlers.Outcome{Kind: handlers.Deferred, After: handlers.MinDefer}},
		{"Permanent", handlers.Permanent(errStock, "no_stock"), handlers.Outcome{Kind: handlers.Rejected, Code: "no_stock", Err: errStock}},
		{"Permanent without a cause", handlers.Permanent(nil, "x"), handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: errors.New("the handler rejected the message")}},
		{"Permanent of a deadline", handlers.Permanent(context.DeadlineExceeded, "x"), handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: context.DeadlineExceeded}},
		{"Drop", handlers.Drop(), handlers.Outcome{Kind: handlers.Dropped}},

		{"wrapped RetryAfter", fmt.Errorf("order 7: %w", handlers.RetryAfter(time.Minute, errStock)), handlers.Outcome{Kind: handlers.Retry, After: time.Minute, Err: errors.New("order 7: no stock")}},
		{"wrapped Permanent", fmt.Errorf("order 7: %w", handlers.Permanent(errStock, "no_stock")), handlers.Outcome{Kind: handlers.Rejected, Code: "no_stock", Err: errors.New("order 7: no stock")}},
		{"twice wrapped Permanent", fmt.Errorf("a: %w", fmt.Errorf("b: %w", handlers.Permanent(errStock, "x"))), handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: errors.New("a: b: no stock")}},
		{"wrapped Defer", fmt.Errorf("closed: %w", handlers.Defer(time.Hour)), handlers.Outcome{Kind: handlers.Deferred, After: time.Hour}},
		{"wrapped Drop", fmt.Errorf("twice: %w", handlers.Drop()), handlers.Outcome{Kind: handlers.Dropped}},
		{"joined", errors.Join(errors.New("close"), handlers.Permanent(errStock, "x")), handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: errors.New("close\nno stock")}},
		{"the outer answer counts", handlers.Permanent(handlers.RetryAfter(time.Minute, errStock), "x"), handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: errStock}},
		{"the outer answer counts, turned round", handlers.RetryAfter(time.Minute, handlers.Permanent(errStock, "x")), handlers.Outcome{Kind: handlers.Retry, After: time.Minute, Err: errStock}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sameOutcome(t, handlers.OutcomeOf(c.err), c.want)
		})
	}
}

// sameOutcome compares outcomes, errors by their words.
func sameOutcome(t *testing.T, got, want handlers.Outcome) {
	t.Helper()
	if fmt.Sprint(got.Err) != fmt.Sprint(want.Err) {
		t.Errorf("Err is %v; want %v", got.Err, want.Err)
	}
	got.Err, want.Err = nil, nil
	if got != want {
		t.Errorf("outcome %+v; want %+v", got, want)
	}
}

// TestErrorOfIsTheInverse holds for whatever a handler can answer.
func TestErrorOfIsTheInverse(t *testing.T) {
	errs := map[string]error{
		"nil": nil, "plain": errStock, "retry": handlers.RetryAfter(time.Minute, errStock), "deadline": context.DeadlineExceeded,
		"defer": handlers.Defer(time.Hour), "permanent": handlers.Permanent(errStock, "no_stock"), "drop": handlers.Drop(),
		"wrapped permanent": fmt.Errorf("a: %w", handlers.Permanent(errStock, "x")),
		"wrapped retry":     fmt.Errorf("a: %w", handlers.RetryAfter(1, errStock)),
		"panic":             recovered(t, "boom"),
	}
	for name, err := range errs {
		t.Run(name, func(t *testing.T) {
			want := handlers.OutcomeOf(err)
			back := handlers.ErrorOf(want)
			sameOutcome(t, handlers.OutcomeOf(back), want)
			if want.Err != nil && !errors.Is(back, want.Err) {
				t.Errorf("the cause is lost: %v", back)
			}
		})
	}
}

func TestErrorOfFillsWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name    string
		outcome handlers.Outcome
		want    handlers.Outcome
	}{
		{"retry without words", handlers.Outcome{Kind: handlers.Retry}, handlers.Outcome{Kind: handlers.Retry, Err: errors.New("the handler failed")}},
		{"retry of a negative time", handlers.Outcome{Kind: handlers.Retry, After: -1, Err: errStock}, handlers.Outcome{Kind: handlers.Retry, Err: errStock}},
		{"permanent without words", handlers.Outcome{Kind: handlers.Rejected, Code: "x"}, handlers.Outcome{Kind: handlers.Rejected, Code: "x", Err: errors.New("the handler rejected the message")}},
		{"permanent with a bad code", handlers.Outcome{Kind: handlers.Rejected, Code: "A B", Err: errStock}, handlers.Outcome{Kind: handlers.Rejected, Code: "invalid_code", Err: errStock}},
		{"defer of too little", handlers.Outcome{Kind: handlers.Deferred}, handlers.Outcome{Kind: handlers.Deferred, After: handlers.MinDefer}},
		{"a kind that there is not", handlers.Outcome{Kind: 99, Err: errStock}, handlers.Outcome{Kind: handlers.Retry, Err: errStock}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sameOutcome(t, handlers.OutcomeOf(handlers.ErrorOf(c.outcome)), c.want)
		})
	}
}

func TestPermanentCodes(t *testing.T) {
	long := strings.Repeat("x", 64)
	for code, want := range map[string]string{
		"no_stock": "no_stock", "a": "a", "v2.card-declined": "v2.card-declined", "0": "0", long: long,
		"": "invalid_code", "No": "invalid_code", "a b": "invalid_code", "a\n": "invalid_code", "ü": "invalid_code", long + "x": "invalid_code", "a:b": "invalid_code",
	} {
		if got := handlers.OutcomeOf(handlers.Permanent(errStock, code)).Code; got != want {
			t.Errorf("the code %q became %q; want %q", code, got, want)
		}
	}
}

func TestAnswersKeepTheirCause(t *testing.T) {
	for _, err := range []error{handlers.RetryAfter(1, errStock), handlers.Permanent(errStock, "x")} {
		if !errors.Is(err, errStock) || err.Error() != errStock.Error() {
			t.Errorf("%v: want the cause and its words", err)
		}
	}
	for want, err := range map[string]error{"deferred for 1m0s": handlers.Defer(time.Minute), "dropped": handlers.Drop()} {
		if err.Error() != want || errors.Unwrap(err) != nil {
			t.Errorf("%q, cause %v; want %q and no cause", err, errors.Unwrap(err), want)
		}
	}
}

func TestKindWords(t *testing.T) {
	for kind, want := range map[handlers.Kind]string{
		handlers.Done: "done", handlers.Retry: "retry", handlers.Deferred: "defer", handlers.Rejected: "permanent",
		handlers.Dropped: "drop", 42: "kind(42)",
	} {
		if kind.String() != want {
			t.Errorf("%d is %q; want %q", int(kind), kind, want)
		}
	}
}

// TestOutcomeRoundTrip: any outcome that came through ErrorOf once comes
// through unchanged ever after.
func TestOutcomeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := handlers.Outcome{
			Kind:  handlers.Kind(rapid.IntRange(-1, 6).Draw(t, "kind")),
			After: time.Duration(rapid.Int64().Draw(t, "after")),
			Code:  rapid.OneOf(rapid.SampledFrom([]string{"", "timeout", "panic", "no_stock"}), rapid.String()).Draw(t, "code"),
		}
		if rapid.Bool().Draw(t, "has a cause") {
			o.Err = errors.New(rapid.String().Draw(t, "cause"))
		}
		once := handlers.OutcomeOf(handlers.ErrorOf(o))
		twice := handlers.OutcomeOf(handlers.ErrorOf(once))
		if fmt.Sprint(twice.Err) != fmt.Sprint(once.Err) || twice.Kind != once.Kind || twice.After != once.After || twice.Code != once.Code {
			t.Fatalf("%+v became %+v and then %+v", o, once, twice)
		}
	})
}
