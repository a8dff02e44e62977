package cli

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/records"
	"usher/engine/enginetest/ledger"
	"usher/server"
)

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestNothingIsLostWhenTheWholeProcessIsKilled kills everything, broker, records,
// engine and plugin, ten times under load, and then closes the books.
func TestNothingIsLostWhenTheWholeProcessIsKilled(t *testing.T) {
	const kills = 10
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	u := newUsher(t)
	l := ledger.New(ledger.Config{Broker: u.stomp, Kinds: ledger.Shop(), Every: 10 * time.Millisecond, Seed: seed})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var producers sync.WaitGroup
	for p := range 4 {
		producers.Go(func() { l.Produce(ctx, fmt.Sprintf("p%d", p)) })
	}
	for range kills {
		u.start()
		pause(ctx, 200*time.Millisecond+time.Duration(random.Int64N(int64(time.Second))))
		plugin := u.pluginPID()
		u.kill()
		u.orphan(plugin)
	}
	u.start()
	stop()
	producers.Wait()
	u.drained()

	r, err := records.Open(records.Config{Path: u.dir + "/.usher/records.db", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a, err := l.Close(t.Context(), ledger.Evidence{Effects: []string{u.effects}, Broker: u.stomp, Table: r, Archive: r})
	if err != nil {
		t.Fatal(err)
	}
	u.stop()
	t.Logf("ledger after %d kills, seed %d: %v", kills, seed, a)
	if a.Lost != 0 || a.Unexpected != 0 || a.Acknowledged < 100 {
		t.Errorf("lost %d, unexpected %d, acknowledged %d; want 0, 0 and at least 100", a.Lost, a.Unexpected, a.Acknowledged)
	}
	if most := kills*16 + a.Unanswered; a.Duplicated > most {
		t.Errorf("%d came twice, want at most the %d that were in flight", a.Duplicated, most)
	}
}

// TestTheBooksCloseOverEverythingThatWaitsAndFails has messages wait parked, be retried
// in both tiers, die and be redriven, while the configuration changes, types are paused,
// and everything is killed.
func TestTheBooksCloseOverEverythingThatWaitsAndFails(t *testing.T) {
	const kills = 6
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	u := newUsher(t)
	u.rewriteFile(replaced("drain: 5s}", "drain: 5s, parkAfter: 1s}"))
	u.rewriteFile(replaced("card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms}}", "card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms, redeliveries: [1s, 1s]}}"))
	l := ledger.New(ledger.Config{Broker: u.stomp, Kinds: ledger.Shop(), Every: 15 * time.Millisecond, Seed: seed})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var producers sync.WaitGroup
	for p := range 4 {
		producers.Go(func() { l.Produce(ctx, fmt.Sprintf("p%d", p)) })
	}
	for i := range kills {
		u.start()
		u.rewrite("", generation(i))
		u.cli("type", []string{"pause", "resume"}[i%2], "report.daily")
		var operator sync.WaitGroup
		operator.Go(func() { u.cli("dlq", "redrive", "--all", "--rate", "100") }) // it may be cut short
		pause(ctx, 300*time.Millisecond+time.Duration(random.Int64N(int64(1500*time.Millisecond))))
		u.kill()
		operator.Wait()
	}
	u.start()
	u.cli("type", "resume", "report.daily")
	stop()
	producers.Wait()
	u.drained()
	u.wantCLI(0, "are redriven", "dlq", "redrive", "--all", "--rate", "1000")
	u.drained()

	r, err := records.Open(records.Config{Path: u.dir + "/.usher/records.db", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a, err := l.Close(t.Context(), ledger.Evidence{Effects: []string{u.effects}, Broker: u.stomp, Table: r, Archive: r, Redriven: true})
	if err != nil {
		t.Fatal(err)
	}
	u.stop()
	t.Logf("ledger after %d kills, seed %d: %v", kills, seed, a)
	if a.Lost != 0 || a.Unexpected != 0 || a.Acknowledged < 100 || a.Dead < 20 {
		t.Errorf("lost %d, unexpected %d, acknowledged %d, dead %d; want 0, 0, and at least 100 and 20", a.Lost, a.Unexpected, a.Acknowledged, a.Dead)
	}
}

// orphan fails the test if the plugin outlives its host by two seconds.
func (u *usher) orphan(pid int) {
	u.t.Helper()
	deadline := time.After(2 * time.Second)
	for pid != 0 && alive(pid) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			u.t.Fatalf("the plugin %d still lives two seconds after its host", pid)
		}
	}
}

// drained waits until nothing waits and nothing runs.
func (u *usher) drained() {
	u.t.Helper()
	quiet := 0
	u.eventually(10*time.Minute, "drained", func() bool {
		var q server.QueueReport
		if u.get("/api/v1/queues", &q) != http.StatusOK || !q.Connected {
			return false
		}
		left := q.InHand + *q.Dead.Size
		for _, level := range q.Levels {
			left += *level.Size
		}
		var d server.DelayList
		if left > 0 || u.get("/api/v1/delays?limit=1", &d) != http.StatusOK || len(d.Items) > 0 {
			quiet = 0
			return false
		}
		quiet++
		return quiet > 25 // half a second of nothing
	})
}

func TestAPluginThatIsKilledMidMessageComesBackAndItsMessagesAreTriedAgain(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(0, "messages)", "send", "report.daily", "--count", "100", "--id", "r")
	var old int
	u.eventually(5*time.Second, "working", func() bool {
		var q server.QueueReport
		u.get("/api/v1/queues", &q)
		old = u.pluginPID()
		return q.Running["shop"] > 0 && old != 0
	})
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	u.eventually(2*time.Second, "back", func() bool { pid := u.pluginPID(); return pid != 0 && pid != old })
	t.Logf("the plugin was back after %v", time.Since(killed).Round(time.Millisecond))
	u.orphan(old)
	u.drained()
	for i := 1; i <= 100; i++ {
		if m := u.message(fmt.Sprintf("r-%d", i)); m.State != engine.Done {
			t.Errorf("r-%d is %q, want done", i, m.State)
		}
	}
	u.stop()
}

func TestADelayedMessageMovesWhenItsRecordIsChangedAndSurvivesARestart(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(0, "sooner", "send", "order.rush", "--id", "sooner", "--delay", "1h")
	u.wantCLI(0, "later", "send", "order.rush", "--id", "later", "--delay", "4s")
	delayed := func(id string) func() bool { return func() bool { return u.message(id).State == engine.Delayed } }
	u.eventually(5*time.Second, "delaying", delayed("sooner"))
	u.eventually(5*time.Second, "delaying", delayed("later"))
	before := u.message("sooner").ProcessingTime

	u.stop()
	u.start()
	if m := u.message("sooner"); m.State != engine.Delayed || !m.ProcessingTime.Equal(before) {
		t.Errorf("after a restart it is %s until %v, want delayed until %v", m.State, m.ProcessingTime, before)
	}
	u.wantCLI(0, "binds within 2s", "delay", "set", "later", "1h")
	u.wantCLI(0, "binds within 2s", "delay", "release", "sooner")
	u.eventually(10*time.Second, "done with what was released", func() bool { return u.message("sooner").State == engine.Done })
	if m := u.message("later"); m.State != engine.Delayed || m.SetBy != engine.ByOperator {
		t.Errorf("the one that was put off is %s, set by %s", m.State, m.SetBy)
	}
	u.wantCLI(0, "later", "delay", "list")
	u.stop()
}
