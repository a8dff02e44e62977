package chaos

import (
	"fmt"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

// TestABrokerWhoseStoreIsFull: producers wait while it is, and what engines finish makes
// room, though some of what they do needs room itself.
func TestABrokerWhoseStoreIsFull(t *testing.T) {
	r := newRigOn(t, edited(
		"<kahaDB ", `<kahaDB journalMaxFileLength="256kb" cleanupInterval="500" checkpointInterval="500" `,
		"</broker>", `<systemUsage><systemUsage><storeUsage><storeUsage limit="4 mb"/></storeUsage></systemUsage></systemUsage></broker>`,
	))
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: time.Millisecond, Seed: 1, Padding: 8 << 10}, 8)
	filled, since := 0, time.Now()
	eventually(t, 2*time.Minute, "nothing acknowledged any more", func() bool {
		if n := len(l.Acknowledged()); n > filled {
			filled, since = n, time.Now()
		}
		return time.Since(since) > 4*time.Second
	})
	r.start()
	began := time.Now()
	eventually(t, time.Minute, "producers are answered again", func() bool { return len(l.Acknowledged()) > filled+200 })
	again := time.Since(began)
	stop()
	table := r.openRecords()
	r.settled(l, table)
	closed(t, r, l, table, fmt.Sprintf("%d filled it, producers answered again after %.1f s", filled, again.Seconds()))
}
