package handlers

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Handler runs messages. HandleMessage may be called concurrently; it must return
// soon after ctx ends, and its error says what is to happen (see the package
// comment). The message belongs to the handler until it returns.
type Handler interface {
	HandleMessage(ctx context.Context, m *Message) error
}

// HandlerFunc lets a function be a Handler.
type HandlerFunc func(ctx context.Context, m *Message) error

// HandleMessage calls f.
func (f HandlerFunc) HandleMessage(ctx context.Context, m *Message) error { return f(ctx, m) }

// Kind is what a handler's answer asks for.
type Kind int

// The answers a handler can give. Their numbers are not part of any wire
// format or file.
const (
	Done     Kind = iota // it worked
	Retry                // transient; counts an attempt
	Deferred             // not now; counts no attempt
	Rejected             // permanent; dead-lettered at once
	Dropped              // nothing to do
)

// String gives the word that logs and metrics use.
func (k Kind) String() string {
	switch k {
	case Done:
		return "done"
	case Retry:
		return "retry"
	case Deferred:
		return "defer"
	case Rejected:
		return "permanent"
	case Dropped:
		return "drop"
	}
	return fmt.Sprintf("kind(%d)", int(k))
}

// Outcome is a handler's answer, taken apart.
type Outcome struct {
	Kind Kind
	// After is the least time to wait, for Retry (0: the policy decides) and Deferred.
	After time.Duration
	// Code is the machine-readable cause: of Rejected as the author gave it; of
	// Retry "panic" or "timeout" where middleware found the cause, else empty.
	Code string
	// Err is the cause in words; nil for Done, Dropped and Deferred.
	Err error
}

// MinDefer is the shortest time that Defer waits.
const MinDefer = time.Second

// RetryAfter says that err is transient and that the next attempt should not
// come before d has passed. It counts as an attempt. A nil err is replaced.
func RetryAfter(d time.Duration, err error) error {
	return &answer{Outcome{Kind: Retry, After: max(d, 0), Err: orElse(err, "the handler asked for a retry")}}
}

// Defer says: not now, and not the message's fault (a quota, a lock, a
// maintenance window). No attempt is counted. d is at least [MinDefer].
func Defer(d time.Duration) error {
	return &answer{Outcome{Kind: Deferred, After: max(d, MinDefer)}}
}

// Permanent says that no further attempt can work. The message is
// dead-lettered with the reason permanent:<code>. code is 1 to 64 of a-z, 0-9,
// '_', '-' and '.'; anything else becomes "invalid_code". A nil err is replaced.
func Permanent(err error, code string) error {
	if !codePattern.MatchString(code) {
		code = "invalid_code"
	}
	return &answer{Outcome{Kind: Rejected, Code: code, Err: orElse(err, "the handler rejected the message")}}
}

var codePattern = regexp.MustCompile(`^[a-z0-9_.-]{1,64}$`)

// Drop says that there is nothing to do: the message is acked without effect,
// and what was emitted is not sent.
func Drop() error {
	return &answer{Outcome{Kind: Dropped}}
}

// failure is a transient error whose cause a machine can read.
func failure(code string, err error) error {
	return &answer{Outcome{Kind: Retry, Code: code, Err: err}}
}

// OutcomeOf takes a handler's answer apart. An answer that was wrapped with
// fmt.Errorf and %w keeps its meaning and gains the wrapper's words. A
// context.DeadlineExceeded that is no answer itself is a Retry with the code
// "timeout".
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Outcome{Kind: Done}
	}
	if a, ok := errors.AsType[*answer](err); ok {
		o := a.outcome
		if o.Err != nil {
			o.Err = words{err.Error(), o.Err}
		}
		return o
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Outcome{Kind: Retry, Code: CodeTimeout, Err: err}
	}
	return Outcome{Kind: Retry, Err: err}
}

// ErrorOf is the inverse of OutcomeOf: the error that a handler would have
// returned. Plugin hosts use it to carry an answer across a process.
func ErrorOf(o Outcome) error {
	switch o.Kind {
	case Done:
		return nil
	case Deferred:
		return Defer(o.After)
	case Rejected:
		return Permanent(o.Err, o.Code)
	case Dropped:
		return Drop()
	case Retry:
	}
	return &answer{Outcome{Kind: Retry, After: max(o.After, 0), Code: o.Code, Err: orElse(o.Err, "the handler failed")}}
}

// Codes that middleware puts on transient outcomes.
const (
	CodeTimeout = "timeout"
	CodePanic   = "panic"
)

// answer is an error with an Outcome inside.
type answer struct{ outcome Outcome }

func (a *answer) Error() string {
	switch a.outcome.Kind {
	case Deferred:
		return fmt.Sprintf("deferred for %v", a.outcome.After)
	case Dropped:
		return "dropped"
	case Done, Retry, Rejected:
	}
	return a.outcome.Err.Error()
}

func (a *answer) Unwrap() error { return a.outcome.Err }

// words is a cause in the words of whoever wrapped the answer.
type words struct {
	text string
	err  error
}

func (w words) Error() string { return w.text }
func (w words) Unwrap() error { return w.err }

func orElse(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}
