package live_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine"
	"usher/engine/embedded/live"
	"usher/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is how long a test waits for what has to come.
const deadline = 20 * time.Second

// The hub takes the engine's own methods.
var _ = live.Config{NudgeFunc: (*engine.Engine)(nil).Watch}

// rig is a hub behind a real server.
type rig struct {
	t     *testing.T
	table *enginetest.Memory
	hub   *live.Hub
	url   string
}

// setup changes the configuration with the given functions before it starts.
func setup(t *testing.T, changes ...func(*live.Config)) *rig {
	t.Helper()
	r := &rig{t: t, table: enginetest.NewMemory()}
	cfg := live.Config{Table: r.table, Log: zerolog.Nop()}
	for _, change := range changes {
		change(&cfg)
	}
	hub, err := live.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.hub = hub
	server := httptest.NewUnstartedServer(hub)
	server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if tcp, ok := c.(*net.TCPConn); ok && s == http.StateNew {
			_ = tcp.SetWriteBuffer(8 << 10) // so that a slow client is seen soon
		}
	}
	server.Start()
	r.url = server.URL
	t.Cleanup(func() {
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return r
}

// notify tells those who the record says are watching.
func (r *rig) notify(s engine.Status) {
	r.t.Helper()
	rec, err := r.table.Record(r.t.Context(), s.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	r.hub.Notify(rec.Watchers, s)
}

// watchers waits until the record of the id has n of them.
func (r *rig) watchers(id string, n int) []engine.Watcher {
	r.t.Helper()
	end := time.NewTimer(deadline)
	defer end.Stop()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		rec, err := r.table.Record(r.t.Context(), id)
		if err == nil && len(rec.Watchers) == n {
			return rec.Watchers
		}
		select {
		case <-again.C:
		case <-end.C:
			r.t.Fatalf("the record of %s has the watchers %v (%v), want %d", id, rec.Watchers, err, n)
		}
	}
}

// client is one browser.
type client struct {
	t  *testing.T
	ws *websocket.Conn
}

// answer is what a handshake is answered with.
type answer struct {
	status int
	header http.Header
}

func dial(r *rig, origin string) (*client, answer, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), deadline)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			_ = c.(*net.TCPConn).SetReadBuffer(8 << 10)
		}
		return c, err
	}}
	r.t.Cleanup(transport.CloseIdleConnections)
	opts := &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, HTTPHeader: http.Header{}}
	if origin != "" {
		opts.HTTPHeader.Set("Origin", origin)
	}
	ws, response, err := websocket.Dial(ctx, strings.Replace(r.url, "http", "ws", 1)+"/ws", opts) //nolint:bodyclose // Dial has read it
	var a answer
	if response != nil {
		a = answer{response.StatusCode, response.Header}
	}
	if err != nil {
		return nil, a, err
	}
	r.t.Cleanup(func() { _ = ws.CloseNow() })
	return &client{t: r.t, ws: ws}, a, nil
}

func (r *rig) connect() *client {
	r.t.Helper()
	c, _, err := dial(r, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (c *client) send(frame string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), deadline)
	defer cancel()
	if err := c.ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(id string) {
	c.t.Helper()
	frame, err := json.Marshal(map[string]string{"action": "subscribe", "id": id, "token": "of another endpoint"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(string(frame))
}

// frame is what a client may get: a status, or a failure.
type frame struct {
	engine.Status

	Error   string `json:"error"`
	Message string `json:"message"`
}

func (c *client) read() (frame, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), deadline)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	if err != nil {
		return frame{}, err
	}
	// A failure has no seq, and the zero Seq cannot be read from nothing.
	var f frame
	return f, json.Unmarshal(data, &f)
}

// next reads one frame that has to come.
func (c *client) next() frame {
	c.t.Helper()
	f, err := c.read()
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// wantStatus reads one frame and checks which one it is.
func (c *client) wantStatus(id string, state engine.State, seq engine.Seq) frame {
	c.t.Helper()
	f := c.next()
	if f.ID != id || f.State != state || f.Seq != seq || f.V != engine.StatusVersion {
		c.t.Fatalf("got %+v, want %s %s %v", f, id, state, seq)
	}
	return f
}

// wantError reads one frame and checks that it is this failure.
func (c *client) wantError(code, id string) {
	c.t.Helper()
	if f := c.next(); f.Error != code || f.ID != id || f.Message == "" || f.V != engine.StatusVersion {
		c.t.Fatalf("got %+v, want the error %s for %q", f, code, id)
	}
}

// wantClosed reads what is left and checks with what code the server closes.
func (c *client) wantClosed(code websocket.StatusCode) {
	c.t.Helper()
	for {
		_, err := c.read()
		if err == nil {
			continue
		}
		if got := websocket.CloseStatus(err); got != code {
			c.t.Fatalf("closed with %v (%v), want %v", got, err, code)
		}
		return
	}
}

func status(id string, state engine.State, hop, count int) engine.Status {
	return engine.Status{V: engine.StatusVersion, ID: id, Seq: engine.Seq{Hop: hop, Count: count}, State: state, At: time.Now().UTC()}
}
