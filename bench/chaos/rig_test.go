package chaos

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/deploy/brokerxml"
	"usher/engine/embedded/records"
	"usher/engine/enginetest/activemq"
	"usher/engine/enginetest/faultproxy"
	"usher/engine/enginetest/ledger"
)

// rig is a broker and two engines that share a record table, each behind a proxy.
type rig struct {
	t       testing.TB
	dir     string
	broker  *activemq.Server
	engines []*process
	mortal  []*process          // those of the engines that blows hit
	proxies []*faultproxy.Proxy // by engine
}

// newRig starts a broker and prepares the engines, which are not started.
func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigOn(t, func(w io.Writer, address, data string) error {
		return brokerxml.Write(w, brokerxml.Options{STOMP: address, Data: data})
	})
}

// newRigOn is newRig with a broker of another configuration.
func newRigOn(t testing.TB, xml func(w io.Writer, address, data string) error) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), broker: activemq.Start(t, xml)}
	for _, name := range []string{"a", "b"} {
		proxy := faultproxy.Start(t, r.broker.Address(), nil)
		r.proxies = append(r.proxies, proxy)
		r.engines = append(r.engines, newProcess(t, name, r.dir, proxy.Address(), slots))
	}
	r.mortal = r.engines
	return r
}

// start starts both engines.
func (r *rig) start() {
	r.t.Helper()
	for _, e := range r.engines {
		e.start()
	}
	r.ready()
}

// ready waits until both are.
func (r *rig) ready() {
	r.t.Helper()
	for _, e := range r.engines {
		e.ready()
	}
}

// effects are the files that the engines' plugins write.
func (r *rig) effects() []string {
	var paths []string
	for _, e := range r.engines {
		paths = append(paths, e.effects)
	}
	return paths
}

// load has producers send, straight to the broker, until stop is called, which
// waits for them.
func (r *rig) load(config ledger.Config, producers int) (l *ledger.Ledger, stop func()) {
	config.Broker = r.broker.Address()
	l = ledger.New(config)
	return l, r.produce(l, "p", producers)
}

// produce has producers send whose names begin so; see load.
func (r *rig) produce(l *ledger.Ledger, name string, producers int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() { l.Produce(ctx, fmt.Sprintf("%s%d", name, p)) })
	}
	stop = func() {
		cancel()
		all.Wait()
	}
	r.t.Cleanup(stop)
	return stop
}

// settled waits until all that was acknowledged is finished, and until nothing
// waits or runs, for longer than a copy that nobody knows of may be delayed.
func (r *rig) settled(l *ledger.Ledger, table *records.Records) {
	r.t.Helper()
	left := l.Acknowledged()
	eventually(r.t, 2*time.Minute, "all messages finished", func() bool {
		left = unfinished(r.t, table, left)
		return len(left) == 0
	})
	quiet := time.Now()
	eventually(r.t, time.Minute, "nothing waiting", func() bool {
		for _, e := range r.engines {
			if !e.idle() {
				quiet = time.Now()
			}
		}
		return time.Since(quiet) > 3*time.Second
	})
}

// unfinished gives those of the ids whose records are not final.
func unfinished(t testing.TB, table *records.Records, ids []string) (left []string) {
	t.Helper()
	for batch := range slices.Chunk(ids, 100) {
		found, err := table.LookUp(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range batch {
			if !found.Records[id].State.Final() {
				left = append(left, id)
			}
		}
	}
	return left
}

// openRecords opens the table that the engines share.
func (r *rig) openRecords() *records.Records {
	r.t.Helper()
	table, err := records.Open(records.Config{Path: filepath.Join(r.dir, "state", "records.db"), Log: zerolog.Nop()})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := table.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return table
}
