package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/server"
)

// binary is the usher that runs here: the real one, built once, because it starts
// itself again as a plugin.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "usher-chaos-")
	if err == nil {
		binary = filepath.Join(dir, "usher")
		var out []byte
		if out, err = exec.Command("go", "build", "-o", binary, "usher").CombinedOutput(); err != nil {
			err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// configYAML is one engine's. What fails is quick to give up.
const configYAML = `
broker: {urls: ["stomp://%s"], heartbeat: 1s}
server: {listen: %q}
engine: {slots: %d, drain: 5s}
types:
  order.rush:    {plugin: shop, priority: 9, timeout: 5s}
  order.placed:  {plugin: shop}
  receipt.email: {plugin: shop, priority: 3}
  report.daily:  {plugin: shop, priority: 2}
  stock.sync:    {plugin: shop, retry: {attempts: 3, backoff: 50ms}}
  card.charge:   {plugin: shop, retry: {attempts: 2, backoff: 50ms}}
  address.check: {plugin: shop}
plugins:
  shop: {command: [usher, plugin, serve, shop], env: {SHOP_EFFECTS: %q}}
`

// slots is how many messages an engine runs at once where kills are many: few
// enough for two cores.
const slots = 8

// process is one `usher run`, at an address and with files that stay the same
// over restarts.
type process struct {
	t             testing.TB
	name          string
	state, config string
	http, effects string
	binary        string
	env           []string  // besides this process' own
	log           *os.File  // nil: it is kept, and shown of a test that fails
	cmd           *exec.Cmd // nil: it does not run
	exited        chan error
	output        *bytes.Buffer
}

// newProcess prepares an engine of that name, which shares what is below dir with
// others. broker is host:port.
func newProcess(t testing.TB, name, dir, broker string, slots int) *process {
	t.Helper()
	p := &process{
		t: t, name: name, state: filepath.Join(dir, "state"), config: filepath.Join(dir, name+".yaml"),
		http: freeAddress(t), effects: filepath.Join(dir, name+".effects"), binary: binary,
	}
	text := fmt.Appendf(nil, configYAML, broker, p.http, slots, p.effects)
	if err := os.WriteFile(p.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if t.Failed() && p.output != nil {
			text := p.output.Bytes()
			t.Logf("the end of what engine %s wrote:\n%s", name, text[max(0, len(text)-8<<10):])
		}
	})
	return p
}

func freeAddress(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// start starts it and does not wait until it is ready.
func (p *process) start() {
	p.t.Helper()
	p.output = &bytes.Buffer{}
	p.cmd = exec.Command(p.binary, "run", "--config", p.config, "--state", p.state)
	p.cmd.Stderr, p.cmd.Env = p.output, append(os.Environ(), p.env...)
	if p.log != nil {
		p.cmd.Stderr = p.log
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(p.cmd, p.exited)
}

// kill ends it as a power failure would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	if err := <-p.exited; err == nil {
		p.t.Errorf("engine %s ended by itself", p.name)
	}
	p.cmd = nil
}

// killIfThere kills it, unless it has ended.
func (p *process) killIfThere() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	if err := <-p.exited; err != nil {
		p.t.Logf("engine %s: %v", p.name, err)
	}
	p.cmd = nil
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends it in an orderly way.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Errorf("engine %s after SIGTERM: %v", p.name, err)
		}
		p.cmd = nil
	case <-time.After(20 * time.Second):
		p.t.Fatalf("engine %s has not ended 20 s after SIGTERM", p.name)
	}
}

// ready waits until it is.
func (p *process) ready() {
	p.t.Helper()
	eventually(p.t, time.Minute, "engine "+p.name+" ready", func() bool {
		select {
		case err := <-p.exited:
			p.t.Fatalf("engine %s has ended: %v", p.name, err)
		default:
		}
		return p.get("/readyz", nil) == http.StatusOK
	})
}

// get asks the running engine and gives the status; 0 if it does not answer.
func (p *process) get(path string, out any) int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.http+path, http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if out != nil && resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			return 0 // it was killed while it answered
		}
	}
	return resp.StatusCode
}

// killPlugin ends its plugin, when that is ready.
func (p *process) killPlugin() {
	p.t.Helper()
	if err := syscall.Kill(p.plugin(), syscall.SIGKILL); err != nil {
		p.t.Errorf("kill the plugin of engine %s: %v", p.name, err)
	}
}

// plugin is the process of its plugin, when that is ready.
func (p *process) plugin() int {
	p.t.Helper()
	var l server.PluginList
	eventually(p.t, time.Minute, "plugin of engine "+p.name+" ready", func() bool {
		return p.get("/api/v1/plugins", &l) == http.StatusOK && len(l.Items) == 1 && l.Items[0].Ready && l.Items[0].PID > 0
	})
	return l.Items[0].PID
}

// idle says that nothing waits for it, or in it.
func (p *process) idle() bool {
	p.t.Helper()
	q := p.queues()
	if !q.Connected || q.InHand > 0 || q.Dead.Size == nil || *q.Dead.Size > 0 {
		return false
	}
	for _, level := range q.Levels {
		if level.Size == nil || *level.Size > 0 {
			return false
		}
	}
	var d server.DelayList
	return p.get("/api/v1/delays?limit=1", &d) == http.StatusOK && len(d.Items) == 0
}

// queues is what it says of what waits; without an answer, nothing.
func (p *process) queues() (q server.QueueReport) {
	p.t.Helper()
	p.get("/api/v1/queues", &q)
	return q
}

// eventually waits for a condition of another process, which no event tells of.
func eventually(t testing.TB, most time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(most)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not after %v", what, most)
		}
	}
}

// pause lets time pass while other processes work.
func pause(d time.Duration) { <-time.After(d) }
