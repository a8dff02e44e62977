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

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/rs/zerolog"

	"usher/deploy/brokerxml"
	"usher/engine/dynamo"
	"usher/engine/embedded/records"
	"usher/engine/enginetest/activemq"
	"usher/engine/enginetest/dynafault"
	"usher/engine/enginetest/dynalite"
	"usher/engine/enginetest/faultproxy"
	"usher/engine/enginetest/ledger"
)

// rig is a broker, and engines that share a record table.
type rig struct {
	t       testing.TB
	dir     string
	broker  *activemq.Server // nil: the engine's own, embedded
	address string           // where producers send
	engines []*process
	mortal  []*process          // those of the engines that blows hit
	proxies []*faultproxy.Proxy // before the broker, by engine
	tables  *dynafault.Proxy    // before the tables; nil: the table is a file
	books   func() books        // opens the table
	files   []string            // with effects of others than the engines' plugins
	pace    time.Duration       // how long each of four producers waits after a message
}

// books are where the ledger looks up what became of messages.
type books interface {
	ledger.Table
	ledger.Archive
	io.Closer
}

// newRig starts a broker and prepares two engines that share a file, which are not
// started.
func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigOn(t, func(w io.Writer, address, data string) error {
		return brokerxml.Write(w, brokerxml.Options{STOMP: address, Data: data})
	})
}

// newRigOn is newRig with a broker of another configuration.
func newRigOn(t testing.TB, xml func(w io.Writer, address, data string) error) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), broker: activemq.Start(t, xml), pace: 20 * time.Millisecond}
	r.address, r.books = r.broker.Address(), r.file
	for _, name := range []string{"a", "b"} {
		proxy := faultproxy.Start(t, r.broker.Address(), nil)
		r.proxies = append(r.proxies, proxy)
		r.engines = append(r.engines, newProcess(t, name, r.dir, proxy.Address(), slots))
	}
	r.mortal = r.engines
	return r
}

// newRigOnTables is newRig with engines that share tables of DynamoDB's interface, behind
// a proxy, and nothing of their machines.
func newRigOnTables(t testing.TB) *rig {
	t.Helper()
	r := newRig(t)
	config := dynamo.Config{
		AWS:      aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")},
		Endpoint: dynalite.Start(t).Endpoint(), Names: dynamo.DefaultNames("usher"),
	}
	if err := dynamo.CreateTables(context.Background(), dynamo.NewClient(config), config.Names); err != nil {
		t.Fatal(err)
	}
	r.pace = 100 * time.Millisecond // a table of tests is slow
	r.tables = dynafault.Start(t, config.Endpoint, 1)
	r.books = func() books { return shut{dynamo.Open(config)} }
	for _, e := range r.engines {
		e.state += "-" + e.name
		e.env = []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test"}
		e.rewrite("types:", fmt.Sprintf("records: {dynamodb: {table: usher, region: eu-central-1, endpoint: %q}}\ntypes:", r.tables.Endpoint()))
	}
	return r
}

// shut is tables, whose Close cannot fail.
type shut struct{ *dynamo.Records }

func (s shut) Close() error {
	s.Records.Close()
	return nil
}

// newPair prepares one engine with all of it inside: broker and table.
func newPair(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), address: freeAddress(t), pace: 20 * time.Millisecond}
	e := newProcess(t, "a", r.dir, "none", slots)
	e.rewrite(`broker: {urls: ["stomp://none"], heartbeat: 1s}`, fmt.Sprintf("embedded: {stomp: %q}", r.address))
	r.engines, r.mortal, r.books = []*process{e}, []*process{e}, r.file
	return r
}

// start starts the engines.
func (r *rig) start() {
	r.t.Helper()
	for _, e := range r.engines {
		e.start()
	}
	r.ready()
}

// ready waits until they are.
func (r *rig) ready() {
	r.t.Helper()
	for _, e := range r.engines {
		e.ready()
	}
}

// effects are the files with all effects.
func (r *rig) effects() []string {
	paths := slices.Clone(r.files)
	for _, e := range r.engines {
		paths = append(paths, e.effects)
	}
	return paths
}

// load has producers send, straight to the broker, until stop is called, which
// waits for them.
func (r *rig) load(config ledger.Config, producers int) (l *ledger.Ledger, stop func()) {
	config.Broker = r.address
	l = ledger.New(config)
	return l, r.produce(l, "p", producers)
}

// produce has producers send whose names begin so, of the kinds, or of those of the
// ledger; see load.
func (r *rig) produce(l *ledger.Ledger, name string, producers int, kinds ...ledger.Kind) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() { l.Produce(ctx, fmt.Sprintf("%s%d", name, p), kinds...) })
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
func (r *rig) settled(l *ledger.Ledger, table ledger.Table) {
	r.t.Helper()
	left := l.Acknowledged()
	eventually(r.t, 10*time.Minute, "all messages finished", func() bool {
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
func unfinished(t testing.TB, table ledger.Table, ids []string) (left []string) {
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

// openRecords opens the table that the engines share, once they run.
func (r *rig) openRecords() books {
	r.t.Helper()
	table := r.books()
	r.t.Cleanup(func() {
		if err := table.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return table
}

// file opens the table that engines of one machine share.
func (r *rig) file() books {
	r.t.Helper()
	table, err := records.Open(records.Config{Path: filepath.Join(r.dir, "state", "records.db"), Log: zerolog.Nop()})
	if err != nil {
		r.t.Fatal(err)
	}
	return table
}
