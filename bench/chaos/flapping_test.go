package chaos

import (
	"bufio"
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

var flaps = flag.Int("flaps", 10, "how often the broker goes and comes, at least 4 times")

// TestABrokerThatComesAndGoesCostsNothingThatStays lets an engine's connections be cut
// and refused for a second, again and again, and counts what it has open in the end.
func TestABrokerThatComesAndGoesCostsNothingThatStays(t *testing.T) {
	r := newRig(t)
	r.engines, r.proxies = r.engines[:1], r.proxies[:1]
	e, proxy := r.engines[0], r.proxies[0]
	e.start()
	e.ready()
	table := r.openRecords()
	flap := func() {
		proxy.Refuse(true)
		proxy.Cut(true)
		pause(time.Second)
		proxy.Refuse(false)
		e.ready()
		pause(time.Second)
	}
	flap()
	l, stop := r.load(ledger.Config{Kinds: []ledger.Kind{{Type: "order.rush"}}, Every: 20 * time.Millisecond, Seed: 1}, 2)
	flap()
	stop()
	r.settled(l, table)
	files, goroutines := e.files(), e.goroutines() // what is opened when it is first needed is open
	stop = r.produce(l, "again", 2)
	for range *flaps {
		flap()
	}
	stop()
	r.settled(l, table)
	var filesAfter, goroutinesAfter int
	few := *flaps / 2 // what stays is one each time
	eventually(t, time.Minute, "about as many files and goroutines as before", func() bool {
		filesAfter, goroutinesAfter = e.files(), e.goroutines()
		return filesAfter < files+few && goroutinesAfter < goroutines+few
	})
	closed(t, r, l, table, fmt.Sprintf("%d times; %d files and %d goroutines, before %d and %d", *flaps, filesAfter, goroutinesAfter, files, goroutines))
}

// files is how many it has open.
func (p *process) files() int {
	p.t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(open)
}

// goroutines is how many it has.
func (p *process) goroutines() int {
	p.t.Helper()
	return int(p.metric("go_goroutines"))
}

// metric is one without labels, as it says itself.
func (p *process) metric(name string) (value float64) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.http + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), name+" %g", &value); err == nil {
			return value
		}
	}
	p.t.Fatalf("its metrics have no %s", name)
	return 0
}
