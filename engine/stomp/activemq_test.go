package stomp_test

import (
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

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

// purge empties every queue that the suite uses.
func purge(t *testing.T, address string) {
	t.Helper()
	client, err := stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + address}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	queues := []string{engine.WorkQueue, engine.DeadQueue, "DLQ." + engine.WorkQueue, "stuck", "independent.10", "independent.11", "independent.12"}
	for level := range engine.Levels {
		lane := engine.WorkQueue + ".p" + strconv.Itoa(level)
		queues = append(queues, lane, "DLQ."+lane)
	}
	var wg sync.WaitGroup
	for _, queue := range queues {
		wg.Go(func() {
			view := stomp.View{Queue: queue, Window: 1000, Quiet: 150 * time.Millisecond}
			err := client.Consume(t.Context(), view, func(engine.Delivery) (bool, error) { return true, nil })
			if err != nil {
				t.Errorf("purge %s: %v", queue, err)
			}
		})
	}
	wg.Wait()
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
}

func TestBrokerConforms(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		enginetest.RunBroker(t, enginetest.BrokerHarness{
			Start: func(t *testing.T) enginetest.BrokerServer { return startEmbedded(t) },
		})
	})
}
