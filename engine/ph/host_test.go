package pluginhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine"
	"usher/handlers"
	"usher/handlers/plugin"
)

// asPlugin makes the test binary be the plugin of these tests.
const asPlugin = "USHER_TEST_PLUGIN"

func TestMain(m *testing.M) {
	switch os.Getenv(asPlugin) {
	case "":
		goleak.VerifyTestMain(m)
	case "good":
		plugin.ServeConfig(plugin.Config{Handler: testMux(), Types: testMux().Types(), Name: "test", Version: "7", Concurrency: 4})
	case "host":
		hostUntilKilled()
	case "exits":
		fmt.Fprintln(os.Stderr, "cannot read my licence")
		os.Exit(3)
	case "garbage":
		fmt.Println(strings.Repeat("no handshake ", 100_000))
		time.Sleep(time.Minute) // in a process of its own, which is killed
	}
}

// testMux is what the plugin of these tests does.
func testMux() *handlers.Mux {
	mux := &handlers.Mux{}
	mux.Handle("ok", func(context.Context, *handlers.Message) error { return nil })
	mux.Handle("fail", func(context.Context, *handlers.Message) error { return errors.New("boom") })
	mux.Handle("later", func(context.Context, *handlers.Message) error {
		return handlers.RetryAfter(time.Minute, errors.New("busy"))
	})
	mux.Handle("defer", func(context.Context, *handlers.Message) error { return handlers.Defer(time.Hour) })
	mux.Handle("never", func(context.Context, *handlers.Message) error { return handlers.Permanent(errors.New("no"), "no_way") })
	mux.Handle("drop", func(context.Context, *handlers.Message) error { return handlers.Drop() })
	mux.Handle("panic", func(context.Context, *handlers.Message) error { panic("aaah") })
	mux.Handle("emit", func(_ context.Context, m *handlers.Message) error {
		m.Progress(0.5, "half")
		return m.EmitFollowOn(handlers.FollowOn{Type: "next", Body: m.Body, Key: "k"})
	})
	mux.Handle("env", func(context.Context, *handlers.Message) error { return errors.New(strings.Join(os.Environ(), "\n")) })
	mux.Handle("wait", func(ctx context.Context, m *handlers.Message) error {
		if err := os.WriteFile(string(m.Body), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	mux.Handle("hang", func(_ context.Context, m *handlers.Message) error {
		if err := os.WriteFile(string(m.Body), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return err
		}
		select {}
	})
	mux.Handle("noise", func(context.Context, *handlers.Message) error {
		fmt.Fprintln(os.Stderr, `{"@message":123}`)
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20))
		fmt.Println(strings.Repeat("y", 1<<20))
		return nil
	})
	mux.Handle("child", func(context.Context, *handlers.Message) error {
		cmd := exec.Command("sleep", "600")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		return handlers.Permanent(errors.New(strconv.Itoa(cmd.Process.Pid)), "child")
	})
	mux.Handle("die", func(context.Context, *handlers.Message) error {
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(1)
		return nil
	})
	return mux
}

// good is the plugin of these tests.
func good(t *testing.T) Plugin {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Plugin{Command: []string{self}, Env: map[string]string{asPlugin: "good"}, Grace: 300 * time.Millisecond}
}

// log collects what a host logs.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run runs a host with one plugin for a test.
func run(t *testing.T, p Plugin) (*Host, *log) {
	t.Helper()
	l := &log{}
	types := map[string]string{}
	for _, typ := range testMux().Types() {
		types[typ] = "test"
	}
	h, err := New(Config{Plugins: map[string]Plugin{"test": p}, Types: types, Log: zerolog.New(l), Drain: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		pid := h.Status()[0].PID
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if pid != 0 && groupAlive(pid) {
			t.Errorf("processes of the group %d are left", pid)
		}
	})
	return h, l
}

func ready(t *testing.T, h *Host) Status {
	t.Helper()
	eventually(t, 10*time.Second, func() bool { return h.Status()[0].State == Ready })
	return h.Status()[0]
}

// eventually waits for what another process does.
func eventually(t *testing.T, most time.Duration, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(most)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not so after %v", most)
		}
	}
}

// groupAlive says whether a process group has a process that is no zombie.
func groupAlive(pgid int) bool {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return true
	}
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest)
		if len(f) > 2 && f[0] != "Z" && f[2] == strconv.Itoa(pgid) {
			return true
		}
	}
	return false
}

func message(typ, body string) *handlers.Message {
	return &handlers.Message{ID: "1", Type: typ, Body: []byte(body), Attempt: 1}
}

func TestAnswersComeBackAsTheyWereGiven(t *testing.T) {
	h, _ := run(t, good(t))
	ready(t, h)
	tests := []struct {
		typ  string
		want handlers.Outcome
		says string
	}{
		{"ok", handlers.Outcome{Kind: handlers.Done}, ""},
		{"fail", handlers.Outcome{Kind: handlers.Retry}, "boom"},
		{"later", handlers.Outcome{Kind: handlers.Retry, After: time.Minute}, "busy"},
		{"defer", handlers.Outcome{Kind: handlers.Deferred, After: time.Hour}, ""},
		{"never", handlers.Outcome{Kind: handlers.Rejected, Code: "no_way"}, "no"},
		{"drop", handlers.Outcome{Kind: handlers.Dropped}, ""},
		{"panic", handlers.Outcome{Kind: handlers.Retry, Code: handlers.CodePanic}, "aaah"},
	}
	for _, tt := range tests {
		t.Run(tt.typ, func(t *testing.T) {
			_, err := handlers.Run(t.Context(), h, message(tt.typ, ""), nil)
			got := handlers.OutcomeOf(err)
			if got.Kind != tt.want.Kind || got.After != tt.want.After || got.Code != tt.want.Code || tt.says != "" && !strings.Contains(got.Err.Error(), tt.says) {
				t.Errorf("got %+v, want %+v and %q", got, tt.want, tt.says)
			}
		})
	}
	t.Run("emit", func(t *testing.T) {
		var last handlers.Progress
		outs, err := handlers.Run(t.Context(), h, message("emit", "body"), func(p handlers.Progress) { last = p })
		if err != nil || len(outs) != 1 || outs[0].Type != "next" || string(outs[0].Body) != "body" || outs[0].Key != "k" {
			t.Errorf("follow-ons %+v, error %v", outs, err)
		}
		if last.Ratio != 0.5 || last.Note != "half" {
			t.Errorf("progress %+v", last)
		}
	})
}

func TestNoSecretOfTheHostReachesThePlugin(t *testing.T) {
	t.Setenv("USHER_BROKER_PASSCODE", "canary")
	h, _ := run(t, good(t))
	ready(t, h)
	_, err := handlers.Run(t.Context(), h, message("env", ""), nil)
	if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), asPlugin) {
		t.Errorf("the plugin's environment is: %v", err)
	}
}

func TestNeverMoreThanTheCredit(t *testing.T) {
	h, _ := run(t, good(t))
	ready(t, h)
	if c := h.Credit("test"); c != 4 {
		t.Fatalf("credit %d, want the concurrency of 4", c)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if err := h.HandleMessage(ctx, message("wait", filepath.Join(dir, strconv.Itoa(i)))); err == nil {
				t.Error("a cancelled message was done")
			}
		})
	}
	eventually(t, 5*time.Second, func() bool { return h.Status()[0].InFlight == 4 })
	if err := h.HandleMessage(ctx, message("ok", "")); !errors.Is(err, engine.ErrPluginAway) {
		t.Errorf("the fifth of four: %v, want ErrPluginAway", err)
	}
	cancel()
	wg.Wait()
	if err := h.HandleMessage(t.Context(), message("ok", "")); err != nil {
		t.Errorf("after the others ended: %v", err)
	}
}

func TestADeadlineIsATimeoutAndTheProcessLivesOn(t *testing.T) {
	h, _ := run(t, good(t))
	before := ready(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := h.HandleMessage(ctx, message("wait", filepath.Join(t.TempDir(), "pid")))
	if o := handlers.OutcomeOf(err); o.Kind != handlers.Retry || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Errorf("outcome %+v", o)
	}
	if after := h.Status()[0]; after.PID != before.PID {
		t.Error("the process was replaced although its handler obeyed")
	}
}

// pidIn waits for a handler to write its process id.
func pidIn(t *testing.T, path string) (pid int) {
	t.Helper()
	eventually(t, 5*time.Second, func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(b))
		return err == nil
	})
	return pid
}

func TestAHandlerThatDoesNotObeyIsKilledWithItsProcess(t *testing.T) {
	h, _ := run(t, good(t))
	ready(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := h.HandleMessage(ctx, message("hang", filepath.Join(t.TempDir(), "pid")))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("error %v, want the deadline: the attempt counts", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v to get rid of it", took)
	}
	eventually(t, 2*time.Second, func() bool { return h.Credit("test") == 4 })
}

func TestAStoppedProcessIsKilled(t *testing.T) {
	h, _ := run(t, good(t))
	path := filepath.Join(t.TempDir(), "pid")
	ready(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- h.HandleMessage(ctx, message("wait", path)) }()
	if err := syscall.Kill(pidIn(t, path), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	eventually(t, 2*time.Second, func() bool { return h.Credit("test") == 4 })
}

func TestAKilledProcessIsNobodysAttemptAndIsBackWithinTwoSeconds(t *testing.T) {
	h, _ := run(t, good(t))
	path := filepath.Join(t.TempDir(), "pid")
	ready(t, h)
	ended := make(chan error, 1)
	go func() { ended <- h.HandleMessage(t.Context(), message("wait", path)) }()
	old := pidIn(t, path)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("error %v, want ErrPluginLost", err)
	}
	eventually(t, 2*time.Second, func() bool { s := h.Status()[0]; return s.State == Ready && s.PID != old })
	if err := h.HandleMessage(t.Context(), message("ok", "")); err != nil {
		t.Error(err)
	}
}

func TestTheLastWordsOfACrashAreInItsError(t *testing.T) {
	h, _ := run(t, good(t))
	ready(t, h)
	err := h.HandleMessage(t.Context(), message("die", ""))
	if !errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), "last words") {
		t.Errorf("error %v", err)
	}
}

func TestWhatAPluginPrintsHarmsNobody(t *testing.T) {
	h, l := run(t, good(t))
	before := ready(t, h)
	if err := h.HandleMessage(t.Context(), message("noise", "")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() bool { return strings.Contains(l.String(), `@message`) })
	if after := h.Status()[0]; after.PID != before.PID {
		t.Error("the process did not survive its own noise")
	}
	for line := range strings.Lines(l.String()) {
		if len(line) > 2*maxLine {
			t.Errorf("a log line of %d bytes", len(line))
		}
	}
}

func TestAGrandchildThatKeepsStderrDoesNotKeepTheHost(t *testing.T) {
	h, _ := run(t, good(t))
	ready(t, h)
	err := h.HandleMessage(t.Context(), message("child", ""))
	child, atoiErr := strconv.Atoi(handlers.OutcomeOf(err).Err.Error())
	if atoiErr != nil {
		t.Fatal(err)
	}
	if err := h.HandleMessage(t.Context(), message("die", "")); !errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("error %v", err)
	}
	eventually(t, 5*time.Second, func() bool { return h.Status()[0].State == Ready })
	eventually(t, 5*time.Second, func() bool { return errors.Is(syscall.Kill(child, 0), syscall.ESRCH) || zombie(child) })
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestStoppingWaitsForWhatIsInHand(t *testing.T) {
	h, err := New(Config{Plugins: map[string]Plugin{"test": good(t)}, Types: map[string]string{"wait": "test"}, Drain: 2 * time.Second, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	ready(t, h)
	path := filepath.Join(t.TempDir(), "pid")
	handling, finish := context.WithCancel(t.Context())
	handled := make(chan error, 1)
	go func() { handled <- h.HandleMessage(handling, message("wait", path)) }()
	pidIn(t, path)
	stop()
	eventually(t, time.Second, func() bool { return h.Status()[0].State == Draining })
	finish()
	if err := <-handled; errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("the message was lost by an orderly stop: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAPluginThatDoesNotStartIsNotStartedInAHotLoop(t *testing.T) {
	for mode, says := range map[string]string{"exits": "cannot read my licence", "garbage": "Unrecognized remote plugin message"} {
		t.Run(mode, func(t *testing.T) {
			p := good(t)
			p.Env = map[string]string{asPlugin: mode}
			p.StartTimeout = 2 * time.Second
			h, _ := run(t, p)
			eventually(t, 10*time.Second, func() bool { return h.Status()[0].Restarts > 0 })
			if s := h.Status()[0]; !strings.Contains(s.LastError, says) {
				t.Errorf("the status says %q, want %q in it", s.LastError, says)
			}
			if c := h.Credit("test"); c != 0 {
				t.Errorf("credit %d", c)
			}
		})
	}
}

func TestRestartWaitsGrow(t *testing.T) {
	want := []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, longestWait, longestWait}
	for failures, most := range want {
		if got := restartWait(failures, 1); got != most {
			t.Errorf("after %d failures at most %v, want %v", failures, got, most)
		}
	}
}

// copyOf makes a copy of this binary that a test may change, and its sha256.
func copyOf(t *testing.T) (path, sum string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path = filepath.Join(t.TempDir(), "plugin")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, hash), in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return path, hex.EncodeToString(hash.Sum(nil))
}

func TestAProgramThatIsSwappedIsNotStarted(t *testing.T) {
	p := good(t)
	path, sum := copyOf(t)
	p.Command, p.SHA256 = []string{path}, sum
	h, _ := run(t, p)
	ready(t, h)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil { //nolint:gosec // it must be executable
		t.Fatal(err)
	}
	_ = h.HandleMessage(t.Context(), message("die", "")) // it dies, as it must
	eventually(t, 5*time.Second, func() bool { return strings.Contains(h.Status()[0].LastError, "the configuration wants "+sum) })
	if h.Status()[0].PID != 0 {
		t.Error("a swapped program runs")
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	self := good(t).Command[0]
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	tests := map[string]Plugin{
		"say which program":   {},
		"there is no program": {Command: []string{"no-such-program-anywhere"}},
		"there is no file":    {Command: []string{"./no/such/file"}},
		"no regular file":     {Command: []string{"/"}},
		"may not be executed": {Command: []string{"/etc/hostname"}},
		"is no sha256":        {Command: []string{self}, SHA256: "abc"},
		"symbolic link":       {Command: []string{link}, SHA256: strings.Repeat("0", 64)},
	}
	for says, p := range tests {
		if _, err := New(Config{Plugins: map[string]Plugin{"p": p}}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", p, err, says)
		}
	}
	if _, err := New(Config{Types: map[string]string{"a": "nobody"}}); err == nil {
		t.Error("a type without a plugin was taken")
	}
}

func TestATypeThatThePluginDoesNotHandleIsNamed(t *testing.T) {
	h, err := New(Config{Plugins: map[string]Plugin{"test": good(t)}, Types: map[string]string{"ok": "test", "order.rsh": "test"}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	eventually(t, 10*time.Second, func() bool { return strings.Contains(h.Status()[0].LastError, "does not handle order.rsh") })
	stop()
	<-ended
}

// hostUntilKilled is the process that TestPluginsDieWithTheirHost kills.
func hostUntilKilled() {
	self, _ := os.Executable()
	h, err := New(Config{
		Plugins: map[string]Plugin{"test": {Command: []string{self}, Env: map[string]string{asPlugin: "good"}}},
		Types:   map[string]string{"ok": "test"}, Log: zerolog.Nop(),
	})
	if err != nil {
		panic(err)
	}
	go func() { _ = h.Run(context.Background()) }()
	for {
		if s := h.Status()[0]; s.State == Ready {
			fmt.Println(s.PID)
			select {}
		}
	}
}

func TestPluginsDieWithTheirHost(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), good(t).Command[0])
	cmd.Env = append(os.Environ(), asPlugin+"=host")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	if !groupAlive(pid) {
		t.Fatal("the plugin is not there")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	eventually(t, 2*time.Second, func() bool { return !groupAlive(pid) })
}

func TestStatusNamesWhatIsConfigured(t *testing.T) {
	h, _ := run(t, good(t))
	s := ready(t, h)
	if s.Name != "test" || s.Version != "7" || s.PID == 0 || !slices.Contains(s.Types, "ok") || s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
	if name, ok := h.Plugin("ok"); name != "test" || !ok {
		t.Errorf("Plugin(ok) = %q, %v", name, ok)
	}
	if _, ok := h.Plugin("other"); ok || h.Credit("other") != 0 {
		t.Error("there is a plugin for a type that nobody configured")
	}
}

func BenchmarkStream32InFlight(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	h, err := New(Config{
		Plugins: map[string]Plugin{"test": {Command: []string{self}, Env: map[string]string{asPlugin: "good"}}},
		Types:   map[string]string{"ok": "test"}, Log: zerolog.Nop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	for h.Credit("test") == 0 {
		<-h.Changed()
	}
	b.ReportAllocs()
	b.SetParallelism(2) // four at once on two cores: the test plugin's credit
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := message("ok", "0123456789")
			for errors.Is(h.HandleMessage(ctx, m), engine.ErrPluginAway) {
			}
		}
	})
	stop()
	<-ended
}
