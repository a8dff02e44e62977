package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine/enginetest/process"
	"usher/engine/stomp"
	"usher/server"
)

// binary is the usher that the tests of this package run: the real one, built
// once, because it starts itself again as a plugin.
func binary(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("usher-test-%d", os.Getpid()))
	path := filepath.Join(dir, "usher")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "usher").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func TestMain(m *testing.M) {
	if os.Getenv(assassin) != "" {
		serveAssassin()
		return
	}
	code := m.Run()
	if err := os.RemoveAll(filepath.Join(os.TempDir(), fmt.Sprintf("usher-test-%d", os.Getpid()))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what takes a broker of its own some time.
const patience = 30 * time.Second

// usher is one running `usher dev`, or what args say, on ports and in a folder that stay the same
// over restarts.
type usher struct {
	t           *testing.T
	dir         string
	http, stomp string
	effects     string
	args        []string // of start; none: usher dev
	cmd         *exec.Cmd
	exited      chan error
	stderr      *bytes.Buffer
}

// shopYAML has all that the tests send, quick to give up.
const shopYAML = `
engine: {slots: 16, drain: 5s}
types:
  order.rush:    {plugin: shop, priority: 9, timeout: 5s}
  order.placed:  {plugin: shop}
  receipt.email: {plugin: shop, priority: 3}
  report.daily:  {plugin: shop, priority: 2}
  stock.sync:    {plugin: shop, retry: {attempts: 3, backoff: 50ms}}
  card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms}}
  address.check: {plugin: shop}
  legacy.import: {plugin: shop, retry: {attempts: 2, backoff: 50ms}}
plugins:
  shop: {command: [usher, plugin, serve, shop], env: {SHOP_EFFECTS: %q}}
`

func newUsher(t *testing.T) *usher {
	t.Helper()
	u := &usher{t: t, dir: t.TempDir(), http: process.FreeAddress(t), stomp: process.FreeAddress(t)}
	u.effects = filepath.Join(u.dir, "effects")
	if err := os.WriteFile(filepath.Join(u.dir, "usher.yaml"), fmt.Appendf(nil, shopYAML, u.effects), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if u.cmd != nil {
			u.kill()
		}
	})
	return u
}

// start starts it and waits until it is ready.
func (u *usher) start() {
	u.t.Helper()
	u.launch()
	u.eventually(20*time.Second, "ready", func() bool { return u.get("/readyz", nil) == http.StatusOK })
}

// launch starts it.
func (u *usher) launch() {
	u.t.Helper()
	u.stderr = &bytes.Buffer{}
	args := u.args
	if args == nil {
		args = []string{"dev", "--listen", u.http, "--stomp", u.stomp}
	}
	u.cmd = exec.Command(binary(u.t), args...)
	u.cmd.Dir, u.cmd.Stderr = u.dir, u.stderr
	if err := u.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(u.cmd, u.exited)
}

// kill ends it as a power failure would.
func (u *usher) kill() {
	u.t.Helper()
	if err := u.cmd.Process.Kill(); err != nil {
		u.t.Fatal(err)
	}
	if err := <-u.exited; err == nil {
		u.t.Error("it ended by itself")
	}
	u.cmd = nil
}

// stop ends it in an orderly way.
func (u *usher) stop() {
	u.t.Helper()
	if err := u.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		u.t.Fatal(err)
	}
	select {
	case err := <-u.exited:
		if err != nil {
			u.t.Errorf("after SIGTERM: %v\n%s", err, u.stderr)
		}
		u.cmd = nil
	case <-time.After(15 * time.Second):
		u.t.Fatalf("it has not ended 15 s after SIGTERM\n%s", u.stderr)
	}
}

// eventually waits for a condition of another process, which no event tells of.
func (u *usher) eventually(most time.Duration, what string, f func() bool) {
	u.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(most)
	for !f() {
		select {
		case <-tick.C:
		case err := <-u.exited:
			u.t.Fatalf("it ended (%v) before it was %s\n%s", err, what, u.stderr)
		case <-deadline:
			u.t.Fatalf("it is not %s after %v\n%s", what, most, u.stderr)
		}
	}
}

// dial is a producer's connection to it.
func (u *usher) dial() *stomp.Client {
	u.t.Helper()
	client, err := stomp.Dial(u.t.Context(), stomp.Config{URLs: []string{"stomp://" + u.stomp}, Log: zerolog.Nop()})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		if err := client.Close(); err != nil {
			u.t.Error(err)
		}
	})
	return client
}

// get asks the running usher and gives the status; 0 if it does not answer.
func (u *usher) get(path string, out any) int {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+u.http+path, http.NoBody)
	if err != nil {
		u.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if out != nil && resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			u.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// message is what the API says of a message; the zero Message if it is not seen.
func (u *usher) message(id string) (m server.Message) {
	u.t.Helper()
	u.get(messagePath("messages", id), &m)
	return m
}

// cli runs a command against it, with its standard input.
func (u *usher) cli(args ...string) (code int, out, errs string) {
	u.t.Helper()
	cmd := exec.CommandContext(u.t.Context(), binary(u.t), args...)
	cmd.Env = append(os.Environ(), "USHER_URL=http://"+u.http, "USHER_BROKER=stomp://"+u.stomp)
	cmd.Dir = u.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		u.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// wantCLI is cli, with the exit code and a part of what it must print.
func (u *usher) wantCLI(code int, says string, args ...string) string {
	u.t.Helper()
	got, out, errs := u.cli(args...)
	if got != code || !strings.Contains(out+errs, says) {
		u.t.Errorf("usher %s: exit %d, want %d, and %q in:\n%s%s", strings.Join(args, " "), got, code, says, out, errs)
	}
	return out
}

// pluginPID is the process of the shop plugin while it is ready; else 0.
func (u *usher) pluginPID() int {
	u.t.Helper()
	var l server.PluginList
	if u.get("/api/v1/plugins", &l) != http.StatusOK || len(l.Items) != 1 || !l.Items[0].Ready {
		return 0
	}
	return l.Items[0].PID
}

// alive says whether a process is there and no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
