package handlers

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// Recover turns a panic in h into a transient error with the code "panic" and
// the stack in its words, so one message cannot end the process.
func Recover(h Handler) Handler {
	return HandlerFunc(func(ctx context.Context, m *Message) (err error) {
		defer func() {
			if cause := recover(); cause != nil {
				err = failure(CodePanic, fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
			}
		}()
		return h.HandleMessage(ctx, m)
	})
}

// Timeout cancels the context of h after d, and calls a plain error that h
// then returns a "timeout". A handler that does not obey its context is waited
// for: running it twice at once would be worse.
func Timeout(d time.Duration, h Handler) Handler {
	return HandlerFunc(func(ctx context.Context, m *Message) error {
		over := &timeoutError{d}
		ctx, cancel := context.WithTimeoutCause(ctx, d, over)
		defer cancel()
		err := h.HandleMessage(ctx, m)
		if err == nil || context.Cause(ctx) != error(over) { //nolint:errorlint // this very one
			return err
		}
		if o := OutcomeOf(err); o.Kind != Retry || o.Code != "" && o.Code != CodeTimeout || o.After > 0 {
			return err // it knew better
		}
		return failure(CodeTimeout, fmt.Errorf("%w: %w", over, err))
	})
}

// timeoutError is the cause with which Timeout cancels. It is a
// context.DeadlineExceeded for those who ask.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string        { return fmt.Sprintf("stopped after %v", e.after) }
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }
