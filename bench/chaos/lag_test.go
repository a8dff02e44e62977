package chaos

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

// TestALongLineToTheBroker lets a backlog be done over a line on which each frame takes a
// tenth of a second to three in each direction, beside one that takes no time: what is in
// hand covers the way, and no heart-beat is missed.
func TestALongLineToTheBroker(t *testing.T) {
	const least, most = 100 * time.Millisecond, 300 * time.Millisecond
	r := newRig(t)
	r.engines, r.proxies = r.engines[:1], r.proxies[:1]
	e := r.engines[0]
	l, stop := r.load(ledger.Config{Kinds: []ledger.Kind{{Type: "order.rush"}}, Seed: 1}, 8)
	short := r.backlog(l, stop)
	table := r.openRecords()
	r.settled(l, table)
	e.stop()

	r.proxies[0].Lag(least, most)
	long := r.backlog(l, r.produce(l, "far", 8))
	r.settled(l, table)
	sessions := e.metric("usher_broker_sessions_total")
	closed(t, r, l, table, fmt.Sprintf("%.0f a second on a long line, %.0f on a short one; %.0f session", long, short, sessions))
	if sessions != 1 {
		t.Errorf("%.0f sessions, want the first one kept", sessions)
	}
	if long < short/2 {
		t.Errorf("%.0f a second, and %.0f without a way to go; want at least half of it", long, short)
	}
}

// backlog lets 2,000 messages more come to the broker, then starts the engine, and says how
// many it does in a second when it is under way.
func (r *rig) backlog(l *ledger.Ledger, stop func()) float64 {
	r.t.Helper()
	const n = 2000
	e := r.engines[0]
	before := len(l.Acknowledged())
	eventually(r.t, time.Minute, "a backlog", func() bool { return len(l.Acknowledged()) >= before+n })
	stop()
	done := e.effectCount()
	e.start()
	eventually(r.t, time.Minute, "a tenth of it done", func() bool { return e.effectCount() >= done+n/10 })
	began, first := time.Now(), e.effectCount()
	eventually(r.t, time.Minute, "most of it done", func() bool { return e.effectCount() >= done+n*9/10 })
	return float64(e.effectCount()-first) / time.Since(began).Seconds()
}

// effectCount is how many effects its plugins had, without reading what they were.
func (p *process) effectCount() int {
	p.t.Helper()
	text, err := os.ReadFile(p.effects)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}
