package cli

import (
	"fmt"
	"testing"
	"time"

	"usher/engine"
)

// A message runs in one engine and is stopped by way of another: both share a broker
// and one file of records.
func TestAMessageThatRunsElsewhereIsStopped(t *testing.T) {
	one, two, state := newUsher(t), newUsher(t), t.TempDir()
	two.stomp = one.stomp
	one.hasAssassin()
	two.hasAssassin()
	one.run(roleEngine, state, fmt.Sprintf("embedded: {stomp: %q}", one.stomp))
	two.run(roleEngine, state, fmt.Sprintf("broker: {urls: [%q]}", "stomp://"+one.stomp))
	one.wantCLI(exitNotFound, "not seen", "msg", "cancel", "m")
	for i := range 4 { // some run in one, some in the other
		id := fmt.Sprint("m-", i)
		one.wantCLI(0, "", "send", "report.daily", "--id", id)
		other := two
		one.eventually(10*time.Second, "running "+id, func() bool {
			if m := two.message(id); m.Live != nil && m.Live.State == engine.Processing {
				other = one
				return true
			}
			m := one.message(id)
			return m.Live != nil && m.Live.State == engine.Processing
		})
		began := time.Now()
		other.wantCLI(0, id+" is cancelled", "msg", "cancel", id, "--running")
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s was stopped after %v", id, took)
		}
		other.wantCLI(exitConflict, "finished", "msg", "cancel", id, "--running")
	}
	two.stop()
	one.stop()
}
