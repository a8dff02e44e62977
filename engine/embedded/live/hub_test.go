package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"usher/engine"
	"usher/engine/embedded/live"
)

func TestASubscriberGetsTheSnapshotAndThenEachUpdate(t *testing.T) {
	r := setup(t)
	if _, err := r.table.Write(t.Context(), engine.Change{
		ID: "order-7", Type: "order.placed", Digest: "d", NextHop: 2, Token: "t", State: engine.Retrying,
		Due: time.Now().Add(time.Minute), DueBy: engine.ByRetry, Attempts: 1, Now: time.UnixMilli(1),
	}); err != nil {
		t.Fatal(err)
	}
	c := r.connect()
	c.subscribe("order-7")
	if f := c.wantStatus("order-7", engine.Retrying, engine.Seq{Hop: 2, Count: 1000}); f.NextAt == nil || f.Attempt != 1 {
		t.Errorf("the snapshot %+v lacks its next time or its attempt", f)
	}
	ratio := 0.4
	progress := status("order-7", engine.Processing, 2, 1003)
	progress.Progress, progress.Note, progress.Of = &ratio, "packing", 3
	r.notify(status("order-7", engine.Processing, 2, 1002))
	c.wantStatus("order-7", engine.Processing, engine.Seq{Hop: 2, Count: 1002})
	r.notify(progress)
	if f := c.wantStatus("order-7", engine.Processing, engine.Seq{Hop: 2, Count: 1003}); *f.Progress != 0.4 || f.Note != "packing" || f.Of != 3 {
		t.Errorf("the progress came as %+v", f)
	}
	r.notify(status("order-7", engine.Done, 2, 1004))
	c.wantStatus("order-7", engine.Done, engine.Seq{Hop: 2, Count: 1004})
}

func TestEachWatcherIsToldOfItsOwnMessagesOnly(t *testing.T) {
	r := setup(t)
	a, b := r.connect(), r.connect()
	a.subscribe("m-a")
	a.wantStatus("m-a", engine.Queued, engine.Seq{})
	b.subscribe("m-b")
	b.wantStatus("m-b", engine.Queued, engine.Seq{})
	// Even where a record names a connection for what it did not ask for.
	r.hub.Notify(append(r.watchers("m-a", 1), r.watchers("m-b", 1)...), status("m-a", engine.Processing, 0, 1))
	a.wantStatus("m-a", engine.Processing, engine.Seq{Count: 1})
	r.notify(status("m-b", engine.Processing, 0, 1))
	b.wantStatus("m-b", engine.Processing, engine.Seq{Count: 1})
}

func TestStatusesNeverGoBack(t *testing.T) {
	r := setup(t)
	c := r.connect()
	c.subscribe("m")
	c.wantStatus("m", engine.Queued, engine.Seq{})
	for _, s := range []engine.Status{
		status("m", engine.Retrying, 1, 3), status("m", engine.Processing, 1, 2), status("m", engine.Retrying, 1, 3),
		status("m", engine.Queued, 0, 9), status("m", engine.Processing, 2, 1),
	} {
		r.notify(s)
	}
	last := engine.Seq{}
	for last != (engine.Seq{Hop: 2, Count: 1}) {
		f := c.next()
		if !last.Less(f.Seq) {
			t.Fatalf("%v came after %v", f.Seq, last)
		}
		last = f.Seq
	}
}

// duringWatch calls a function after a watcher is entered, before the hub knows.
type duringWatch struct {
	live.Table

	call func(id string, w engine.Watcher)
}

func (d *duringWatch) Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error) {
	rec, err := d.Table.Watch(ctx, id, w)
	d.call(id, w)
	return rec, err
}

func TestWhatIsToldDuringASubscribeIsNotLost(t *testing.T) {
	table := &duringWatch{}
	r := setup(t, func(c *live.Config) { table.Table, c.Table = c.Table, table })
	table.call = func(id string, w engine.Watcher) {
		r.hub.Notify([]engine.Watcher{w}, status(id, engine.Processing, 0, 5))
	}
	c := r.connect()
	c.subscribe("m")
	c.wantStatus("m", engine.Processing, engine.Seq{Count: 5}) // newer than the snapshot, which it replaces
}

func TestASubscribeNudgesTheEngine(t *testing.T) {
	nudged := make(chan engine.Watcher, 1)
	r := setup(t, func(c *live.Config) {
		c.NudgeFunc = func(id string, w engine.Watcher) {
			if id == "m" {
				nudged <- w
			}
		}
	})
	c := r.connect()
	c.subscribe("m")
	c.wantStatus("m", engine.Queued, engine.Seq{})
	want := r.watchers("m", 1)[0]
	if got := <-nudged; got.Connection != want.Connection || !got.Until.After(time.Now().Add(14*time.Minute)) {
		t.Errorf("the engine was nudged with %+v, want %+v", got, want)
	}
}

func TestAskingAgainIsAnsweredAgain(t *testing.T) {
	r := setup(t)
	c := r.connect()
	c.subscribe("m")
	c.wantStatus("m", engine.Queued, engine.Seq{})
	r.notify(status("m", engine.Processing, 0, 1))
	c.wantStatus("m", engine.Processing, engine.Seq{Count: 1})
	c.subscribe("m") // the record is older than what was told
	c.wantStatus("m", engine.Processing, engine.Seq{Count: 1})
	r.watchers("m", 1)
}

func TestUnsubscribingEndsIt(t *testing.T) {
	r := setup(t)
	c := r.connect()
	c.subscribe("m")
	c.wantStatus("m", engine.Queued, engine.Seq{})
	was := r.watchers("m", 1)
	c.send(`{"action":"unsubscribe","id":"m"}`)
	c.send(`{"action":"unsubscribe","id":"never"}`)
	r.watchers("m", 0)
	r.hub.Notify(was, status("m", engine.Processing, 0, 1)) // an engine that has not heard of it
	c.subscribe("other")
	c.wantStatus("other", engine.Queued, engine.Seq{})
}

func TestLeavingTakesTheWatcherOutOfTheRecords(t *testing.T) {
	r := setup(t)
	c := r.connect()
	for _, id := range []string{"a", "b"} {
		c.subscribe(id)
		c.wantStatus(id, engine.Queued, engine.Seq{})
	}
	if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	r.watchers("a", 0)
	r.watchers("b", 0)
}

func TestDoneAndCancelledEndTheSubscriptionAndDeadDoesNot(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.MaxSubscriptions = 1 })
	c := r.connect()
	for _, state := range []engine.State{engine.Done, engine.Cancelled, engine.Dead} {
		id := "m-" + string(state)
		c.subscribe(id)
		c.wantStatus(id, engine.Queued, engine.Seq{})
		r.notify(status(id, state, 0, 1))
		c.wantStatus(id, state, engine.Seq{Count: 1})
	}
	c.subscribe("one-more")
	c.wantError("too_many_subscriptions", "one-more")
	r.notify(status("m-dead", engine.Processing, 2, 1)) // it was redriven
	c.wantStatus("m-dead", engine.Processing, engine.Seq{Hop: 2, Count: 1})
}

func TestASlowReaderBlocksNobodyAndGetsTheLatest(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.WriteTimeout = time.Hour })
	slow, quick := r.connect(), r.connect()
	ids := []string{"a", "b", "c"}
	for _, id := range ids {
		slow.subscribe(id)
		slow.wantStatus(id, engine.Queued, engine.Seq{})
	}
	quick.subscribe("q")
	quick.wantStatus("q", engine.Queued, engine.Seq{})

	const rounds = 100_000 // many times what the sockets hold
	watchers := map[string][]engine.Watcher{}
	for _, id := range ids {
		watchers[id] = r.watchers(id, 1)
	}
	note := strings.Repeat("n", 256)
	began := time.Now()
	for n := 1; n <= rounds; n++ {
		for _, id := range ids {
			s := status(id, engine.Processing, 0, n)
			s.Note = note
			r.hub.Notify(watchers[id], s)
		}
	}
	t.Logf("%d calls of Notify took %v", rounds*len(ids), time.Since(began))
	r.notify(status("q", engine.Processing, 0, 1))
	quick.wantStatus("q", engine.Processing, engine.Seq{Count: 1})

	seen, frames := map[string]engine.Seq{}, 0
	for finished := 0; finished < len(ids); frames++ {
		f := slow.next()
		if !seen[f.ID].Less(f.Seq) {
			t.Fatalf("%s: %v came after %v", f.ID, f.Seq, seen[f.ID])
		}
		if seen[f.ID] = f.Seq; f.Seq.Count == rounds {
			finished++
		}
	}
	if frames > rounds {
		t.Errorf("%d frames came of %d statuses: they are not merged", frames, rounds*len(ids))
	}
}

func TestAClientThatTakesNothingIsCutOffAndOthersAreNot(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.WriteTimeout = 100 * time.Millisecond })
	stuck, well := r.connect(), r.connect()
	stuck.subscribe("m")
	stuck.wantStatus("m", engine.Queued, engine.Seq{})
	watchers := r.watchers("m", 1)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	note := strings.Repeat("n", 256)
	for n := 1; ; n++ {
		s := status("m", engine.Processing, 0, n)
		s.Note = note
		r.hub.Notify(watchers, s)
		rec, err := r.table.Record(ctx, "m")
		if err != nil {
			t.Fatal(err)
		}
		if len(rec.Watchers) == 0 {
			break // it was disconnected, and taken out
		}
	}
	well.subscribe("m")
	well.wantStatus("m", engine.Queued, engine.Seq{})
	r.notify(status("m", engine.Processing, 9, 9))
	well.wantStatus("m", engine.Processing, engine.Seq{Hop: 9, Count: 9})
}

func TestOriginsAreChecked(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.Origins = []string{"https://shop.example"} })
	for origin, want := range map[string]int{
		"":                             http.StatusSwitchingProtocols,
		r.url:                          http.StatusSwitchingProtocols,
		"https://shop.example":         http.StatusSwitchingProtocols,
		"http://shop.example":          http.StatusForbidden,
		"https://shop.example:8443":    http.StatusForbidden,
		"https://evil-shop.example":    http.StatusForbidden,
		"https://shop.example.evil.io": http.StatusForbidden,
		"https://*.example":            http.StatusForbidden,
		"null":                         http.StatusForbidden,
	} {
		_, got, err := dial(r, origin)
		if got.status != want {
			t.Errorf("the origin %q is answered with %d (%v), want %d", origin, got.status, err, want)
		}
		if want == http.StatusForbidden && got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("the refusal is %q", got.header.Get("Content-Type"))
		}
	}
}

func TestThereAreOnlySoManyConnections(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.MaxConnections = 2 })
	first := r.connect()
	r.connect()
	if _, got, err := dial(r, ""); err == nil || got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Fatalf("one too many is answered with %v, %v", got, err)
	}
	first.subscribe("m")
	first.wantStatus("m", engine.Queued, engine.Seq{})
	if err := first.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for { // the place is free a moment later
		if _, _, err := dial(r, ""); err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the place of a client that left is not free")
		}
	}
}

func TestARequestThatIsNoHandshakeKeepsNoPlace(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.MaxConnections = 1 })
	for range 3 {
		response, err := http.Get(r.url)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("a plain GET is answered with %d", response.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	r.connect()
}

func TestBadFramesAreAnsweredAndTheTenthEndsIt(t *testing.T) {
	r := setup(t)
	c := r.connect()
	bad := []string{
		``, `hello`, `[]`, `{}`, `{"action":"subscribe"}`, `{"action":"delete","id":"m"}`,
		`{"action":"subscribe","id":7}`, `{"action":"subscribe","id":"tab\u0009"}`,
		`{"action":"subscribe","id":"` + strings.Repeat("i", engine.MaxIDBytes+1) + `"}`,
	}
	for _, f := range bad {
		c.send(f)
		c.wantError("bad_request", "")
	}
	c.subscribe("m") // it is still served
	c.wantStatus("m", engine.Queued, engine.Seq{})
	if err := c.ws.Write(t.Context(), websocket.MessageBinary, []byte(`{"action":"subscribe","id":"m"}`)); err != nil {
		t.Fatal(err)
	}
	c.wantClosed(websocket.StatusPolicyViolation)
	r.watchers("m", 0)
}

func TestALongFrameEndsIt(t *testing.T) {
	r := setup(t)
	c := r.connect()
	c.send(`{"action":"subscribe","id":"m","token":"` + strings.Repeat("x", 4<<10) + `"}`)
	c.wantClosed(websocket.StatusMessageTooBig)
}

// failing is a table that does not answer while broken.
type failing struct {
	live.Table

	mu     sync.Mutex
	broken bool // guarded by mu
}

func (f *failing) Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return engine.Record{}, errors.New("the disk is full")
	}
	return f.Table.Watch(ctx, id, w)
}

func TestRecordsThatDoNotAnswerAreSaidAndTriedAgain(t *testing.T) {
	table := &failing{broken: true}
	r := setup(t, func(c *live.Config) { table.Table, c.Table, c.MaxSubscriptions = c.Table, table, 1 })
	c := r.connect()
	c.subscribe("m")
	c.wantError("unavailable", "m")
	table.mu.Lock()
	table.broken = false
	table.mu.Unlock()
	c.subscribe("m") // which took no place
	c.wantStatus("m", engine.Queued, engine.Seq{})
}

func TestClosingTellsWhatIsLeftAndGoesAway(t *testing.T) {
	r := setup(t)
	clients := make([]*client, 5)
	for i := range clients {
		clients[i] = r.connect()
		clients[i].subscribe("m")
		clients[i].wantStatus("m", engine.Queued, engine.Seq{})
	}
	r.notify(status("m", engine.Done, 0, 1))
	closed := make(chan error, 2)
	for range cap(closed) {
		go func() { closed <- r.hub.Close() }()
	}
	for _, c := range clients {
		c.wantStatus("m", engine.Done, engine.Seq{Count: 1})
		c.wantClosed(websocket.StatusGoingAway)
	}
	for range cap(closed) {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	if _, got, err := dial(r, ""); err == nil || got.status != http.StatusServiceUnavailable {
		t.Errorf("a closed hub answers with %v, %v", got, err)
	}
	r.hub.Notify([]engine.Watcher{{Connection: "gone"}}, status("m", engine.Done, 0, 1))
}

func TestHubsStartAndStopUnderLoad(t *testing.T) {
	for range 20 {
		r := setup(t)
		var clients sync.WaitGroup
		for i := range 8 {
			clients.Go(func() {
				c, _, err := dial(r, "")
				for n := 0; err == nil; n++ {
					id := fmt.Sprintf("m-%d-%d", i, n%3)
					if err = c.ws.Write(t.Context(), websocket.MessageText, []byte(`{"action":"subscribe","id":"`+id+`"}`)); err == nil {
						_, err = c.read()
					}
					if rec, errRec := r.table.Record(t.Context(), id); errRec == nil {
						r.hub.Notify(rec.Watchers, status(id, engine.Processing, 0, n))
					}
					if i == 0 && n == 20 {
						go func() { _ = r.hub.Close() }()
					}
				}
			})
		}
		clients.Wait()
		if err := r.hub.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryFrameFitsIn32KiB(t *testing.T) {
	r := setup(t)
	c := r.connect()
	c.ws.SetReadLimit(32 << 10)
	id := strings.Repeat("<", engine.MaxIDBytes) // six bytes each, in JSON
	c.subscribe(id)
	c.next()
	s := status(id, engine.Processing, 1<<30, 1<<30)
	s.Note = strings.Repeat("\u2028", 256/3) // and these, of what a note may be at the most
	r.notify(s)
	if f := c.next(); f.ID != id || f.Note != s.Note {
		t.Errorf("the longest status came as %+v", f)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]live.Config{
		"no table":        {},
		"negative":        {Table: &failing{}, Ping: -1},
		"no scheme":       {Table: &failing{}, Origins: []string{"shop.example"}},
		"trailing slash":  {Table: &failing{}, Origins: []string{"https://shop.example/"}},
		"pattern is host": {Table: &failing{}, Origins: []string{"*"}},
	} {
		if _, err := live.New(cfg); err == nil || !strings.HasPrefix(err.Error(), "live: ") {
			t.Errorf("%s: New answers %v", name, err)
		}
	}
}

func TestAFailureFrameIsWhatTheReferenceSays(t *testing.T) {
	r := setup(t)
	c := r.connect()
	c.send("nonsense")
	_, data, err := c.ws.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got["v"] != 1.0 || got["error"] != "bad_request" || got["message"] == "" {
		t.Errorf("the frame is %s", data)
	}
}
