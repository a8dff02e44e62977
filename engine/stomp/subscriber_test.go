package stomp_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

// subscribe makes a Subscriber and runs it until the test ends.
func subscribe(t *testing.T, c stomp.Config, queues ...string) *stomp.Subscriber {
	t.Helper()
	s, err := stomp.NewSubscriber(c, queues)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func TestASubscriberTakesEachQueueByItself(t *testing.T) {
	s := serve(t, nil)
	c := s.config()
	c.Window = 7
	sub := subscribe(t, c, "usher.dead", "DLQ.usher.work")
	var conn *fakeConn
	for i, queue := range []string{"usher.dead", "DLQ.usher.work"} {
		f := s.next(frame.SUBSCRIBE)
		conn = f.c
		for name, want := range map[string]string{
			"destination": "/queue/" + queue, "id": "queue-" + strconv.Itoa(i), "ack": "client-individual", "activemq.prefetchSize": "7",
		} {
			if got := f.Header.Get(name); got != want {
				t.Errorf("SUBSCRIBE %d has %s:%s, want %s", i, name, got, want)
			}
		}
	}
	conn.message("queue-1", "m1")
	for batch := (engine.Batch{}); len(batch.Deliveries) == 0; {
		var err error
		if batch, err = sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, d := range batch.Deliveries {
			if queue := sub.Queue(d); queue != "DLQ.usher.work" {
				t.Errorf("it came from %s", queue)
			}
			if err := sub.Ack(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if f := s.next(frame.ACK); f.Header.Get("id") != "ack-m1" {
		t.Errorf("ACK %v", f.Header)
	}
}

func TestASubscriberNeedsQueues(t *testing.T) {
	if _, err := stomp.NewSubscriber(serve(t, nil).config(), nil); err == nil {
		t.Error("there are none, and it was made")
	}
}

// What is left in a queue takes a place of its window in each session. When most
// are taken, the others must come all the same.
func TestWhatIsLeftInAQueueKeepsNothingFromComing(t *testing.T) {
	e := startEmbedded(t)
	config := stomp.Config{URLs: []string{"stomp://" + e.Address()}, Window: 4, Log: zerolog.Nop()}
	client, err := stomp.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const large, small = 21, 5
	for i := range large + small {
		kind := "large"
		if i >= large {
			kind = "small"
		}
		if err := client.Send(t.Context(), engine.Outgoing{Queue: "q", Headers: map[string]string{"kind": kind, engine.HeaderID: strconv.Itoa(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	sub := subscribe(t, config, "q", "other")
	came := map[string]int{} // how often, by id
	took, sessions, total := 0, uint64(0), 0
	for took < small {
		batch, err := sub.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sessions = max(sessions, batch.Epoch)
		for _, d := range batch.Deliveries {
			came[d.Headers[engine.HeaderID]]++
			total++
			if d.Headers["kind"] == "large" {
				sub.Leave(d)
				continue
			}
			if err := sub.Ack(d); err != nil {
				t.Fatal(err)
			}
			took++
		}
	}
	if len(came) != large+small || sessions > 5 || total > 3*large {
		t.Errorf("%d messages came, %d times in %d sessions: %s", len(came), total, sessions, fmt.Sprint(came))
	}
}
