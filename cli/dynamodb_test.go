package cli

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
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
	"usher/engine/enginetest/dynalite"
	"usher/engine/enginetest/ledger"
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
	u := newUsher(t)
	u.stomp = s.broker.Address()
	u.rewriteFile(replaced("drain: 5s}", "drain: 5s, parkAfter: 1s}"))
	u.rewriteFile(replaced("card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms}}", "card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms, redeliveries: [1s, 1s]}}"))
	place := fmt.Appendf(nil, "broker: {urls: [stomp://%s]}\nserver: {listen: %s}\nrecords: {dynamodb: {table: usher, region: eu-central-1, endpoint: %s}}\n",
		u.stomp, u.http, s.tables.Endpoint())
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
	two.drained()

	tables := dynamo.Open(s.config)
	defer tables.Close()
	a, err := l.Close(t.Context(), ledger.Evidence{Effects: []string{one.effects, two.effects}, Broker: s.broker.Address(), Table: tables, Archive: tables})
	if err != nil {
		t.Fatal(err)
	}
	one.stop()
	two.stop()
	t.Logf("ledger, seed %d: %v", seed, a)
	t.Attr("measured", a.Counts())
	if a.Lost != 0 || a.Unexpected != 0 || a.Acknowledged < messages || a.Dead < 20 {
		t.Errorf("lost %d, unexpected %d, acknowledged %d, dead %d; want 0, 0, and at least %d and 20", a.Lost, a.Unexpected, a.Acknowledged, a.Dead, messages)
	}
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
