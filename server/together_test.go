package server_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/live"
	"usher/engine/enginetest"
	"usher/handlers"
	"usher/server"
)

// inProcess serves every type with one function, as one plugin.
type inProcess struct{ handlers.HandlerFunc }

func (inProcess) Plugin(string) (string, bool) { return "test", true }
func (inProcess) Credit(string) int            { return 8 }
func (inProcess) Changed() <-chan struct{}     { return nil }

// together is an engine, a hub and a server that know each other, as they do
// in a process.
func together(t *testing.T, h handlers.HandlerFunc) (*enginetest.FakeBroker, string) {
	t.Helper()
	broker, table, metrics := enginetest.NewFakeBroker(), enginetest.NewMemory(), server.NewMetrics([]string{"order.placed"})
	var eng *engine.Engine
	hub, err := live.New(live.Config{Table: table, NudgeFunc: func(id string, w engine.Watcher) { eng.Watch(id, w) }, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	eng, err = engine.New(engine.Config{
		Bodies: table, Index: table, Holds: table,
		Broker: broker, Records: table, Handler: inProcess{h}, Notifier: hub, Observer: metrics, Log: zerolog.Nop(),
		Types: map[string]engine.Type{"order.placed": {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{
		Addr: "127.0.0.1:0", Table: table, Broker: broker, Engine: eng, Metrics: metrics, Live: hub, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 2)
	broker.Connect()
	go func() { ended <- eng.Run(ctx) }()
	go func() { ended <- s.Run(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return broker, ln.Addr().String()
}

func TestAWatcherSeesAMessageFromQueuedToDone(t *testing.T) {
	packing, goOn := make(chan struct{}), make(chan struct{})
	broker, addr := together(t, func(_ context.Context, m *handlers.Message) error {
		m.Progress(0.5, "packing")
		close(packing)
		<-goOn
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/ws", &websocket.DialOptions{HTTPClient: client}) //nolint:bodyclose // Dial has read it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	next := func() engine.Status {
		t.Helper()
		var s engine.Status
		_, data, err := ws.Read(ctx)
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"action":"subscribe","id":"order-7"}`)); err != nil {
		t.Fatal(err)
	}
	last := next()
	if last.State != engine.Queued {
		t.Fatalf("the snapshot is %+v", last)
	}
	broker.Send(engine.Outgoing{
		Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderID: "order-7", engine.HeaderType: "order.placed"}, Body: []byte(`{}`),
	})
	<-packing
	for last.Note != "packing" { // processing may be told before it
		s := next()
		if s.State != engine.Processing || !last.Seq.Less(s.Seq) {
			t.Fatalf("%+v came after %+v", s, last)
		}
		last = s
	}
	var m server.Message
	get(t, client, "http://"+addr+"/api/v1/messages/order-7", &m)
	if m.State != engine.Processing || m.Live == nil || m.Live.Note != "packing" {
		t.Errorf("while it runs it is %+v", m)
	}
	close(goOn)
	if s := next(); s.State != engine.Done || !last.Seq.Less(s.Seq) {
		t.Errorf("in the end it is %+v", s)
	}
	var after server.Message
	get(t, client, "http://"+addr+"/api/v1/messages/order-7", &after)
	if after.State != engine.Done || after.Type != "order.placed" || after.Attempts != 1 || after.Live != nil {
		t.Errorf("in the end the record is %+v", after)
	}
}

func get(t *testing.T, client *http.Client, url string, answer any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		t.Fatal(err)
	}
}
