package chaos

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"usher/engine/enginetest/crash"
	"usher/engine/enginetest/ledger"
	"usher/server"
)

var (
	deaths = flag.Int("deaths", 1, "how often an engine dies at each place between two steps that last")
	pairs  = flag.Int("pairs", 10, "how often two engines die at two such places")
)

// place is one between two steps that last.
type place struct {
	call, side string
}

func places() (all []place) {
	for _, call := range crash.Calls() {
		all = append(all, place{call, "before"}, place{call, "after"})
	}
	return all
}

func (p place) String() string { return p.side + " " + p.call }

// buildMortal builds an usher that can be told where to die.
func buildMortal(t *testing.T) string {
	t.Helper()
	mortal := filepath.Join(t.TempDir(), "usher")
	if out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", mortal, "usher").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return mortal
}

// TestAnEngineMayDieAtEveryPlace has one engine of two die before and after each call
// that changes something, and then both of them at two places, under load.
func TestAnEngineMayDieAtEveryPlace(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64N(1_000_000) + 1
	}
	random := rand.New(rand.NewPCG(*seed, 1))
	mortal := buildMortal(t)
	r := newRig(t)
	for _, e := range r.engines {
		e.binary = mortal
		e.rewrite("drain: 5s}", "drain: 5s, parkAfter: 1s}")
		e.rewrite("retry: {attempts: 2, backoff: 50ms}}", "retry: {attempts: 2, backoff: 50ms, redeliveries: [1500ms]}}")
		e.rewrite("report.daily:  {plugin: shop, priority: 2}", "report.daily:  {plugin: shop, priority: 2, delay: {default: 1500ms}}")
	}
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: 20 * time.Millisecond, Seed: *seed}, 4)
	died := 0
	for range *deaths {
		all := places()
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for n, at := range all {
			e := r.engines[n%len(r.engines)]
			e.stop()
			e.startToDie(at, random)
			e.dies(at)
			died++
			e.start()
			r.ready()
		}
	}
	for range *pairs {
		all := places()
		one, two := all[random.IntN(len(all))], all[random.IntN(len(all))]
		t.Logf("both die: %v and %v", one, two)
		a, b := r.engines[0], r.engines[1]
		a.stop()
		b.stop()
		a.startToDie(one, random)
		b.startToDie(two, random)
		a.dies(one)
		b.dies(two)
		died += 2
		r.start()
		pause(2 * time.Second) // what was in hand runs alone, and is not there in three deaths
	}
	stop()
	r.settled(l, table)
	for _, e := range r.engines {
		e.stop()
	}
	a, err := l.Close(t.Context(), ledger.Evidence{Effects: r.effects(), Broker: r.broker.Address(), Table: table, Archive: table, Redriven: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ledger after %d deaths, -seed %d: %v", died, *seed, a)
	t.Attr("measured", fmt.Sprintf("%d deaths; %s", died, a.Counts()))
	if a.Lost != 0 || a.Unexpected != 0 || a.Acknowledged < 10*died {
		t.Errorf("lost %d, unexpected %d, acknowledged %d; want 0, 0 and at least %d", a.Lost, a.Unexpected, a.Acknowledged, 10*died)
	}
	if most := died*slots + a.Unanswered; a.Duplicated > most {
		t.Errorf("%d came twice, want at most the %d that were in flight", a.Duplicated, most)
	}
}

// startToDie starts it, to die one of the first times it comes to a place.
func (p *process) startToDie(at place, random *rand.Rand) {
	p.t.Helper()
	p.env = []string{fmt.Sprintf("USHER_CRASH_AT=%s,%s,%d", at.call, at.side, 1+random.IntN(5))}
	p.start()
	p.env = nil
}

// dies waits until it has, and gives it all that it could die of.
func (p *process) dies(at place) {
	p.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		select {
		case err := <-p.exited:
			exit, is := errors.AsType[*exec.ExitError](err)
			if !is || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				p.t.Fatalf("engine %s ended by itself, and not %v: %v", p.name, at, err)
			}
			p.cmd = nil
			return
		case <-tick.C:
			p.redriveOne()
		case <-deadline:
			p.t.Fatalf("engine %s has not died %v", p.name, at)
		}
	}
}

// redriveOne has it redrive a dead letter, if there is one.
func (p *process) redriveOne() {
	p.t.Helper()
	var dead server.LetterList
	if p.get("/api/v1/dead?limit=1", &dead) != http.StatusOK || len(dead.Items) == 0 {
		return
	}
	resp, err := http.Post("http://"+p.http+"/api/v1/dead/"+dead.Items[0].Key+"/redrive", "application/json", nil)
	if err == nil {
		resp.Body.Close()
	}
}

// rewrite changes its configuration, for when it starts again.
func (p *process) rewrite(old, now string) {
	p.t.Helper()
	text, err := os.ReadFile(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		p.t.Fatalf("the configuration does not say %q", old)
	}
	if err := os.WriteFile(p.config, bytes.ReplaceAll(text, []byte(old), []byte(now)), 0o600); err != nil {
		p.t.Fatal(err)
	}
}
