package ledger_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/broker"
	"usher/engine/enginetest"
	"usher/engine/enginetest/faultproxy"
	"usher/engine/enginetest/ledger"
	"usher/engine/stomp"
)

// serve runs a broker with nobody behind it and gives its address.
func serve(t *testing.T) string {
	t.Helper()
	b, err := broker.Open(broker.Config{Dir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// produce has a producer send until so many messages are acknowledged.
func produce(t *testing.T, l *ledger.Ledger, name string, acknowledged int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var producer sync.WaitGroup
	producer.Go(func() { l.Produce(ctx, name) })
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(l.Acknowledged()) < acknowledged {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d messages are acknowledged after 30 s, want %d", len(l.Acknowledged()), acknowledged)
		}
	}
	stop()
	producer.Wait()
}

func TestSeesThatNobodyHasDoneAnything(t *testing.T) {
	address := serve(t)
	l := ledger.New(ledger.Config{Broker: address, Kinds: ledger.Shop(), Seed: 1})
	produce(t, l, "p", 40)
	a, err := l.Close(t.Context(), ledger.Evidence{Broker: address, Table: enginetest.NewMemory()})
	if err != nil {
		t.Fatal(err)
	}
	if a.Acknowledged < 40 || a.Lost != a.Acknowledged || a.Done+a.Dead != 0 || a.Unexpected < a.Acknowledged {
		t.Errorf("the account of a broker without an engine: %v", a)
	}
}

func TestADeadLetterMustBeInTheBroker(t *testing.T) {
	address := serve(t)
	l := ledger.New(ledger.Config{Broker: address, Kinds: []ledger.Kind{{Type: "a", Ends: ledger.Dead}}, Every: time.Hour, Seed: 1})
	produce(t, l, "p", 1)
	client, err := stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + address}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// An engine that writes "dead" and does not send the copy.
	table := enginetest.NewMemory()
	if _, err := table.Write(t.Context(), engine.Change{ID: "p-0", Type: "a", State: engine.Dead, Token: "t", NextHop: 1, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	from := ledger.Evidence{Broker: address, Table: table}
	if a, err := l.Close(t.Context(), from); err != nil || a.Lost != 1 || a.Dead != 0 {
		t.Errorf("without a copy: %v, %v", a, err)
	}
	err = client.Send(t.Context(), engine.Outgoing{Queue: engine.DeadQueue, Headers: map[string]string{engine.HeaderID: "p-0", engine.HeaderDeadReason: "exhausted"}})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := l.Close(t.Context(), from); err != nil || a.Lost != 0 || a.Dead != 1 || a.Unexpected != 0 {
		t.Errorf("with a copy: %v, %v", a, err)
	}
}

// TestADeadLetterMayBeInTheArchive tells what is known of one message that is
// dead, and of which nothing is left in the broker.
func TestADeadLetterMayBeInTheArchive(t *testing.T) {
	address := serve(t)
	l := ledger.New(ledger.Config{Broker: address, Kinds: []ledger.Kind{{Type: "a", Ends: ledger.Dead}}, Every: time.Hour, Seed: 1})
	produce(t, l, "p", 1)
	if _, err := l.Close(t.Context(), ledger.Evidence{Broker: address, Table: enginetest.NewMemory()}); err != nil {
		t.Fatal(err) // it takes the message out of the work queue
	}
	ours := engine.DeadLetter{Key: "1", ID: "p-0", Queue: engine.DeadQueue}
	again, brokers, stays, others := ours, ours, ours, ours
	again.Key, brokers.Queue, stays.Stays, others.ID = "2", "DLQ."+engine.WorkQueue, true, "p-1"
	others.Key = "3"
	for name, test := range map[string]struct {
		letters []engine.DeadLetter
		want    ledger.Account
	}{
		"there":                  {[]engine.DeadLetter{ours}, ledger.Account{Dead: 1}},
		"there twice":            {[]engine.DeadLetter{ours, again}, ledger.Account{Dead: 1, Duplicated: 1, Unexpected: 1}},
		"not there":              {nil, ledger.Account{Lost: 1}},
		"too large to be there":  {[]engine.DeadLetter{stays}, ledger.Account{Lost: 1}},
		"from the broker's own":  {[]engine.DeadLetter{brokers}, ledger.Account{Lost: 1, Unexpected: 1}},
		"beside one nobody sent": {[]engine.DeadLetter{ours, others}, ledger.Account{Dead: 1, Unexpected: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			store := enginetest.NewMemory()
			if _, err := store.Write(t.Context(), engine.Change{ID: "p-0", Type: "a", State: engine.Dead, Token: "t", NextHop: 1, Now: time.Now()}); err != nil {
				t.Fatal(err)
			}
			for _, letter := range test.letters {
				letter.DeadAt = time.Now()
				if _, _, err := store.Put(t.Context(), letter, engine.Content{}); err != nil {
					t.Fatal(err)
				}
			}
			a, err := l.Close(t.Context(), ledger.Evidence{Broker: address, Table: store, Archive: store})
			if err != nil || a.Dead != test.want.Dead || a.Lost != test.want.Lost || a.Duplicated != test.want.Duplicated || a.Unexpected != test.want.Unexpected {
				t.Errorf("the account is %v, %v; want %v", a, err, test.want)
			}
		})
	}
}

func TestASendWithoutAnAnswerIsMadeAgainUnderTheSameIDOrGivenUp(t *testing.T) {
	address := serve(t)
	proxy := faultproxy.Start(t, address, nil)
	for i := range 12 {
		proxy.Arm(faultproxy.Fault{Command: "RECEIPT", Nth: 3 * (i + 1), Action: faultproxy.CutBefore})
	}
	l := ledger.New(ledger.Config{Broker: proxy.Address(), Kinds: ledger.Shop(), Seed: 3})
	produce(t, l, "p", 30)
	a, err := l.Close(t.Context(), ledger.Evidence{Broker: address, Table: enginetest.NewMemory()})
	if err != nil {
		t.Fatal(err)
	}
	given := a.Attempted - a.Acknowledged // up, and one when the producer was stopped
	if a.Unanswered < 12 || a.Unanswered > 13 || given < 2 || given > 10 {
		t.Errorf("after 12 lost receipts: %v", a)
	}
}

func TestTheSeedDecidesWhatIsSent(t *testing.T) {
	sent := func(seed uint64) string {
		address := serve(t)
		l := ledger.New(ledger.Config{Broker: address, Kinds: ledger.Shop(), Seed: seed})
		produce(t, l, "p", 20)
		client, err := stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + address}, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var all strings.Builder
		err = client.Consume(t.Context(), stomp.View{Queue: engine.WorkQueue + ".p5", Quiet: 50 * time.Millisecond}, func(d engine.Delivery) (bool, error) {
			all.WriteString(d.Headers[engine.HeaderID] + d.Headers[engine.HeaderType] + d.Headers[engine.HeaderDelay] + " ")
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all.String()
	}
	one, again, other := sent(1), sent(1), sent(2)
	if first := min(len(one), len(again)); one[:first] != again[:first] || first == 0 {
		t.Errorf("the same seed sends %q and %q", one, again)
	}
	if one == other {
		t.Errorf("another seed sends %q as well", one)
	}
}
