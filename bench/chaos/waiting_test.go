package chaos

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

var (
	away  = flag.Duration("away", 10*time.Second, "how long the receiver of webhooks is away")
	flood = flag.Duration("flood", 15*time.Second, "how long more urgent messages come than can be run")
)

// TestAnUrgentFloodLeavesLowerLevelsTheirShare sends more messages of level 9 than both
// engines can run, and looks at how many of level 2 are done meanwhile.
func TestAnUrgentFloodLeavesLowerLevelsTheirShare(t *testing.T) {
	const share = 0.05 // of 0.06 that are configured
	r := newRig(t)
	for _, e := range r.engines {
		e.rewrite("types:", "starvation: {share: 6%}\ntypes:")
		e.rewrite("report.daily:  {plugin: shop, priority: 2}", "report.daily:  {plugin: shop}")
	}
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: []ledger.Kind{{Type: "report.daily", Level: 9}}, Every: 15 * time.Millisecond, Seed: 1}, 6)
	stopLow := r.produce(l, "low", 1, ledger.Kind{Type: "report.daily", Level: 2})
	pause(3 * time.Second) // until the flood is up
	from := time.Now()
	pause(*flood)
	urgent, low := 0, 0
	for _, e := range r.done(t, "report.daily") {
		switch {
		case e.At.Before(from):
		case strings.HasPrefix(e.ID, "low"):
			low++
		default:
			urgent++
		}
	}
	waiting := len(unfinished(t, table, l.Acknowledged()))
	stop()
	stopLow()
	r.settled(l, table)
	got := float64(low) / float64(low+urgent)
	closed(t, r, l, table, fmt.Sprintf("in %v %d urgent ones and %d others were done, %.1f %%, with %d waiting", *flood, urgent, low, 100*got, waiting))
	if got < share || waiting < 200 {
		t.Errorf("%.1f %% of what was done was of the lower level, with %d waiting; want at least %.0f %% and 200", 100*got, waiting, 100*share)
	}
}

// TestTenThousandDueAtOnceKeepNoUrgentOneWaiting parks so many for one and the same time,
// and sends urgent ones while those come back.
func TestTenThousandDueAtOnceKeepNoUrgentOneWaiting(t *testing.T) {
	const many = 10_000
	r := newRig(t)
	for _, e := range r.engines {
		e.rewrite("drain: 5s}", "drain: 5s, parkAfter: 1s}")
	}
	r.start()
	table := r.openRecords()
	due := time.Now().Add(40 * time.Second)
	l, stop := r.load(ledger.Config{Kinds: []ledger.Kind{{Type: "receipt.email", Level: 2, Due: due}}, Every: 2 * time.Millisecond, Seed: 1}, 8)
	eventually(t, time.Until(due), "all of them sent before they are due", func() bool { return len(l.Acknowledged()) >= many })
	stop()
	pause(time.Until(due))
	stop = r.produce(l, "urgent", 1, ledger.Kind{Type: "order.rush", Level: 9})
	sent, most := 0, 0
	eventually(t, 2*time.Minute, "all that were due done", func() bool {
		pause(250 * time.Millisecond) // looking is work as well
		sent = len(l.Acknowledged("order.rush"))
		most = max(most, sent-len(r.done(t, "order.rush")))
		return len(r.done(t, "receipt.email")) >= many
	})
	took := time.Since(due)
	stop()
	r.settled(l, table)
	if first := slices.MinFunc(r.done(t, "receipt.email"), func(a, b ledger.Effect) int { return a.At.Compare(b.At) }).At; first.Before(due) {
		t.Errorf("the first of them was done %v before it was due", due.Sub(first))
	}
	closed(t, r, l, table, fmt.Sprintf("all done %v after they were due; of %d urgent ones at most %d waited at a time", took.Round(time.Millisecond), sent, most))
	// Behind the others there would wait all that were sent.
	if sent < 50 || most > sent/4 {
		t.Errorf("of %d urgent messages %d waited at a time; want at least 50 of them, and at most a fourth waiting", sent, most)
	}
}

// done are the effects of a type.
func (r *rig) done(t *testing.T, kind string) (of []ledger.Effect) {
	t.Helper()
	for _, path := range r.effects() {
		effects, err := ledger.ReadEffects(path)
		if err != nil {
			t.Fatal(err)
		}
		of = append(of, slices.DeleteFunc(effects, func(e ledger.Effect) bool { return e.Type != kind })...)
	}
	return of
}

// TestAReceiverThatIsAwayCostsNothing: the receiver of one type's webhooks is away for a
// while. Nothing of it is dead, for the breaker opens before any has had its three
// attempts, and messages of other types are done as before.
func TestAReceiverThatIsAwayCostsNothing(t *testing.T) {
	r := newRig(t)
	to := &receiver{t: t, address: freeAddress(t), path: filepath.Join(r.dir, "receiver.effects")}
	for _, e := range r.engines {
		e.rewrite("types:", "types:\n  order.paid: {plugin: hooks, breaker: 2, retry: {backoff: 1s}}")
		e.rewrite("plugins:", fmt.Sprintf(`plugins:
  hooks:
    command: [usher, plugin, serve, webhook]
    env: {WEBHOOK_URLS: order.paid=http://%s/, WEBHOOK_ALLOW_HTTP: "true", WEBHOOK_ALLOW_NETWORKS: 127.0.0.0/8, WEBHOOK_UNSIGNED: "true"}`, to.address))
	}
	to.comes()
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: []ledger.Kind{{Type: "order.paid"}, {Type: "order.rush"}}, Every: 20 * time.Millisecond, Seed: 1}, 4)
	r.files = append(r.files, to.path)
	received := func() int { return len(r.done(t, "order.paid")) }
	eventually(t, time.Minute, "webhooks received", func() bool { return received() > 50 })
	to.goes()
	before := received()
	pause(*away)
	others := l.Acknowledged("order.rush")
	left := unfinished(t, table, others)
	if after := received(); after != before {
		t.Fatalf("the receiver that is away has had %d messages", after-before)
	}
	to.comes()
	eventually(t, time.Minute, "webhooks received again", func() bool { return received() > before+50 })
	stop()
	r.settled(l, table)
	a := closed(t, r, l, table, fmt.Sprintf("away for %v; of %d others all but %d were done by then", *away, len(others), len(left)))
	if a.Dead > 0 || len(left) > len(others)/20 {
		t.Errorf("%d are dead, and %d of %d others were not done; want none, and at most a twentieth", a.Dead, len(left), len(others))
	}
}

// receiver is somebody's server that takes webhooks, and writes down what it got as
// plugins do.
type receiver struct {
	t       *testing.T
	address string
	path    string // of its effects
	server  *http.Server
	mu      sync.Mutex // guards the file
}

// ServeHTTP takes a message.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		id := url.PathEscape(req.Header.Get("Idempotency-Key"))
		_, err = fmt.Fprintln(f, id, id, req.Header.Get("Usher-Type"), req.Header.Get("Usher-Attempt"), time.Now().UnixNano())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		r.t.Error(err)
		w.WriteHeader(http.StatusInternalServerError)
	}
}

func (r *receiver) comes() {
	r.t.Helper()
	ln, err := net.Listen("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func(s *http.Server) { _ = s.Serve(ln) }(r.server) // it ends with Close
	r.t.Cleanup(r.goes)
}

func (r *receiver) goes() {
	r.t.Helper()
	if err := r.server.Close(); err != nil {
		r.t.Error(err)
	}
}
