package handlertest_test

import (
	"context"
	"fmt"
	"testing"

	"usher/handlers"
	"usher/handlers/handlertest"
)

// packs is the handler that is tested.
func packs(_ context.Context, m *handlers.Message) error {
	return m.Emit("parcel.collect", m.Body)
}

// TestPacks is how an author's own test looks.
func TestPacks(t *testing.T) {
	h := handlers.HandlerFunc(packs)
	m := handlertest.Message("order.placed", []byte(`{"items": 2}`))
	res := handlertest.Run(t, h, m)
	if res.Outcome.Kind != handlers.Done || len(res.FollowOns) != 1 {
		t.Errorf("%v, %d follow-ons; want done, 1", res.Outcome.Err, len(res.FollowOns))
	}
	handlertest.Check(t, h, m)
}

// The promises can be checked one by one, without a testing.T.
func ExamplePromises() {
	h := handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		if m.Body[0] == '{' {
			return nil
		}
		return handlers.Permanent(nil, "bad_body")
	})
	for _, p := range handlertest.Promises() {
		err := p.Check(context.Background(), h, handlertest.Message("order.placed", []byte(`{"items": 2}`)))
		if err != nil {
			fmt.Println(p.Name, "-", handlers.OneLine(err.Error(), 60))
			continue
		}
		fmt.Println(p.Name, "- ok")
	}
	// Output:
	// DoesNotPanic - ok
	// ReturnsWhenCancelled - ok
	// SurvivesAnyBody - with no body the handler panicked: panic: runtime error: …
	// RunsBesideItself - ok
}
