package pluginhost_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"crypto/sha256"

	"usher/engine"
	"usher/engine/pluginhost"
)

func TestDrainFinishesWhatIsInHand(t *testing.T) {
	h := launch(t, settings{types: []string{"short", "nothing"}})
	m := h.begin(t.Context(), message("short"))
	m.awaitBegun()
	h.stop()
	h.await("it drains", func(s pluginhost.PluginStatus) bool { return s.State == pluginhost.Draining && s.InFlight == 1 })
	if c := h.Credit("test"); c != 0 {
		t.Errorf("credit %d", c)
	}
	if _, err := h.do(message("nothing")); !errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("a new message: %v", err)
	}
	if _, err := m.result(); err != nil {
		t.Errorf("the message in hand: %v", err)
	}
	h.end()
	if log := h.log.String(); !strings.Contains(log, "exit status 0") || strings.Contains(log, `"error"`) {
		t.Errorf("it did not end well:\n%s", log)
	}
}

func TestDrainCancelsWhatTakesTooLong(t *testing.T) {
	h := launch(t, settings{types: []string{"obedient", "hang"}, drain: 50 * time.Millisecond, plugin: pluginhost.Plugin{Grace: 200 * time.Millisecond}})
	obedient, hang := h.begin(t.Context(), message("obedient")), h.begin(t.Context(), message("hang"))
	obedient.awaitBegun()
	hang.awaitBegun()
	h.stop()
	if _, err := obedient.result(); err == nil || errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), "usher is stopping") {
		t.Errorf("obedient: %v", err)
	}
	if _, err := hang.result(); !errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("hang: %v", err)
	}
}

// go-plugin's Kill hangs on a process that is stopped.
func TestStoppedProcessDoesNotHoldUpTheEnd(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing"}})
	freeze(t, h.status().PID)
	h.end()
	if !strings.Contains(h.log.String(), "it did not end when it was told to") {
		t.Errorf("logged:\n%s", h.log)
	}
}

func TestStopsAtAnyTime(t *testing.T) {
	for _, after := range []int{0, 1, 3, 10, 20, 30, 50, 70, 100, 150} {
		h := launch(t, settings{types: []string{"nothing"}, unready: true})
		<-time.After(time.Duration(after) * time.Millisecond)
		h.end()
	}
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

// program is a copy of this test binary.
func program(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "orders")
	if err := os.WriteFile(path, content, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOnlyTheProgramWithTheDigestRuns(t *testing.T) {
	path := program(t)
	sum := digestOf(t, path)
	h := launch(t, settings{types: []string{"where", "nothing"}, plugin: pluginhost.Plugin{Command: []string{path, "an argument"}, SHA256: strings.ToUpper(sum)}})
	got, err := h.do(message("where"))
	if err != nil {
		t.Fatal(err)
	}
	is := strings.Split(string(got[0].Body), "\n")
	if is[0] != path || !strings.HasPrefix(is[1], h.dir+"/usher-") || filepath.Base(is[1]) != sum {
		t.Errorf("it is %q", is)
	}

	// Another program takes its place, and it crashes.
	good := path + ".good"
	if err := errors.Join(os.Rename(path, good), os.WriteFile(path, []byte("#!/bin/sh\necho gotcha >&2\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	pid := h.status().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s is not what the configuration expects, so it was not started: its sha256 is %s, not %s", path, digestOf(t, path), sum)
	h.await("it is refused", func(s pluginhost.PluginStatus) bool { return s.State == pluginhost.Backoff && s.LastError == want })
	if strings.Contains(h.log.String(), "gotcha") {
		t.Error("it ran")
	}
	if err := os.Rename(good, path); err != nil {
		t.Fatal(err)
	}
	h.again(pid)
}

func TestOnlyWithTheFilesOfTheDigest(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "main.py")
	if err := os.WriteFile(script, []byte("print()"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := launch(t, settings{types: []string{"nothing"}, plugin: pluginhost.Plugin{Dir: dir, Files: map[string]string{"main.py": digestOf(t, script)}}})
	if err := os.WriteFile(script, []byte("steal()"), 0o600); err != nil {
		t.Fatal(err)
	}
	pid := h.status().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.await("it is refused", func(s pluginhost.PluginStatus) bool {
		return s.State == pluginhost.Backoff && strings.HasPrefix(s.LastError, script+" is not what the configuration expects")
	})
	if err := os.WriteFile(script, []byte("print()"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.again(pid)
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
}

func TestProgramThatTheSystemDoesNotStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "orders")
	if err := os.WriteFile(path, []byte("neither script nor program"), 0o700); err != nil {
		t.Fatal(err)
	}
	h := launch(t, settings{types: []string{"nothing"}, unready: true, plugin: pluginhost.Plugin{Command: []string{path}}})
	s := h.await("it has failed", func(s pluginhost.PluginStatus) bool { return s.State == pluginhost.Backoff })
	if !strings.Contains(s.LastError, "exec format error: it is not a program for linux/") {
		t.Errorf("the error is %q", s.LastError)
	}
}

func TestConfigThatCannotWorkIsToldWhole(t *testing.T) {
	dir := t.TempDir()
	script, link := filepath.Join(dir, "script"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(script, nil, 0o600), os.Symlink(os.Args[0], link)); err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	_, err := pluginhost.New(pluginhost.Config{
		Drain:      -1,
		RuntimeDir: "/" + strings.Repeat("x", 60),
		Types:      map[string]string{"order.rush": "ordrs"},
		Plugins: map[string]pluginhost.Plugin{
			"empty":   {},
			"absent":  {Command: []string{"./absent"}, Dir: dir},
			"nowhere": {Command: []string{"no-such-program"}},
			"folder":  {Command: []string{dir}},
			"script":  {Command: []string{script}},
			"link":    {Command: []string{link}, SHA256: digest},
			"rest": {
				Command: []string{link}, Dir: script, Grace: -1,
				Files: map[string]string{link: "x", "/absent": digest, dir: digest},
				Env:   map[string]string{"A=B": "", "NUL": "\x00", "PLUGIN_CLIENT_CERT": "", "USHER_PLUGIN": ""},
			},
			"digest": {Command: []string{link}, SHA256: "9f2a…"},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"drain: -1ns is negative",
		"choose another, for example with TMPDIR=/tmp",
		`type order.rush: there is no plugin "ordrs"; there are: absent, digest, empty, folder, link, nowhere, rest, script`,
		"plugin empty: command is empty; it is a list",
		"plugin absent: command: there is no file " + dir + "/absent: build it, or correct the path",
		`plugin nowhere: command: there is no program "no-such-program" in PATH: install it`,
		"plugin folder: command: " + dir + " is not a file",
		"plugin script: command: " + script + " may not be run: chmod +x it",
		"plugin link: command: " + link + " is a symbolic link",
		`plugin digest: sha256: "9f2a…" is not a digest of 64 hex digits; get it with: sha256sum ` + link,
		"plugin rest: start timeout 10s, grace -1ns: neither may be negative",
		"plugin rest: dir: " + script + " is not a folder",
		`plugin rest: files: ` + link + `: "x" is not a digest of 64 hex digits`,
		"plugin rest: files: stat /absent: no such file",
		"plugin rest: files: " + dir + " is not a file",
		`plugin rest: env: "A=B": a name is not empty`,
		`plugin rest: env: "NUL": a name is not empty`,
		"plugin rest: env: PLUGIN_CLIENT_CERT belongs to the handshake",
		"plugin rest: env: USHER_PLUGIN belongs to the handshake",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n"); n != 19 {
		t.Errorf("%d lines:\n%v", n+1, err)
	}
}

// A symbolic link is the usual way to name a program without a digest.
func TestProgramMayBeALinkWithoutADigest(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	self, err := filepath.Abs(os.Args[0])
	if err == nil {
		err = os.Symlink(self, link)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := launch(t, settings{types: []string{"nothing"}, plugin: pluginhost.Plugin{Command: []string{link}}})
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
}

func TestStopIsQuickWhileItWaitsToStartAgain(t *testing.T) {
	h := launch(t, settings{role: "broken", types: []string{"nothing"}, unready: true})
	h.await("it has failed", func(s pluginhost.PluginStatus) bool { return s.State == pluginhost.Backoff && s.Restarts > 1 })
	began := time.Now()
	h.end()
	if took := time.Since(began); took > time.Second {
		t.Errorf("stopped after %v", took)
	}
	if err := h.WaitReady(context.Background()); err == nil {
		t.Error("it was ready")
	}
}
