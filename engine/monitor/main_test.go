package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine"
	"usher/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source gives what a test sends, and notes what becomes of it.
type source struct {
	batches chan engine.Batch

	mu    sync.Mutex
	acked []string // guarded by mu, as the rest
	left  []string
}

func newSource() *source { return &source{batches: make(chan engine.Batch, 100)} }

func (s *source) Receive(ctx context.Context) (engine.Batch, error) {
	select {
	case b := <-s.batches:
		return b, nil
	case <-ctx.Done():
		return engine.Batch{}, ctx.Err()
	}
}

func (s *source) Queue(d engine.Delivery) string { return engine.DeadQueues(engine.WorkQueue)[d.Lane] }

func (s *source) Ack(d engine.Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = append(s.acked, d.BrokerID)
	return nil
}

func (s *source) Leave(d engine.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = append(s.left, d.BrokerID)
}

func (s *source) settled() (acked, left []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked, s.left
}

// ops keeps the notes that it was told.
type ops struct {
	mu    sync.Mutex
	notes []Note // guarded by mu
	tell  func(ctx context.Context) error
}

func (o *ops) Tell(ctx context.Context, n Note) error {
	if o.tell != nil {
		if err := o.tell(ctx); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.notes = append(o.notes, n)
	return nil
}

func (o *ops) told() []Note {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.notes
}

// watchers is a Notifier that keeps what it was told.
type watchers struct {
	mu   sync.Mutex
	told []engine.Status // guarded by mu
}

func (w *watchers) Notify(_ []engine.Watcher, s engine.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, s)
}

// lines is a log that can be read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// with are the lines that say so, decoded.
func (l *lines) with(t *testing.T, message string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range bytes.Lines([]byte(l.String())) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if fields["message"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// rig is a monitor on fakes.
type rig struct {
	t       *testing.T
	source  *source
	table   *enginetest.Memory
	ops     *ops
	notes   *watchers
	log     *lines
	monitor *Monitor
	stop    func()
}

// start runs a monitor until stop is called or the test ends.
func start(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, source: newSource(), table: enginetest.NewMemory(), ops: &ops{}, notes: &watchers{}, log: &lines{}}
	cfg := Config{Source: r.source, Archive: r.table, Records: r.table, Notifier: r.notes, Ops: []Ops{r.ops}, Log: zerolog.New(r.log)}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r.monitor, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.monitor.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// letters are all in the archive, the youngest first.
func letters(t *testing.T, a engine.Archive) []engine.DeadLetter {
	t.Helper()
	all, err := a.Letters(t.Context(), engine.LetterQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// dead is a delivery of a dead letter of the engine.
func dead(id, detail string) engine.Delivery {
	return engine.Delivery{Epoch: 1, BrokerID: "ID:" + id, Body: []byte("secret"), Headers: map[string]string{
		engine.HeaderID: id, engine.HeaderType: "order.placed", engine.HeaderPriority: "8", engine.HeaderHop: "1", engine.HeaderAttempts: "3",
		engine.HeaderDeadReason: engine.ReasonExhausted, engine.HeaderDeadDetail: detail, engine.HeaderOrigin: engine.WorkQueue,
	}}
}

// byTheBroker is one that the broker dead-lettered: it is in DLQ.usher.work.p9.
func byTheBroker(id string) engine.Delivery {
	return engine.Delivery{Epoch: 1, Lane: 3, BrokerID: "ID:" + id, Body: []byte("secret"), Headers: map[string]string{
		engine.HeaderID: id, engine.HeaderType: "order.placed", engine.HeaderPriority: "9",
	}}
}
