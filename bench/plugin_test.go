package bench

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/pluginhost"
	"usher/handlers"
	"usher/handlers/plugin"
)

// The types that the plugin serves.
const (
	typeNothing = "nothing" // is done at once
	typeWork    = "work"    // takes 2 ms, and tells how long an urgent one took to come
	typeEffect  = "effect"  // tells its idempotency key
)

// pluginRole is the environment variable that makes this binary the plugin; its
// value is the file that the plugin tells in.
const pluginRole = "USHER_BENCH_PLUGIN"

// workTime is how long a message of type work takes: it waits, as for a database.
const workTime = 2 * time.Millisecond

// urgentLevel is the level of messages whose body is the time when they were sent.
const urgentLevel = 9

func servePlugin() {
	told, err := os.OpenFile(os.Getenv(pluginRole), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	mux := &handlers.Mux{}
	mux.Handle(typeNothing, func(context.Context, *handlers.Message) error { return nil })
	mux.Handle(typeEffect, func(_ context.Context, m *handlers.Message) error {
		_, err := told.WriteString(m.IdempotencyKey + "\n")
		return err
	})
	mux.Handle(typeWork, func(ctx context.Context, m *handlers.Message) error {
		if m.Priority == urgentLevel {
			if _, err := told.Write(binary.BigEndian.AppendUint64(nil, uint64(sinceSent(m.Body)))); err != nil {
				return err
			}
		}
		return work(ctx, workTime)
	})
	plugin.ServeConfig(plugin.Config{Handler: mux, Concurrency: engine.DefaultSlots})
}

// work takes its time, and no processor.
func work(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sentNow is a body that says when it was made; sinceSent how long ago that is,
// by the clock of the machine, which all processes share.
func sentNow() []byte { return strconv.AppendInt(nil, time.Now().UnixNano(), 10) }

func sinceSent(body []byte) time.Duration {
	sent, err := strconv.ParseInt(string(body), 10, 64)
	if err != nil {
		panic(err)
	}
	return time.Since(time.Unix(0, sent))
}

// pluginProcess is a running plugin.
type pluginProcess struct {
	*pluginhost.Host

	told   string // the file it tells in
	config pluginhost.Config
}

// startPlugin starts this binary as a plugin.
func startPlugin(t testing.TB) pluginProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := pluginProcess{told: filepath.Join(t.TempDir(), "told")}
	if err := os.WriteFile(p.told, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.config = pluginhost.Config{
		Plugins: map[string]pluginhost.Plugin{"bench": {Command: []string{self}, Env: map[string]string{pluginRole: p.told}}},
		Types:   map[string]string{typeNothing: "bench", typeWork: "bench"},
		Log:     zerolog.Nop(),
	}
	p.Host, err = pluginhost.New(p.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("plugin host: %v", err)
		}
	})
	if err := p.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p pluginProcess) pid() int { return p.Status()[0].PID }

// forget drops what the plugin has told.
func (p pluginProcess) forget() error { return os.Truncate(p.told, 0) }

// waits is how long the urgent messages took to come, since forget.
func (p pluginProcess) waits() ([]time.Duration, error) {
	bytes, err := os.ReadFile(p.told)
	if err != nil {
		return nil, err
	}
	var waits []time.Duration
	for one := range slices.Chunk(bytes, 8) {
		waits = append(waits, time.Duration(binary.BigEndian.Uint64(one)))
	}
	return waits, nil
}
