package chaos

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/engine/enginetest/ledger"
)

// TestAnEngineWithoutFilesComesBack takes the engine's right to open files, and then its
// connections and its plugin; with files it is back, and nothing is lost.
func TestAnEngineWithoutFilesComesBack(t *testing.T) {
	r := newRig(t)
	r.engines, r.mortal = r.engines[:1], r.engines[:1]
	e := r.engines[0]
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: 20 * time.Millisecond, Seed: 1}, 4)
	pause(time.Second)
	plugin := e.plugin()
	before := e.mayOpen(8)
	if err := unix.Kill(plugin, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.proxies[0].Cut(true)
	pause(3 * time.Second)
	done := len(r.done(t, "order.rush"))
	e.mayOpen(before)
	r.ready()
	eventually(t, time.Minute, "at work again", func() bool { return len(r.done(t, "order.rush")) > done })
	stop()
	r.settled(l, table)
	closed(t, r, l, table, "8 files for 3 s")
}

// mayOpen changes how many files it may have open, and gives what it was before.
func (p *process) mayOpen(files uint64) (before uint64) {
	p.t.Helper()
	var limit unix.Rlimit
	err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit)
	if err == nil {
		before, limit.Cur = limit.Cur, files
		err = unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return before
}

// TestAnEngineThatCannotLogGoesOn has its log on a disk that is full.
func TestAnEngineThatCannotLogGoesOn(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r := newRig(t)
	for _, e := range r.engines {
		e.log = full
	}
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: 20 * time.Millisecond, Seed: 1}, 4)
	pause(3 * time.Second)
	stop()
	r.settled(l, table)
	closed(t, r, l, table, "every line lost")
}
