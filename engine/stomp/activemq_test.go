package stomp_test

import (
	"io"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/rs/zerolog"

	"usher/deploy/brokerxml"
	"usher/engine"
	"usher/engine/enginetest"
	"usher/engine/enginetest/activemq"
	"usher/engine/stomp"
)

// startActiveMQ starts a real one with the XML that usher writes for it.
func startActiveMQ(t testing.TB) *activemq.Server {
	t.Helper()
	return activemq.Start(t, func(w io.Writer, address, data string) error {
		return brokerxml.Write(w, brokerxml.Options{STOMP: address, Data: data})
	})
}

// purge empties every queue that the suite uses, and sees that the broker has no
// message left: what a consumer had in hand comes back only when the broker has
// noticed that it is gone.
func purge(t *testing.T, address string) {
	t.Helper()
	client, err := stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + address}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	queues := enginetest.BrokerQueues()
	for _, queue := range enginetest.BrokerQueues() {
		queues = append(queues, "DLQ."+queue)
	}
	deadline := time.Now().Add(time.Minute)
	for left := brokerSize(t, address); left > 0; left = brokerSize(t, address) {
		if time.Now().After(deadline) {
			t.Fatalf("the broker still has %d messages", left)
		}
		var wg sync.WaitGroup
		for _, queue := range queues {
			wg.Go(func() {
				view := stomp.View{Queue: queue, Window: 500, Quiet: 100 * time.Millisecond}
				err := client.Consume(t.Context(), view, func(engine.Delivery) (bool, error) { return true, nil })
				if err != nil {
					t.Errorf("purge %s: %v", queue, err)
				}
			})
		}
		wg.Wait()
	}
}

// brokerSize is how many messages the broker has, in all queues together.
func brokerSize(t *testing.T, address string) int {
	t.Helper()
	conn, err := gostomp.Dial("tcp", address, gostomp.ConnOpt.HeartBeat(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.MustDisconnect() //nolint:errcheck // the answer is there, or the test has failed
	sub, err := conn.Subscribe("/temp-queue/size", gostomp.AckAuto, gostomp.SubscribeOpt.Header("transformation", "jms-map-json"))
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Send("/queue/ActiveMQ.Statistics.Broker", "", nil, gostomp.SendOpt.Header("reply-to", "/temp-queue/size"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-sub.C:
		if m.Err != nil {
			t.Fatal(m.Err)
		}
		found := regexp.MustCompile(`"string":"size","long":(\d+)`).FindSubmatch(m.Body)
		if found == nil {
			t.Fatalf("no size in %s", m.Body)
		}
		size, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		return size
	case <-time.After(time.Minute):
		t.Fatal("the broker does not say how many messages it has")
		return 0
	}
}

func TestActiveMQ(t *testing.T) {
	began := time.Now()
	server := startActiveMQ(t)
	t.Logf("ActiveMQ %s started in %v", server.Version(), time.Since(began).Round(time.Millisecond))
	t.Run("Conforms", func(t *testing.T) {
		t.Attr("backend", "ActiveMQ "+server.Version())
		enginetest.RunBroker(t, enginetest.BrokerHarness{Start: func(t *testing.T) enginetest.BrokerServer {
			purge(t, server.Address())
			return server
		}})
	})
	t.Run("TellsHowOldALaneIs", func(t *testing.T) { testOldest(t, server) })
	t.Run("OrderlyRestartKeepsMessages", func(t *testing.T) { testOrderlyRestart(t, server) })
}

// testOldest has some messages in one lane, whose first is the oldest.
func testOldest(t *testing.T, server *activemq.Server) {
	t.Helper()
	purge(t, server.Address())
	b := run(t, stomp.Config{URLs: []string{"stomp://" + server.Address()}, Log: zerolog.Nop()})
	until(t, b, 1)
	began := time.Now().Add(-time.Millisecond) // the broker tells milliseconds
	publish := func() {
		if err := b.Publish(t.Context(), engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderPriority: "3"}}); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	first := time.Now()
	for range 5 {
		publish()
	}
	for range 2 { // the second answer tells what the first one did
		depths, err := b.Depths(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if oldest := depths.Lanes[3].Oldest; oldest.Before(began) || oldest.After(first) {
			t.Errorf("the oldest of lane 3 came at %v, and was sent between %v and %v", oldest, began, first)
		}
		for lane, depth := range depths.Lanes {
			if lane != 3 && !depth.Oldest.IsZero() {
				t.Errorf("lane %d is empty, and its oldest came at %v", lane, depth.Oldest)
			}
		}
	}
}

// The suite's restarts are crashes.
func testOrderlyRestart(t *testing.T, server *activemq.Server) {
	t.Helper()
	purge(t, server.Address())
	b := run(t, stomp.Config{URLs: []string{"stomp://" + server.Address()}, Log: zerolog.Nop()})
	until(t, b, 1)
	for i := range 20 {
		out := engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(strconv.Itoa(i)), Headers: map[string]string{engine.HeaderPriority: strconv.Itoa(i % engine.Levels)}}
		if err := b.Publish(t.Context(), out); err != nil {
			t.Fatal(err)
		}
	}
	inHand := map[string]bool{}
	for _, d := range deliveries(t, b, 20) {
		inHand[d.BrokerID] = true
	}
	server.Stop(t)
	server.Run(t)
	until(t, b, 0)
	for _, d := range deliveries(t, b, 20) {
		if !inHand[d.BrokerID] || !d.Redelivered {
			t.Errorf("message %q came again as %s, redelivered %v", d.Body, d.BrokerID, d.Redelivered)
		}
	}
}

func TestBrokerConforms(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		enginetest.RunBroker(t, enginetest.BrokerHarness{
			Start:    func(t *testing.T) enginetest.BrokerServer { return startEmbedded(t) },
			Features: enginetest.EmbeddedFeatures(),
		})
	})
}
