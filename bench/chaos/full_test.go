package chaos

import (
	"fmt"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

// littleRoom is a broker that stores 4 MiB, in files of 256 KiB that it looks through
// twice a second for those in which nothing is left.
func littleRoom() []string {
	return []string{
		"<kahaDB ", `<kahaDB journalMaxFileLength="256kb" cleanupInterval="500" checkpointInterval="500" `,
		"</broker>", `<systemUsage><systemUsage><storeUsage><storeUsage limit="4 mb"/></storeUsage></systemUsage></systemUsage></broker>`,
	}
}

// fill has producers send to a broker until it takes no more, and go on trying.
func (r *rig) fill(kinds ...ledger.Kind) (l *ledger.Ledger, taken int, stop func()) {
	r.t.Helper()
	l, stop = r.load(ledger.Config{Kinds: kinds, Seed: 1}, 8)
	last := time.Now()
	eventually(r.t, 2*time.Minute, "a full store", func() bool {
		if now := len(l.Acknowledged()); now != taken {
			taken, last = now, time.Now()
		}
		return time.Since(last) > 4*time.Second
	})
	return l, taken, stop
}

// TestABrokerWhoseStoreIsFull: acks need no room, so that engines make some, and producers
// are answered again.
func TestABrokerWhoseStoreIsFull(t *testing.T) {
	r := newRigOn(t, edited(littleRoom()...))
	l, taken, stop := r.fill(ledger.Kind{Type: "order.rush"})
	r.start()
	table := r.openRecords()
	eventually(t, time.Minute, "producers answered again", func() bool { return len(l.Acknowledged()) > taken+100 })
	stop()
	r.settled(l, table)
	closed(t, r, l, table, fmt.Sprintf("full with %d messages", taken))
}
