package pluginhost_test

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine/pluginhost"
	"usher/handlers"
)

const patience = 20 * time.Second

// output collects what is logged; safe for concurrent use.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// settings are those of a host with one plugin, which is this test binary.
type settings struct {
	role    string // default: plugin
	types   []string
	env     map[string]string
	plugin  pluginhost.Plugin // what is not the same for all
	drain   time.Duration
	unready bool // do not wait
}

// host is a host that runs.
type host struct {
	*pluginhost.Host
	t    testing.TB
	log  *output
	stop context.CancelFunc
	done chan error // Run's
	dir  string     // the runtime folder
	cfg  pluginhost.Config
}

func launch(t testing.TB, s settings) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "ut") //nolint:usetesting // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := s.plugin
	if p.Command == nil {
		p.Command = os.Args[:1]
	}
	p.Env = map[string]string{role: "plugin", "GORACE": "atexit_sleep_ms=0"} // else a race detector lives on for a second
	if s.role != "" {
		p.Env[role] = s.role
	}
	maps.Copy(p.Env, s.env)
	types := map[string]string{}
	for _, typ := range s.types {
		types[typ] = "test"
	}
	h := &host{t: t, log: &output{}, done: make(chan error, 1), dir: dir}
	h.cfg = pluginhost.Config{
		Plugins: map[string]pluginhost.Plugin{"test": p}, Types: types, RuntimeDir: dir, Drain: s.drain, Log: zerolog.New(h.log),
	}
	h.Host, err = pluginhost.New(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() { h.done <- h.Run(ctx) }()
	t.Cleanup(h.end)
	if !s.unready {
		h.waitReady()
	}
	return h
}

// end stops the host and checks that nothing is left of it.
func (h *host) end() {
	h.stop()
	select {
	case err := <-h.done:
		h.done <- nil
		if err != nil {
			h.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		h.t.Fatalf("Run does not end\n%s", h.log)
	}
	if s := h.status(); s.State != pluginhost.Stopped || s.PID != 0 || s.InFlight != 0 {
		h.t.Errorf("after Run: %+v", s)
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) != 0 {
		h.t.Errorf("left in the runtime folder: %v, %v", entries, err)
	}
	for _, pid := range h.pids() {
		if left := members(h.t, pid); len(left) > 0 {
			h.t.Errorf("of the group of process %d are left: %v", pid, left)
		}
	}
	if h.t.Failed() {
		h.t.Logf("%.5000s", h.log)
	}
}

// pids are those of all processes that were ready.
func (h *host) pids() []int {
	var pids []int
	for line := range strings.SplitSeq(h.log.String(), "\n") {
		if _, after, ok := strings.Cut(line, `"pid":`); ok {
			pids = append(pids, number(h.t, strings.FieldsFunc(after, func(r rune) bool { return r < '0' || r > '9' })[0]))
		}
	}
	return pids
}

// members are the processes of a group that have not ended.
func members(t testing.TB, group int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Fatalf("no processes at all: %v", err)
	}
	var pids []int
	for _, path := range stats {
		stat, _ := os.ReadFile(path) // it may have ended meanwhile
		pid, after, _ := strings.Cut(string(stat), " (")
		_, after, _ = strings.Cut(after, ") ")
		if f := strings.Fields(after); len(f) > 2 && f[0] != "Z" && number(t, f[2]) == group {
			pids = append(pids, number(t, pid))
		}
	}
	return pids
}

func (h *host) status() pluginhost.PluginStatus { return h.Status()[0] }

func (h *host) waitReady() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.WaitReady(ctx); err != nil {
		h.t.Fatalf("%v\n%s", err, h.log)
	}
}

// await waits until the status is as wanted.
func (h *host) await(what string, ok func(pluginhost.PluginStatus) bool) pluginhost.PluginStatus {
	h.t.Helper()
	var s pluginhost.PluginStatus
	eventually(h.t, what, func() bool { s = h.status(); return ok(s) })
	return s
}

// again waits until another process than pid is ready.
func (h *host) again(pid int) pluginhost.PluginStatus {
	h.t.Helper()
	return h.await("it is ready again", func(s pluginhost.PluginStatus) bool {
		return s.State == pluginhost.Ready && s.PID != pid
	})
}

// eventually polls what has no event to wait for: processes and their status.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func message(typ string) *handlers.Message {
	return &handlers.Message{ID: "id-" + typ, Type: typ, Attempt: 1, IdempotencyKey: "key", Body: []byte("body")}
}

// attempt is a message under way.
type attempt struct {
	t     testing.TB
	begun chan struct{} // closed at the first progress
	done  chan struct{} // closed when the rest is set

	followOns []handlers.FollowOn
	err       error
}

// begin starts an attempt.
func (h *host) begin(ctx context.Context, m *handlers.Message) *attempt {
	a := &attempt{t: h.t, begun: make(chan struct{}), done: make(chan struct{})}
	report := sync.OnceFunc(func() { close(a.begun) })
	go func() {
		defer close(a.done)
		a.followOns, a.err = handlers.Run(ctx, h.Host, m, func(p handlers.Progress) {
			if p.Ratio != 0.5 || p.Note != "begun" {
				h.t.Errorf("progress %+v", p)
			}
			report()
		})
	}()
	return a
}

func (a *attempt) awaitBegun() {
	a.t.Helper()
	select {
	case <-a.begun:
	case <-time.After(patience):
		a.t.Fatal("the message does not begin")
	}
}

// result waits for the end.
func (a *attempt) result() ([]handlers.FollowOn, error) {
	a.t.Helper()
	select {
	case <-a.done:
	case <-time.After(patience):
		a.t.Fatal("the message does not end")
	}
	return a.followOns, a.err
}

// do runs one message to its end.
func (h *host) do(m *handlers.Message) ([]handlers.FollowOn, error) {
	h.t.Helper()
	return h.begin(context.Background(), m).result()
}

func number(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
