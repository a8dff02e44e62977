package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"usher/engine/enginetest/ledger"
)

var soak = flag.Duration("soak", 30*time.Second, "how long an engine lives through blows; from 30m on, what it keeps may not grow")

const (
	// mayGrow is how much more memory an engine may hold, an hour, in a long soak.
	mayGrow = 1 << 20
	// mayVary is by how much what it holds goes up and down, and what a short soak
	// may add.
	mayVary = 32 << 20
	// mayCache is how much may be not Go's. By their settings SQLite's caches of pages are 8 MiB
	// for the connection that writes and 2 MiB for each of four that read; they fill as the
	// file grows.
	mayCache = (8 + 4*2 + 2) << 20
)

// TestASoakCostsNothingThatStays strikes blows that leave one engine alive, until the time
// is over, and looks at what that one holds in the end.
func TestASoakCostsNothingThatStays(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64N(1_000_000) + 1
	}
	t.Logf("%v, -seed %d", *soak, *seed)
	random := rand.New(rand.NewPCG(*seed, 2))
	r := newRig(t)
	survivor := r.engines[0]
	r.mortal = r.engines[1:]
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: 20 * time.Millisecond, Seed: *seed}, 4)
	next, began := r.deal(random), time.Now()
	var held []sample // of Go's memory
	var cached int64
	files, goroutines := 0, 0
	rounds := 0
	for ; rounds < 3 || time.Since(began) < *soak; rounds++ {
		r.suffers(rounds+1, next(), random)
		ofGo, rest := survivor.memoryByOwner()
		held, cached = append(held, sample{time.Since(began), ofGo}), max(cached, rest)
		t.Logf("it holds %d KiB that are Go's, and %d that are not", ofGo>>10, rest>>10)
		if rounds == 1 {
			files, goroutines = survivor.files(), survivor.goroutines()
		}
	}
	stop()
	r.settled(l, table)
	const few = 20 // what is in flight comes and goes; what stays is one a blow
	filesAfter, goroutinesAfter := 0, 0
	eventually(t, time.Minute, "about as many files and goroutines as before", func() bool {
		filesAfter, goroutinesAfter = survivor.files(), survivor.goroutines()
		return filesAfter < files+few && goroutinesAfter < goroutines+few
	})
	late := held[len(held)/3:] // after it has warmed up
	growth, first, last := slope(late), late[0].bytes, late[len(late)-1].bytes
	long, anHour := *soak >= 30*time.Minute, ""
	if long {
		anHour = fmt.Sprintf(", %+.2f MiB an hour", growth/(1<<20))
	}
	closed(t, r, l, table, fmt.Sprintf("%d blows in %v; Go's memory %d MiB, later %d MiB%s; what is not Go's, at most %d MiB; %d files and %d goroutines, before %d and %d",
		rounds, time.Since(began).Round(time.Second), first>>20, last>>20, anHour, cached>>20, filesAfter, goroutinesAfter, files, goroutines))
	if last > first+mayVary {
		t.Errorf("it holds %d bytes of Go's in the end, and %d after a third of the time; want at most %d more", last, first, mayVary)
	}
	if cached > mayCache {
		t.Errorf("it holds %d bytes that are not Go's, want at most %d", cached, mayCache)
	}
	if long && growth > mayGrow {
		t.Errorf("what it holds grows by %.0f bytes an hour, want at most %d", growth, mayGrow)
	}
}

// sample is how much memory was held when.
type sample struct {
	at    time.Duration
	bytes int64
}

// slope is by how many bytes an hour the samples grow, by least squares.
func slope(samples []sample) float64 {
	var n, sumX, sumY, sumXX, sumXY float64
	for _, s := range samples {
		x, y := s.at.Hours(), float64(s.bytes)
		n, sumX, sumY, sumXX, sumXY = n+1, sumX+x, sumY+y, sumXX+x*x, sumXY+x*y
	}
	return (n*sumXY - sumX*sumY) / (n*sumXX - sumX*sumX)
}

// memory is how much of its own it holds, in bytes, without the pages of files.
func (p *process) memory() int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		p.t.Fatalf("its status does not say what it holds: %v", err)
	}
	return kib << 10
}

// memoryByOwner is the memory it holds that is Go's, in bytes, and the rest of its own.
func (p *process) memoryByOwner() (ofGo, rest int64) {
	p.t.Helper()
	ofGo = int64(p.metric("go_memstats_sys_bytes") - p.metric("go_memstats_heap_released_bytes"))
	return ofGo, max(p.memory()-ofGo, 0)
}
