package live_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"usher/engine"
	"usher/engine/embedded/live"
	"usher/engine/enginetest"
	"usher/engine/watchtoken"
)

// keysOf makes keys of key ids with one letter each, as in "shop=a".
func keysOf(t *testing.T, pairs ...string) watchtoken.Keys {
	t.Helper()
	var list []string
	for _, pair := range pairs {
		id, letter, _ := strings.Cut(pair, "=")
		list = append(list, id+":"+base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32))))
	}
	keys, err := watchtoken.ParseKeys(strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func mint(t *testing.T, keys watchtoken.Keys, stage, id string, ttl time.Duration) string {
	t.Helper()
	token, err := keys.Make("shop", stage, id, time.Now().Add(ttl))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ask is a subscribe frame.
func ask(t *testing.T, id, token, seq string) string {
	t.Helper()
	fields := map[string]string{"action": "subscribe", "id": id}
	if token != "" {
		fields["token"] = token
	}
	if seq != "" {
		fields["seq"] = seq
	}
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// causes counts refusals; safe for concurrent use.
type causes struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *causes) add(cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[cause]++
}

func (c *causes) of(cause string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[cause]
}

func TestATokenIsCheckedForEachMessageAndSaysNothing(t *testing.T) {
	keys, others := keysOf(t, "shop=a", "shop=b"), keysOf(t, "shop=x")
	var refused causes
	r := setup(t, func(c *live.Config) { c.Keys, c.Stage, c.RefusedFunc = keys, "prod", refused.add })
	words := map[string]bool{}
	for cause, token := range map[string]func(good, id string) string{
		"token_malformed":     func(string, string) string { return "" },
		"token_changed":       func(good, _ string) string { return good[:len(good)-1] + "!" },
		"token_foreign_id":    func(string, string) string { return mint(t, keys, "prod", "other", time.Minute) },
		"token_foreign_stage": func(_, id string) string { return mint(t, keys, "test", id, time.Minute) },
		"token_expired":       func(_, id string) string { return mint(t, keys, "prod", id, -time.Second) },
		"token_too_long":      func(_, id string) string { return mint(t, keys, "prod", id, 48*time.Hour) },
		"token_unknown_key":   func(good, _ string) string { return strings.Replace(good, "shop", "ship", 1) },
	} {
		id := "m-" + cause
		good := mint(t, keys, "prod", id, time.Minute)
		c := r.connect()
		c.send(ask(t, id, token(good, id), ""))
		f := c.next()
		if f.Error != "bad_token" || f.ID != id || f.State != "" {
			t.Errorf("%s is answered with %+v", cause, f)
		}
		words[f.Message] = true
		if refused.of(cause) != 1 {
			t.Errorf("%s was counted %d times", cause, refused.of(cause))
		}
		c.send(ask(t, id, good, "")) // the connection is served on
		c.wantStatus(id, engine.Queued, engine.Seq{})
		c.send(ask(t, id, token(good, id), "")) // the next one is checked as well,
		c.wantError("bad_token", id)
		r.notify(status(id, engine.Processing, 0, 1)) // and ends nothing
		c.wantStatus(id, engine.Processing, engine.Seq{Count: 1})
	}
	if len(words) != 1 {
		t.Errorf("they are told apart: %v", words)
	}
	c := r.connect()
	c.send(ask(t, "m", mint(t, others, "prod", "m", time.Minute), ""))
	c.wantError("bad_token", "m")
	c.send(ask(t, "m", mint(t, keysOf(t, "shop=b"), "prod", "m", time.Minute), "")) // the other of two live keys
	c.wantStatus("m", engine.Queued, engine.Seq{})
}

func TestGuessingTokensEndsTheConnection(t *testing.T) {
	keys := keysOf(t, "shop=a")
	r := setup(t, func(c *live.Config) { c.Keys, c.Stage = keys, "prod" })
	c := r.connect()
	for range 20 { // a page that slept has these
		c.send(ask(t, "m", mint(t, keys, "prod", "m", -time.Second), ""))
		c.wantError("bad_token", "m")
	}
	for range 10 {
		c.send(ask(t, "m", "guess", ""))
	}
	c.wantClosed(websocket.StatusPolicyViolation)
}

func TestWhoeverHasNoTokenKeepsNoPlace(t *testing.T) {
	keys := keysOf(t, "shop=a")
	withKeys := func(c *live.Config) { c.Keys, c.Stage = keys, "prod" }
	closes := func(t *testing.T, ws *websocket.Conn) (after time.Duration, code websocket.StatusCode) {
		began := time.Now()
		for {
			if _, _, err := ws.Read(t.Context()); err != nil {
				return time.Since(began), websocket.CloseStatus(err)
			}
		}
	}
	inABubble(t, func(t *testing.T, _ *enginetest.Memory, _ *live.Hub, ws *websocket.Conn) {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(ask(t, "m", "no token", ""))); err != nil {
			t.Fatal(err)
		}
		if after, code := closes(t, ws); after < 29*time.Second || after > 31*time.Second || code != websocket.StatusPolicyViolation {
			t.Errorf("closed after %v with %v", after, code)
		}
	}, withKeys)
	inABubble(t, func(t *testing.T, table *enginetest.Memory, hub *live.Hub, ws *websocket.Conn) {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(ask(t, "m", mint(t, keys, "prod", "m", time.Minute), ""))); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		rec, err := table.Record(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		hub.Notify(rec.Watchers, status("m", engine.Done, 0, 1)) // so it watches nothing any more
		time.AfterFunc(time.Hour, func() { _ = hub.Close() })
		if after, code := closes(t, ws); after < time.Hour || code != websocket.StatusGoingAway {
			t.Errorf("one who had a token was closed after %v with %v", after, code)
		}
	}, withKeys)
}

func TestOperatorsNeedNoToken(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.Keys, c.Stage = keysOf(t, "shop=a"), "prod" })
	port, stop := listen(t, r.hub.Operators())
	defer stop()
	r.url = "http://127.0.0.1:" + port
	c := r.connect()
	c.subscribe("m")
	c.wantStatus("m", engine.Queued, engine.Seq{})
	_ = c.ws.CloseNow()
	r.watchers("m", 0)
}

func listen(t *testing.T, h http.Handler) (port string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	return port, func() { server.Close(); <-served }
}

func TestAWatcherIsDroppedWhenItsTokenEnds(t *testing.T) {
	keys := keysOf(t, "shop=a")
	inABubble(t, func(t *testing.T, table *enginetest.Memory, hub *live.Hub, ws *websocket.Conn) {
		read := func() (f frame) {
			t.Helper()
			_, data, err := ws.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &f); err != nil {
				t.Fatal(err)
			}
			return f
		}
		send := func(text string) {
			t.Helper()
			if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		for id, ttl := range map[string]time.Duration{"long": time.Hour, "short": 10 * time.Second, "renewed": 10 * time.Second} {
			send(ask(t, id, mint(t, keys, "prod", id, ttl), ""))
			if f := read(); f.ID != id || f.State != engine.Queued {
				t.Fatalf("%+v", f)
			}
			rec, err := table.Record(t.Context(), id)
			if want := began.Add(ttl); err != nil || len(rec.Watchers) != 1 || rec.Watchers[0].Until.After(want) {
				t.Errorf("%s: the record has %+v, %v", id, rec.Watchers, err)
			}
		}
		send(ask(t, "renewed", mint(t, keys, "prod", "renewed", 15*time.Second), ""))
		read()
		watchers := map[string][]engine.Watcher{}
		for _, id := range []string{"short", "renewed"} {
			rec, _ := table.Record(t.Context(), id)
			watchers[id] = rec.Watchers
		}
		for _, id := range []string{"short", "renewed"} {
			f := read() // after the time it takes
			took := time.Since(began)
			want := map[string]time.Duration{"short": 10 * time.Second, "renewed": 15 * time.Second}[id]
			if f.Error != "token_expired" || f.ID != id || took < want-time.Second || took > want+time.Second {
				t.Errorf("after %v: %+v", took, f)
			}
			hub.Notify(watchers[id], status(id, engine.Done, 0, 1)) // by an engine that has not heard of it
		}
		rec, _ := table.Record(t.Context(), "long")
		hub.Notify(rec.Watchers, status("long", engine.Done, 0, 1))
		if f := read(); f.ID != "long" || f.State != engine.Done {
			t.Errorf("after that came %+v", f)
		}
	}, func(c *live.Config) { c.Keys, c.Stage = keys, "prod" })
}

func TestTenThousandConnectionsOfOneAddressAreBounded(t *testing.T) {
	var refused causes
	r := setup(t, func(c *live.Config) { c.MaxPerAddress, c.RefusedFunc = 8, refused.add })
	clients := make([]*client, 8)
	for i := range clients {
		clients[i] = r.connect()
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	transport := &http.Transport{DisableKeepAlives: true}
	before, goroutines := heap(), runtime.NumGoroutine()
	var wrong atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2500 {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/ws", http.NoBody)
				if err != nil {
					t.Error(err)
					return
				}
				for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
					request.Header.Set(name, value)
				}
				response, err := transport.RoundTrip(request)
				if err != nil {
					t.Error(err)
					return
				}
				response.Body.Close()
				if response.StatusCode != http.StatusTooManyRequests || !response.Close || response.Header.Get("Retry-After") == "" {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	transport.CloseIdleConnections()
	if n := refused.of("too_many_from_address"); n != 10_000 || wrong.Load() != 0 {
		t.Errorf("%d of 10000 were counted, %d answered wrongly", n, wrong.Load())
	}
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 100 {
		t.Errorf("there are %d goroutines more", more)
	}
	clients[0].subscribe("m") // those who are in are served on
	clients[0].wantStatus("m", engine.Queued, engine.Seq{})
	_ = clients[1].ws.CloseNow()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for { // and a place that is left is free a moment later
		if _, _, err := dial(r, ""); err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the place of a client that left is not free")
		}
	}
}

// Two addresses do not share their places.
func TestPlacesAreCountedByAddress(t *testing.T) {
	hub, err := live.New(live.Config{Table: enginetest.NewMemory(), MaxPerAddress: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	port, stop := listen(t, hub)
	defer stop()
	open := func(from string) int {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		transport := &http.Transport{DialContext: dialer.DialContext}
		t.Cleanup(transport.CloseIdleConnections)
		ws, response, err := websocket.Dial(t.Context(), "ws://127.0.0.1:"+port, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}}) //nolint:bodyclose // Dial has read it
		if err == nil {
			t.Cleanup(func() { _ = ws.CloseNow() })
		}
		return response.StatusCode
	}
	for _, c := range []struct {
		from string
		want int
	}{{"127.0.0.1", 101}, {"127.0.0.1", 429}, {"127.0.0.2", 101}, {"127.0.0.2", 429}} {
		if got := open(c.from); got != c.want {
			t.Errorf("%s is answered with %d, want %d", c.from, got, c.want)
		}
	}
}

func TestResumingGivesOnlyWhatIsNewer(t *testing.T) {
	r := setup(t)
	written := engine.Change{ID: "m", Type: "t", Digest: "d", NextHop: 2, Token: "w", State: engine.Retrying, Now: time.UnixMilli(1)} // 2.1000
	if _, err := r.table.Write(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	c := r.connect()
	c.send(ask(t, "m", "", "1.999999")) // an older one
	c.wantStatus("m", engine.Retrying, engine.Seq{Hop: 2, Count: 1000})
	for _, seq := range []string{"2.1000", "2.2000"} {
		again := r.connect()
		again.send(ask(t, "m", "", seq))
		again.send(ask(t, "other", "", "")) // so nothing came before this
		again.wantStatus("other", engine.Queued, engine.Seq{})
		r.notify(status("m", engine.Processing, 2, 1500))
		r.notify(status("m", engine.Processing, 2, 2001))
		f := again.next()
		for seq == "2.1000" && f.Seq.Count == 1500 {
			f = again.next()
		}
		if f.ID != "m" || f.Seq != (engine.Seq{Hop: 2, Count: 2001}) {
			t.Errorf("resumed from %s, got %+v", seq, f)
		}
	}
	c = r.connect()
	for _, bad := range []string{`"2"`, `"a.b"`, `7`, `{}`} {
		c.send(`{"action":"subscribe","id":"m","seq":` + bad + `}`)
		c.wantError("bad_request", "")
	}
	// One who has seen the end keeps no place.
	r2 := setup(t, func(c *live.Config) { c.MaxSubscriptions = 1 })
	if _, err := r2.table.Write(t.Context(), engine.Change{ID: "d", Type: "t", Digest: "d", NextHop: 1, Token: "w", State: engine.Done, Now: time.UnixMilli(1)}); err != nil {
		t.Fatal(err)
	}
	c = r2.connect()
	c.send(ask(t, "d", "", "1.9999999999999999"))
	c.subscribe("n")
	c.wantStatus("n", engine.Queued, engine.Seq{})
}

func TestTheLastProgressComesBeforeTheOutcome(t *testing.T) {
	r := setup(t)
	c := r.connect()
	for n := range 20 {
		id := "m-" + string(rune('a'+n))
		c.subscribe(id)
		c.wantStatus(id, engine.Queued, engine.Seq{})
		watchers := r.watchers(id, 1)
		ratio := 0.9
		last := status(id, engine.Processing, 0, 2)
		last.Progress, last.Note = &ratio, "sending"
		r.hub.Notify(watchers, last)
		r.hub.Notify(watchers, status(id, engine.Done, 0, 3)) // before anything can be written
		if f := c.wantStatus(id, engine.Processing, engine.Seq{Count: 2}); f.Note != "sending" {
			t.Errorf("%+v", f)
		}
		c.wantStatus(id, engine.Done, engine.Seq{Count: 3})
	}
}

func TestKeysNeedAStage(t *testing.T) {
	if _, err := live.New(live.Config{Table: &failing{}, Keys: keysOf(t, "shop=a")}); err == nil || !strings.Contains(err.Error(), "stage") {
		t.Errorf("New answers %v", err)
	}
}
