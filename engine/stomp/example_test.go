package stomp_test

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/broker"
	"usher/engine/stomp"
)

// A message is published, received in the lane of its level, and acked.
func Example() {
	dir, err := os.MkdirTemp("", "usher")
	check(err)
	defer func() { check(os.RemoveAll(dir)) }()
	server, err := broker.Open(broker.Config{Dir: dir, Log: zerolog.Nop()})
	check(err)
	defer server.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()

	b, err := stomp.New(stomp.Config{URLs: []string{"stomp://" + ln.Addr().String()}, Log: zerolog.Nop()})
	check(err)
	ran := make(chan error, 1)
	go func() { ran <- b.Run(ctx) }()
	check(b.Publish(ctx, engine.Outgoing{
		Queue: engine.WorkQueue, Body: []byte(`{"order":7}`),
		Headers: map[string]string{engine.HeaderType: "order.rush", engine.HeaderPriority: "9"},
	}))
	for received := false; !received; {
		batch, err := b.Receive(ctx)
		check(err)
		for _, d := range batch.Deliveries {
			fmt.Printf("lane %d: %s %s\n", d.Lane, d.Headers[engine.HeaderType], d.Body)
			check(b.Ack(d))
			received = true
		}
	}
	check(b.Close())
	check(<-ran)
	cancel()
	check(<-served)
	// Output: lane 9: order.rush {"order":7}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
