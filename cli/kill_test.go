package cli

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/records"
	"usher/engine/stomp"
	"usher/server"
)

// ledger is what producers know of what they sent.
type ledger struct {
	mu           sync.Mutex
	attempted    int
	acknowledged []string
}

// produce sends messages of all kinds until ctx ends, connecting again whenever
// the broker is gone.
func (l *ledger) produce(ctx context.Context, u *usher, producer int) {
	types := []string{"order.rush", "order.placed", "order.placed", "stock.sync", "address.check", "card.charge"}
	var client *stomp.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	for n := 0; ctx.Err() == nil; n++ {
		if client == nil {
			var err error
			if client, err = stomp.Dial(ctx, stomp.Config{URLs: []string{"stomp://" + u.stomp}, Log: zerolog.Nop()}); err != nil {
				pause(ctx, 50*time.Millisecond)
				continue
			}
		}
		id := fmt.Sprintf("p%d-%d", producer, n)
		l.mu.Lock()
		l.attempted++
		l.mu.Unlock()
		sending, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := client.Send(sending, engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(`{"n":` + strconv.Itoa(n) + `}`), Headers: map[string]string{
			engine.HeaderID: id, engine.HeaderType: types[rand.IntN(len(types))], engine.HeaderPriority: strconv.Itoa(rand.IntN(engine.Levels)),
		}})
		cancel()
		if err != nil {
			client.Close()
			client = nil
			continue
		}
		l.mu.Lock()
		l.acknowledged = append(l.acknowledged, id)
		l.mu.Unlock()
		pause(ctx, 10*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// effects counts the lines that handlers have written, by idempotency key.
func (u *usher) effectsByID() map[string]int {
	u.t.Helper()
	f, err := os.Open(u.effects)
	if err != nil {
		u.t.Fatal(err)
	}
	defer f.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 4 {
			counts[fields[0]]++
		}
	}
	return counts
}

// TestNothingIsLostWhenTheWholeProcessIsKilled kills everything, broker, records,
// engine and plugin, ten times under load, and then closes the books.
func TestNothingIsLostWhenTheWholeProcessIsKilled(t *testing.T) {
	u := newUsher(t)
	var l ledger
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var producers sync.WaitGroup
	for p := range 4 {
		producers.Go(func() { l.produce(ctx, u, p) })
	}
	const kills = 10
	for range kills {
		u.start()
		pause(ctx, 200*time.Millisecond+rand.N(time.Second))
		plugin := u.pluginPID()
		u.kill()
		u.orphan(plugin)
	}
	u.start()
	stop()
	producers.Wait()
	u.drained()
	u.stop()

	finals := u.finalStates(l.acknowledged)
	done, dead, lost, duplicated, unexpected := 0, 0, 0, 0, 0
	counts := u.effectsByID()
	for _, id := range l.acknowledged {
		switch finals[id] {
		case engine.Done:
			done++
			if counts[id] == 0 {
				lost++ // done, and nothing was done
			}
		case engine.Dead:
			dead++
		case engine.Queued, engine.Delayed, engine.Processing, engine.Retrying, engine.Cancelled:
			lost++
		default:
			lost++
		}
	}
	for id, n := range counts {
		duplicated += n - 1
		if !strings.HasPrefix(id, "p") && !strings.HasPrefix(id, "f-") {
			unexpected++
		}
	}
	t.Logf("ledger after %d kills: attempted %d, acknowledged %d, done %d, lost %d, duplicated %d (same key), dead %d, unexpected %d",
		kills, l.attempted, len(l.acknowledged), done, lost, duplicated, dead, unexpected)
	if lost != 0 || unexpected != 0 || len(l.acknowledged) < 100 {
		t.Errorf("lost %d, unexpected %d, acknowledged %d; want 0, 0 and at least 100", lost, unexpected, len(l.acknowledged))
	}
	if most := kills * 16; duplicated > most {
		t.Errorf("%d effects came twice, want at most the %d that were running", duplicated, most)
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
	u.eventually(2*time.Minute, "drained", func() bool {
		var q server.QueueReport
		if u.get("/api/v1/queues", &q) != http.StatusOK || !q.Connected {
			return false
		}
		left := q.InHand
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

// finalStates reads the records of a stopped usher.
func (u *usher) finalStates(ids []string) map[string]engine.State {
	u.t.Helper()
	r, err := records.Open(records.Config{Path: u.dir + "/.usher/records.db", Log: zerolog.Nop()})
	if err != nil {
		u.t.Fatal(err)
	}
	defer r.Close()
	states := map[string]engine.State{}
	for len(ids) > 0 {
		batch := ids[:min(100, len(ids))]
		ids = ids[len(batch):]
		found, err := r.LookUp(context.Background(), batch)
		if err != nil {
			u.t.Fatal(err)
		}
		for id, rec := range found.Records {
			states[id] = rec.State
		}
	}
	return states
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
	u.wantCLI(0, "binds within 30s", "delay", "set", "later", "1h")
	u.wantCLI(0, "binds within 30s", "delay", "release", "sooner")
	u.eventually(engine.MaxStep+5*time.Second, "done with what was released", func() bool { return u.message("sooner").State == engine.Done })
	if m := u.message("later"); m.State != engine.Delayed || m.SetBy != engine.ByOperator {
		t.Errorf("the one that was put off is %s, set by %s", m.State, m.SetBy)
	}
	u.wantCLI(0, "later", "delay", "list")
	u.stop()
}
