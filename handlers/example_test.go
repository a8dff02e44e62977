package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usher/handlers"
)

// A Mux is what most programs serve: one function a type.
func ExampleMux() {
	var mux handlers.Mux
	mux.Handle("order.placed", func(_ context.Context, m *handlers.Message) error {
		fmt.Printf("%s: %s\n", m.ID, m.Body)
		return nil
	})

	err := mux.HandleMessage(context.Background(), &handlers.Message{ID: "o-17", Type: "order.placed", Body: []byte(`{"items": 2}`)})
	fmt.Println(handlers.OutcomeOf(err).Kind)

	err = mux.HandleMessage(context.Background(), &handlers.Message{ID: "o-18", Type: "order.returned"})
	fmt.Println(handlers.OutcomeOf(err).Kind, err)
	// Output:
	// o-17: {"items": 2}
	// done
	// permanent no handler for the type "order.returned"; there are: [order.placed]
}

// The error that a handler returns says what is to happen to the message.
func ExampleHandler() {
	errBusy := errors.New("the warehouse is busy")
	for _, err := range []error{
		nil,
		errBusy,
		handlers.RetryAfter(30*time.Second, errBusy),
		handlers.Defer(10 * time.Minute),
		handlers.Permanent(errors.New("no such article"), "unknown_article"),
		handlers.Drop(),
	} {
		o := handlers.OutcomeOf(err)
		fmt.Printf("%-9v after %-5v code %q: %v\n", o.Kind, o.After, o.Code, o.Err)
	}
	// Output:
	// done      after 0s    code "": <nil>
	// retry     after 0s    code "": the warehouse is busy
	// retry     after 30s   code "": the warehouse is busy
	// defer     after 10m0s code "": <nil>
	// permanent after 0s    code "unknown_article": no such article
	// drop      after 0s    code "": <nil>
}

// An answer keeps its meaning when it is wrapped, and gains the words.
func ExampleOutcomeOf() {
	err := handlers.Permanent(errors.New("no such article"), "unknown_article")
	err = fmt.Errorf("order o-17: %w", err)

	o := handlers.OutcomeOf(err)
	fmt.Println(o.Kind, o.Code)
	fmt.Println(o.Err)
	// Output:
	// permanent unknown_article
	// order o-17: no such article
}

// What a handler emits is sent when, and only when, its message is done.
func ExampleRun() {
	h := handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		m.Progress(0.5, "packing")
		if err := m.Emit("invoice.create", []byte(`{"order": "o-17"}`)); err != nil {
			return err
		}
		rush := 9
		return m.EmitFollowOn(handlers.FollowOn{Type: "parcel.collect", Priority: &rush, Delay: time.Hour, Key: m.ID})
	})

	followOns, err := handlers.Run(context.Background(), h, &handlers.Message{ID: "o-17"}, func(p handlers.Progress) {
		fmt.Printf("%.0f %% %s\n", 100*p.Ratio, p.Note)
	})
	fmt.Println(handlers.OutcomeOf(err).Kind)
	for _, f := range followOns {
		fmt.Printf("%s %s\n", f.Type, f.Body)
	}
	// Output:
	// 50 % packing
	// done
	// invoice.create {"order": "o-17"}
	// parcel.collect
}

// Recover turns a panic into a transient error with the code "panic".
func ExampleRecover() {
	h := handlers.Recover(handlers.HandlerFunc(func(_ context.Context, m *handlers.Message) error {
		fmt.Println(m.Body[3])
		return nil
	}))

	err := h.HandleMessage(context.Background(), &handlers.Message{ID: "o-17"})
	fmt.Println(handlers.OutcomeOf(err).Kind, handlers.OutcomeOf(err).Code)
	fmt.Println(handlers.OneLine(err.Error(), 60))
	// Output:
	// retry panic
	// panic: runtime error: index out of range [3] with length …
}

// Timeout gives a handler less time than its type has.
func ExampleTimeout() {
	h := handlers.Timeout(10*time.Millisecond, handlers.HandlerFunc(func(ctx context.Context, _ *handlers.Message) error {
		<-ctx.Done() // a call that takes too long
		return errors.New("the warehouse does not answer")
	}))

	err := h.HandleMessage(context.Background(), &handlers.Message{ID: "o-17"})
	fmt.Println(handlers.OutcomeOf(err).Kind, handlers.OutcomeOf(err).Code)
	fmt.Println(err)
	// Output:
	// retry timeout
	// stopped after 10ms: the warehouse does not answer
}

// OneLine makes any text fit for a log or a header.
func ExampleOneLine() {
	fmt.Println(handlers.OneLine("first line\n\tsecond line\x00", 100))
	fmt.Println(handlers.OneLine("a text that is too long", 13))
	// Output:
	// first line second line
	// a text tha…
}
