package chaos

import (
	"fmt"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

// aStoreOf is a broker that stores so much, in files of 256 KiB that it looks through
// twice a second for those in which nothing is left.
func aStoreOf(room string) []string {
	return []string{
		"<kahaDB ", `<kahaDB journalMaxFileLength="256kb" cleanupInterval="500" checkpointInterval="500" `,
		"</broker>", `<systemUsage><systemUsage><storeUsage><storeUsage limit="` + room + `"/></storeUsage></systemUsage></systemUsage></broker>`,
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
	r := newRigOn(t, edited(aStoreOf("4 mb")...))
	l, taken, stop := r.fill(ledger.Kind{Type: "order.rush"})
	r.start()
	table := r.openRecords()
	eventually(t, time.Minute, "producers answered again", func() bool { return len(l.Acknowledged()) > taken+100 })
	stop()
	r.settled(l, table)
	closed(t, r, l, table, fmt.Sprintf("full with %d messages", taken))
}

// TestDeadLettersWaitForRoom: in a store that is full what would be dead stays as it is,
// and what is done is acked. With room there is an end to all of it.
func TestDeadLettersWaitForRoom(t *testing.T) {
	r := newRigOn(t, edited(aStoreOf("4 mb")...))
	rush := ledger.Kind{Type: "order.rush"}
	l, taken, stop := r.fill(rush, rush, rush, ledger.Kind{Type: "address.check", Ends: ledger.Dead})
	r.start()
	table := r.openRecords()
	var left []string
	still, n := time.Now(), 0
	eventually(t, time.Minute, "nothing but dead letters waiting", func() bool {
		left = unfinished(t, table, l.Acknowledged())
		if len(left) != n {
			n, still = len(left), time.Now()
		}
		return len(left) < taken*3/10 && time.Since(still) > 2*time.Second
	})
	inHand := r.engines[0].queues().InHand + r.engines[1].queues().InHand
	if inHand < len(left) {
		t.Errorf("%d are not finished, and %d in hand", len(left), inHand)
	}
	waited := len(l.Acknowledged())
	r.broker.Configure(t, edited(aStoreOf("1 gb")...))
	r.broker.Kill(t)
	r.broker.Run(t)
	open := time.Now()
	eventually(t, time.Minute, "producers answered", func() bool { return len(l.Acknowledged()) > waited+100 })
	stop()
	eventually(t, time.Minute, "an end to some of what waited", func() bool { return len(unfinished(t, table, left)) < len(left) })
	took := time.Since(open).Round(time.Millisecond)
	r.settled(l, table)
	closed(t, r, l, table, fmt.Sprintf("full with %d messages; %d dead letters waited, producers and they went on %v after there was room", taken, len(left), took))
}
