package chaos

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/engine/stomp"
	"usher/server"
)

var letters = flag.Int("letters", 5000, "how many dead letters nobody has looked after")

// TestADeadLetterQueueThatNobodyLookedAfter: what has piled up there is archived, in little
// memory, though nobody can be told.
func TestADeadLetterQueueThatNobodyLookedAfter(t *testing.T) {
	const mayHold = 64 << 20 // more than without letters
	r := newRig(t)
	r.engines = r.engines[:1]
	e := r.engines[0]
	e.rewrite("types:", "monitor: {webhook: {url: \"http://127.0.0.1:1/\"}}\ntypes:")
	r.start()
	idle := e.memory()
	e.stop()
	r.put(*letters, func(i int) engine.Outgoing { // of twenty kinds of failure
		return engine.Outgoing{Queue: engine.DeadQueue, Body: bytes.Repeat([]byte("x"), 2<<10), Headers: map[string]string{
			engine.HeaderID: "dead-" + strconv.Itoa(i), engine.HeaderType: "order.rush", engine.HeaderHop: "1",
			engine.HeaderDeadReason: engine.ReasonExhausted, engine.HeaderDeadDetail: "the store in aisle " + string(rune('A'+i%20)) + " is closed",
		}}
	})
	began := time.Now()
	r.start()
	most := idle
	eventually(t, 30*time.Minute, "all letters archived", func() bool {
		most = max(most, e.memory())
		var tally server.TallyList
		return e.get("/api/v1/dead/tally", &tally) == http.StatusOK && tally.Total == *letters
	})
	took := time.Since(began)
	eventually(t, time.Minute, "an empty queue", func() bool { return e.idle() })
	t.Attr("measured", fmt.Sprintf("%d letters in %v; %+d MiB at the most", *letters, took.Round(time.Second), (most-idle)>>20))
	if most > idle+mayHold {
		t.Errorf("it held %d MiB, and %d without letters; want at most %d more", most>>20, idle>>20, mayHold>>20)
	}
}

// put puts messages into the broker.
func (r *rig) put(n int, message func(i int) engine.Outgoing) {
	r.t.Helper()
	const senders = 8
	var all errgroup.Group
	for s := range senders {
		all.Go(func() error {
			client, err := stomp.Dial(r.t.Context(), stomp.Config{URLs: []string{"stomp://" + r.address}, Log: zerolog.Nop()})
			if err != nil {
				return err
			}
			defer client.Close()
			for i := s; i < n; i += senders {
				if err := client.Send(r.t.Context(), message(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		r.t.Fatal(err)
	}
}
