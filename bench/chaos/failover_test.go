package chaos

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

// backAfterFailover is how long it may take from when the standby opens until the
// first effect.
const backAfterFailover = 10 * time.Second

// TestFailover kills the active one of two brokers under load, as Amazon MQ's are: on the
// same files, of which one has the lock.
func TestFailover(t *testing.T) {
	r := newRig(t)
	active := r.broker
	standby := active.Standby(t)
	for i, name := range []string{"a", "b"} {
		r.engines[i] = newProcess(t, name, r.dir, active.Address(), slots) // without a proxy
		r.engines[i].rewrite(fmt.Sprintf(`urls: ["stomp://%s"]`, active.Address()), fmt.Sprintf(`urls: ["stomp://%s", "stomp://%s"]`, active.Address(), standby.Address()))
	}
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: 20 * time.Millisecond, Seed: 1, Standby: standby.Address()}, 4)
	pause(2 * time.Second)
	opened := opens(t, standby.Address())
	active.Kill(t)
	open := <-opened
	var done map[string]time.Time
	eventually(t, time.Minute, "the first effect", func() bool {
		done = effectsSince(t, r.effects(), open, func(string) bool { return true })
		return len(done) > 0
	})
	first := slices.MinFunc(slices.Collect(maps.Values(done)), time.Time.Compare).Sub(open)
	r.ready()
	pause(2 * time.Second)
	stop()
	r.settled(l, table)
	r.broker, r.address = standby, standby.Address()
	closed(t, r, l, table, fmt.Sprintf("first effect %v after the standby opened", first.Round(time.Millisecond)))
	if first > backAfterFailover {
		t.Errorf("the first effect came %v after the standby had opened, want at most %v", first, backAfterFailover)
	}
}
