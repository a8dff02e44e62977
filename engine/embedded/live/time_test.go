package live_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/live"
	"usher/engine/enginetest"
)

// pipes is a listener whose connections are in memory, so that time can be
// synctest's.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inABubble runs f with one client of a hub, in synctest's time.
func inABubble(t *testing.T, f func(t *testing.T, table *enginetest.Memory, hub *live.Hub, ws *websocket.Conn), changes ...func(*live.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		table := enginetest.NewMemory()
		cfg := live.Config{Table: table, Log: zerolog.Nop()}
		for _, change := range changes {
			change(&cfg)
		}
		hub, err := live.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipes()
		server := &http.Server{Handler: hub}
		served := make(chan struct{})
		go func() { _ = server.Serve(ln); close(served) }()
		transport := &http.Transport{DialContext: ln.dial}
		ws, _, err := websocket.Dial(t.Context(), "ws://hub/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}}) //nolint:bodyclose // Dial has read it
		if err != nil {
			t.Fatal(err)
		}
		f(t, table, hub, ws)
		_ = ws.CloseNow()
		_ = hub.Close()
		_ = server.Close()
		transport.CloseIdleConnections()
		<-served
	})
}

func subscribe(t *testing.T, ws *websocket.Conn, id string) {
	t.Helper()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"action":"subscribe","id":"`+id+`"}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAnOpenConnectionStaysAWatcherAndLearnsWhatItMissed(t *testing.T) {
	inABubble(t, func(t *testing.T, table *enginetest.Memory, _ *live.Hub, ws *websocket.Conn) {
		subscribe(t, ws, "m")
		frames := make(chan string, 1)
		go func() {
			defer close(frames)
			for {
				_, data, err := ws.Read(t.Context()) // and answers pings
				if err != nil {
					return
				}
				frames <- string(data)
			}
		}()
		<-time.After(2 * time.Hour)
		rec, err := table.Record(t.Context(), "m")
		if err != nil || len(rec.Watchers) != 1 || !rec.Watchers[0].Until.After(time.Now().Add(9*time.Minute)) {
			t.Fatalf("after two hours the watchers are %v, %v", rec.Watchers, err)
		}
		if _, err := table.Write(t.Context(), engine.Change{ID: "m", Type: "t", Digest: "d", NextHop: 1, Token: "x", State: engine.Delayed, Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		<-time.After(6 * time.Minute) // nobody has told of that
		select {
		case f := <-frames:
			t.Logf("learned: %s", f)
		default:
			t.Error("a renewal did not tell what the record says")
		}
		_ = ws.CloseNow()
		for range frames {
			t.Error("there was more than that")
		}
	})
}

func TestAClientThatDoesNotAnswerPingsIsCutOff(t *testing.T) {
	inABubble(t, func(t *testing.T, table *enginetest.Memory, _ *live.Hub, ws *websocket.Conn) {
		subscribe(t, ws, "m")
		<-time.After(live.DefaultPing + live.DefaultWriteTimeout + time.Second) // it reads nothing
		synctest.Wait()
		rec, err := table.Record(t.Context(), "m")
		if err != nil || len(rec.Watchers) != 0 {
			t.Errorf("the watchers are %v, %v", rec.Watchers, err)
		}
	})
}

func TestClosingDoesNotWaitForAClientThatTakesNothing(t *testing.T) {
	inABubble(t, func(t *testing.T, table *enginetest.Memory, hub *live.Hub, ws *websocket.Conn) {
		subscribe(t, ws, "m")
		rec, err := table.Record(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		hub.Notify(rec.Watchers, status("m", engine.Processing, 0, 1)) // whose write is stuck
		synctest.Wait()
		began := time.Now()
		if err := hub.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("closing took %v", took)
		}
	})
}
