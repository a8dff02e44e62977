package cli

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"usher/deploy/brokerxml"
	"usher/engine/dynamo"
	"usher/engine/enginetest/activemq"
	"usher/engine/enginetest/dynafault"
	"usher/engine/enginetest/dynalite"
	"usher/engine/enginetest/ledger"
	"usher/server"
)

// site is what engines share that run on machines of their own.
type site struct {
	broker *activemq.Server
	tables *dynalite.Server
	config dynamo.Config
}

// newSite starts a broker and tables, and gives this process credentials of nobody.
func newSite(t *testing.T) *site {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	s := &site{
		broker: activemq.Start(t, func(w io.Writer, address, data string) error {
			return brokerxml.Write(w, brokerxml.Options{STOMP: address, Data: data})
		}),
		tables: dynalite.Start(t),
	}
	s.config = dynamo.Config{
		AWS:      aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")},
		Endpoint: s.tables.Endpoint(), Names: dynamo.DefaultNames("usher"),
	}
	if err := dynamo.CreateTables(t.Context(), dynamo.NewClient(s.config), s.config.Names); err != nil {
		t.Fatal(err)
	}
	return s
}

// usher is one that runs at the site, on its own configuration of types.
func (s *site) usher(t *testing.T) *usher {
	t.Helper()
	return s.usherAt(t, s.tables.Endpoint())
}

// usherAt is usher with another way to the tables.
func (s *site) usherAt(t *testing.T, tables string) *usher {
	t.Helper()
	u := newUsher(t)
	u.stomp = s.broker.Address()
	u.rewriteFile(replaced("drain: 5s}", "drain: 5s, parkAfter: 1s}"))
	u.rewriteFile(replaced("card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms}}", "card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms, redeliveries: [1s, 1s]}}"))
	place := fmt.Appendf(nil, "broker: {urls: [stomp://%s]}\nserver: {listen: %s}\nrecords: {dynamodb: {table: usher, region: eu-central-1, endpoint: %s}}\n",
		u.stomp, u.http, tables)
	if err := os.WriteFile(filepath.Join(u.dir, "site.yaml"), place, 0o600); err != nil {
		t.Fatal(err)
	}
	u.args = []string{"run", "--config", "usher.yaml", "--config", "site.yaml"}
	return u
}

// TestTwoEnginesShareTheirTablesAndOneIsKilledHalfWay has messages wait, be retried and
// die in two engines, on ActiveMQ and on tables; one is killed, and comes back.
func TestTwoEnginesShareTheirTablesAndOneIsKilledHalfWay(t *testing.T) {
	const messages = 20_000
	seed := rand.Uint64()
	s := newSite(t)
	one, two := s.usher(t), s.usher(t)
	one.start()
	two.start()
	l := ledger.New(ledger.Config{Broker: s.broker.Address(), Kinds: ledger.Shop(), Every: time.Millisecond, Seed: seed})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var producers sync.WaitGroup
	for p := range 8 {
		producers.Go(func() { l.Produce(ctx, fmt.Sprintf("p%d", p)) })
	}
	acknowledged := func(n int) func() bool { return func() bool { return len(l.Acknowledged()) >= n } }
	one.eventually(5*time.Minute, "half-way", acknowledged(messages/2))
	one.kill()
	two.eventually(5*time.Minute, "sent", acknowledged(messages))
	stop()
	producers.Wait()
	one.start()
	t.Logf("seed %d", seed)
	if a := s.closes(t, l, two, one); a.Acknowledged < messages || a.Dead < 20 {
		t.Errorf("acknowledged %d, dead %d; want at least %d and 20", a.Acknowledged, a.Dead, messages)
	}
}

// TestAnEngineWhoseClockIsOffStartsNothing: its clock is five minutes behind that of the
// tables, under load; it says so, the other one goes on, and nothing is lost.
func TestAnEngineWhoseClockIsOffStartsNothing(t *testing.T) {
	s := newSite(t)
	proxy := dynafault.Start(t, s.tables.Endpoint(), 1)
	late, right := s.usherAt(t, proxy.Endpoint()), s.usher(t)
	late.start()
	right.start()
	l := ledger.New(ledger.Config{Broker: s.broker.Address(), Kinds: ledger.Shop(), Every: 5 * time.Millisecond, Seed: 1})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var producers sync.WaitGroup
	for p := range 2 {
		producers.Go(func() { l.Produce(ctx, fmt.Sprintf("p%d", p)) })
	}
	effects := func(u *usher) int64 {
		info, err := os.Stat(u.effects)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	late.eventually(time.Minute, "both at work", func() bool { return effects(late) > 0 && effects(right) > 0 })
	proxy.Set(dynafault.Faults{Clock: 5 * time.Minute})
	late.eventually(time.Minute, "not ready, and says why", func() bool {
		return late.get("/readyz", nil) == http.StatusServiceUnavailable && strings.Contains(late.body("/readyz?verbose"), "clock is at least")
	})
	late.eventually(time.Minute, "what it had claimed is finished", func() bool {
		var q server.QueueReport
		running := 0
		if late.get("/api/v1/queues", &q) != http.StatusOK {
			return false
		}
		for _, n := range q.Running {
			running += n
		}
		return running == 0
	})
	before, other := effects(late), effects(right)
	right.eventually(time.Minute, "the other goes on", func() bool { return effects(right) > other+1000 })
	if after := effects(late); after != before {
		t.Errorf("with its clock off it has had effects: %d bytes, %d before", after, before)
	}
	proxy.Set(dynafault.Faults{})
	late.eventually(10*time.Second, "at work again", func() bool { return effects(late) > before })
	stop()
	producers.Wait()
	s.closes(t, l, late, right)
}

// closes ends the engines and closes the books over them.
func (s *site) closes(t *testing.T, l *ledger.Ledger, engines ...*usher) ledger.Account {
	t.Helper()
	engines[0].drained()
	tables := dynamo.Open(s.config)
	defer tables.Close()
	evidence := ledger.Evidence{Broker: s.broker.Address(), Table: tables, Archive: tables}
	for _, u := range engines {
		evidence.Effects = append(evidence.Effects, u.effects)
	}
	a, err := l.Close(t.Context(), evidence)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range engines {
		u.stop()
	}
	t.Logf("ledger: %v", a)
	t.Attr("measured", a.Counts())
	if a.Lost != 0 || a.Unexpected != 0 {
		t.Errorf("lost %d, unexpected %d; want 0 and 0", a.Lost, a.Unexpected)
	}
	return a
}

// Without the tables it says which are not there, and what to do.
func TestTablesThatAreNotThereAreNamedAtTheStart(t *testing.T) {
	s := newSite(t)
	u := s.usher(t)
	t.Setenv("USHER__RECORDS__DYNAMODB__TABLE", "nobody")
	code, _, errs := u.cli("run", "--config", filepath.Join(u.dir, "usher.yaml"), "--config", filepath.Join(u.dir, "site.yaml"), "--state", u.dir)
	if code != exitFailed || !strings.Contains(errs, "nobody-records") || !strings.Contains(errs, "deploy/template.yaml") {
		t.Errorf("exit %d: %s", code, errs)
	}
}
