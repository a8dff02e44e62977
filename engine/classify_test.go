package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"usher/handlers"
)

func TestClassify(t *testing.T) {
	boom := errors.New("boom")
	checkClassify(t, threeAttempts(), []classifyCase{
		{"nil is done", attempted{}, decision{action: actDone, counted: true, outcome: OutcomeDone}},
		{"done counts even while stopping", attempted{stopping: true}, decision{action: actDone, counted: true, outcome: OutcomeDone}},
		{"drop", attempted{err: handlers.Drop()}, decision{action: actDrop, counted: true, outcome: OutcomeDropped}},
		{
			"a plain error is tried again, with jitter below the bound", attempted{err: boom, jitter: 0.5},
			decision{action: actAgain, counted: true, transient: true, outcome: OutcomeRetried, wait: 100 * time.Millisecond, fault: fault{detail: "boom"}},
		},
		{
			"the bound doubles", attempted{err: boom, ended: 1, jitter: 0.5},
			decision{action: actAgain, counted: true, transient: true, outcome: OutcomeRetried, wait: 200 * time.Millisecond, fault: fault{detail: "boom"}},
		},
		{
			"the last attempt exhausts it", attempted{err: boom, ended: 2},
			decision{action: actDead, counted: true, transient: true, outcome: OutcomeDeadLettered, fault: fault{ReasonExhausted, "attempt 3 of 3: boom"}},
		},
		{
			"a time-out as the last attempt says so", attempted{err: context.DeadlineExceeded, ended: 2},
			decision{action: actDead, counted: true, transient: true, outcome: OutcomeDeadLettered, fault: fault{ReasonTimeout, "attempt 3 of 3: context deadline exceeded"}},
		},
		{
			"a short RetryAfter waits here", attempted{err: handlers.RetryAfter(2*time.Second, boom)},
			decision{action: actAgain, counted: true, transient: true, outcome: OutcomeRetried, wait: 2 * time.Second, fault: fault{detail: "boom"}},
		},
		{
			"a long RetryAfter waits outside", attempted{err: handlers.RetryAfter(3*time.Second, boom)},
			decision{action: actDefer, counted: true, transient: true, outcome: OutcomeRetried, wait: 3 * time.Second, fault: fault{detail: "boom"}},
		},
		{
			"RetryAfter has no more attempts than others", attempted{err: handlers.RetryAfter(time.Minute, boom), ended: 2},
			decision{action: actDead, counted: true, transient: true, outcome: OutcomeDeadLettered, fault: fault{ReasonExhausted, "attempt 3 of 3: boom"}},
		},
		{
			"defer counts nothing", attempted{err: handlers.Defer(time.Minute), ended: 2},
			decision{action: actDefer, outcome: OutcomeDeferred, wait: time.Minute},
		},
		{
			"defer ends by age", attempted{err: handlers.Defer(time.Minute), age: time.Hour},
			decision{action: actDead, outcome: OutcomeDeadLettered, fault: fault{ReasonExhausted, "the handler deferred it until it was older than maxAge (1h0m0s)"}},
		},
		{
			"a defer beyond all times ends by age too", attempted{err: handlers.Defer(math.MaxInt64), age: time.Second},
			decision{action: actDead, outcome: OutcomeDeadLettered, fault: fault{ReasonExhausted, "the handler deferred it until it was older than maxAge (1h0m0s)"}},
		},
		{
			"permanent", attempted{err: handlers.Permanent(boom, "no_such_street")},
			decision{action: actDead, counted: true, outcome: OutcomeDeadLettered, fault: fault{"permanent:no_such_street", "boom"}},
		},
		{
			"a bad follow-on has its own code", attempted{err: handlers.Permanent(boom, ReasonBadFollowOn)},
			decision{action: actDead, counted: true, outcome: OutcomeDeadLettered, fault: fault{ReasonBadFollowOn, "boom"}},
		},
	})
}

func TestClassifyRedeliveries(t *testing.T) {
	boom := errors.New("boom")
	typ := Type{Attempts: 3, Backoff: 200 * time.Millisecond, MaxAge: time.Hour, Redeliveries: []time.Duration{30 * time.Second, time.Minute}}
	checkClassify(t, typ, []classifyCase{
		{
			"a round that is used up is followed by the next", attempted{err: boom, ended: 2, rounds: 1, jitter: 0.5},
			decision{action: actDefer, counted: true, transient: true, round: true, outcome: OutcomeRetried, wait: 63 * time.Second, fault: fault{detail: "boom"}},
		},
		{
			"a RetryAfter that is longer than the schedule counts", attempted{err: handlers.RetryAfter(time.Hour, boom), ended: 2},
			decision{action: actDefer, counted: true, transient: true, round: true, outcome: OutcomeRetried, wait: time.Hour, fault: fault{detail: "boom"}},
		},
		{
			"the last round exhausts it", attempted{err: boom, ended: 2, rounds: 2},
			decision{action: actDead, counted: true, transient: true, outcome: OutcomeDeadLettered, fault: fault{ReasonExhausted, "attempt 3 of 3 after redelivery 2 of 2: boom"}},
		},
	})
}

func TestClassifyCrashesAndStops(t *testing.T) {
	boom := errors.New("boom")
	lost := fmt.Errorf("shop: %w", ErrPluginLost)
	checkClassify(t, threeAttempts(), []classifyCase{
		{
			"a crash is nobody's attempt", attempted{err: lost, ended: 2},
			decision{action: actAgain, crash: true, outcome: OutcomeCrashed, fault: fault{detail: "shop: the plugin process was lost"}},
		},
		{
			"the third crash is the last", attempted{err: lost, crashes: 2},
			decision{action: actDead, crash: true, outcome: OutcomeDeadLettered, fault: fault{ReasonCrashedPlugin, "shop: the plugin process was lost"}},
		},
		{
			"a plugin that is away costs nothing", attempted{err: fmt.Errorf("shop: %w", ErrPluginAway), ended: 2, crashes: 2},
			decision{action: actAgain, outcome: OutcomeNotStarted, wait: awayWait},
		},
		{"stopping hands back", attempted{err: boom, ended: 2, stopping: true}, decision{action: actHandBack, outcome: OutcomeHandedBack}},
		{"stopping hands a lost one back, for we ended its process", attempted{err: lost, crashes: 2, stopping: true}, decision{action: actHandBack, outcome: OutcomeHandedBack}},
	})
}

// classifyCase is one attempt and what becomes of it.
type classifyCase struct {
	name string
	in   attempted
	want decision
}

func threeAttempts() Type {
	return Type{Attempts: 3, Backoff: 200 * time.Millisecond, MaxAge: time.Hour}
}

func checkClassify(t *testing.T, typ Type, tests []classifyCase) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := classify(tt.in, typ); got != tt.want {
				t.Errorf("classify(%+v)\n got %+v\nwant %+v", tt.in, got, tt.want)
			}
		})
	}
}

func TestShortWaitNeverPassesItsBound(t *testing.T) {
	for n := 1; n < 70; n++ {
		if got := shortWait(500*time.Millisecond, n, 1); got > MaxShortWait || got < 500*time.Millisecond {
			t.Errorf("after attempt %d the wait is %v, want 500ms to %v", n, got, MaxShortWait)
		}
	}
}
