package pluginhost_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/pluginhost"
)

func TestStoppedProcessIsKilledAfterTheGrace(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing"}, plugin: pluginhost.Plugin{Grace: 200 * time.Millisecond}})
	pid := h.status().PID
	freeze(t, pid)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.begin(ctx, message("nothing")).result(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("got %v", err)
	}
	h.again(pid)
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
}

// freeze stops a process and waits until all of its threads stand.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all threads stand", func() bool {
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range stats {
			stat, _ := os.ReadFile(path)
			if _, after, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(after, "T") {
				return false
			}
		}
		return len(stats) > 0
	})
}

func TestKilledPluginLosesItsMessagesAndComesBack(t *testing.T) {
	h := launch(t, settings{types: []string{"obedient", "nothing"}})
	pid := h.status().PID
	m := h.begin(t.Context(), message("obedient"))
	m.awaitBegun()
	for len(h.Changed()) > 0 {
		<-h.Changed()
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if _, err := m.result(); !errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(killed); took > time.Second {
		t.Errorf("it was noticed after %v", took)
	}
	select {
	case <-h.Changed():
	case <-time.After(patience):
		t.Error("nobody was told that the credit changed")
	}
	h.again(pid)
	if took := time.Since(killed); took > 2*time.Second {
		t.Errorf("ready again after %v", took)
	}
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
	if c := h.Credit("test"); c != concurrency {
		t.Errorf("credit %d", c)
	}
}

func TestCrashIsToldWithItsLastWords(t *testing.T) {
	h := launch(t, settings{types: []string{"crash"}})
	pid := h.status().PID
	_, err := h.do(message("crash"))
	for _, want := range []string{"plugin test", "exit status 3", "the disk is on fire"} {
		if !errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, without %q", err, want)
		}
	}
	if s := h.again(pid); !strings.Contains(s.LastError, "the disk is on fire") || s.Restarts != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestPluginThatDoesNotStart(t *testing.T) {
	for name, want := range map[string]string{
		"broken":     "exit status 4; its last words: orders: cannot read prices.csv",
		"garbage":    `the first line on its standard output is "Welcome to Orders 2.0!" and not the handshake: a plugin must print nothing before it serves`,
		"longwinded": `the first line on its standard output is "xxxx`,
		"mute":       "it was not ready within 1s; its last words: orders: waiting for the database",
		"plain":      "it gave no certificate in its handshake",
		"brief":      "process ", // ended or, if that was not seen in time, cannot be reached
		"frozen":     "it was not ready within 1s",
		"old":        "incompatible API version with plugin",
	} {
		t.Run(name, func(t *testing.T) {
			h := launch(t, settings{role: name, types: []string{"nothing"}, unready: true, plugin: pluginhost.Plugin{StartTimeout: startTimeout(name)}})
			s := h.await("it has failed twice", func(s pluginhost.PluginStatus) bool { return s.Restarts > 0 && s.State == pluginhost.Backoff })
			if !strings.HasPrefix(s.LastError, "it did not start: process ") || !strings.Contains(s.LastError, want) || strings.Contains(s.LastError, "\n") {
				t.Errorf("the error is %q", s.LastError)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := h.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "plugin test is not ready: context canceled: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("WaitReady: %v", err)
			}
			if !strings.Contains(h.log.String(), `"again_in":`) {
				t.Errorf("not logged:\n%s", h.log)
			}
		})
	}
}

// startTimeout is short where it is what ends the process.
func startTimeout(role string) time.Duration {
	if role == "mute" || role == "frozen" {
		return time.Second
	}
	return 0
}

func TestRouteToAPluginThatDoesNotServeIt(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing", "order.rush", "order.gone"}, unready: true})
	s := h.await("it has failed", func(s pluginhost.PluginStatus) bool { return s.State == pluginhost.Backoff })
	if want := "it does not handle order.gone, order.rush, which the configuration routes to it; it handles: after, crash, crowd"; !strings.Contains(s.LastError, want) {
		t.Errorf("the error is %q", s.LastError)
	}
	if c := h.Credit("test"); c != 0 {
		t.Errorf("credit %d", c)
	}
}

// go-plugin panics where JSON on standard error is not its own, and reads no
// more after a line of 64 KiB on standard output.
func TestWhatAPluginWritesHarmsNobody(t *testing.T) {
	h := launch(t, settings{types: []string{"write", "nothing"}})
	pid := h.status().PID
	for range 2 {
		if _, err := h.do(message("write")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.do(message("nothing")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all lines are logged", func() bool { return strings.Count(h.log.String(), "[31mred") == 8 })
	if s := h.status(); s.PID != pid || s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
	for line := range strings.SplitSeq(h.log.String(), "\n") {
		if len(line) > 4<<10+200 {
			t.Errorf("a line of %d bytes: %.100s", len(line), line)
		}
	}
	if n := strings.Count(h.log.String(), `{\"@message\":123}`); n != 8 {
		t.Errorf("%d lines of hostile JSON were logged", n)
	}
}

func TestChildThatHoldsStandardErrorHoldsUpNobody(t *testing.T) {
	for _, where := range []string{"here", "away"} {
		t.Run(where, func(t *testing.T) {
			h := launch(t, settings{types: []string{"orphan"}})
			pid := h.status().PID
			m := message("orphan")
			m.Body = []byte(where)
			began := time.Now()
			_, err := h.do(m)
			if !errors.Is(err, engine.ErrPluginLost) || time.Since(began) > 3*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			_, words, _ := strings.Cut(err.Error(), "the child is ")
			for !strings.HasPrefix(words, "1") && !strings.ContainsAny(words[:1], "23456789") { // its own words may come first
				_, words, _ = strings.Cut(words, "the child is ")
			}
			child, _, _ := strings.Cut(words, ".")
			if where == "away" {
				if err := syscall.Kill(number(t, child), syscall.SIGKILL); err != nil {
					t.Errorf("what is out of reach was killed: %v", err)
				}
			}
			eventually(t, "the child ends", func() bool { return ended(number(t, child)) })
			h.again(pid)
		})
	}
}

// ended says whether a process is gone, or waits only to be collected.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z")
}

func TestPluginDiesWithItsHost(t *testing.T) {
	dir, err := os.MkdirTemp("", "ut") //nolint:usetesting // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // nobody else can
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=host", "TMPDIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid := number(t, strings.TrimSpace(line))
	// So that it cannot see by itself that its parent is gone.
	freeze(t, pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the host ended well")
	}
	eventually(t, "the plugin ends", func() bool { return ended(pid) })
}
