package stomp_test

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/engine/stomp"
)

// activeMQAddr names the environment variable with the host:port where a real
// ActiveMQ speaks STOMP, to run the suite on it as well. Its XML has the lanes,
// the scheduler, the statistics plugin, and individual dead-letter queues.
const activeMQAddr = "ACTIVEMQ_TEST_ADDR"

// activeMQ is one that runs already.
type activeMQ string

func (a activeMQ) Address() string { return string(a) }

func (a activeMQ) Restart(t *testing.T) { t.Fatal("this broker cannot be restarted from here") }

// purge empties every queue that the suite uses.
func (a activeMQ) purge(t *testing.T) {
	t.Helper()
	client, err := stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + string(a)}, Log: zerolog.Nop()})
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

func TestBrokerConforms(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		enginetest.RunBroker(t, enginetest.BrokerHarness{
			Start: func(t *testing.T) enginetest.BrokerServer { return startEmbedded(t) },
		})
	})
	if addr := os.Getenv(activeMQAddr); addr != "" {
		t.Run("ActiveMQ", func(t *testing.T) {
			enginetest.RunBroker(t, enginetest.BrokerHarness{
				Start: func(t *testing.T) enginetest.BrokerServer {
					activeMQ(addr).purge(t)
					return activeMQ(addr)
				},
				Features: enginetest.BrokerFeatures{NoRestart: true},
			})
		})
	}
}
