package plugin_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // authors use it, so what it writes is tested
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"go.uber.org/goleak"

	"usher/handlers"
	"usher/handlers/plugin"
	"usher/handlers/plugin/wire"
)

// role makes this test binary be something else when a test starts it.
const role = "USHER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "plugin":
		servePlugin()
	case "middle":
		startPluginAndEnd()
	default:
		goleak.VerifyTestMain(m)
	}
}

func servePlugin() {
	var mux handlers.Mux
	mux.Handle("good", func(_ context.Context, m *handlers.Message) error {
		fmt.Println("printed by the handler")
		log.Print("logged by the handler")
		fmt.Fprintln(os.Stderr, "written to stderr by the handler")
		return m.Emit("next", m.Body)
	})
	mux.Handle("crash", func(context.Context, *handlers.Message) error {
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(3)
		return nil
	})
	plugin.ServeConfig(plugin.Config{Handler: &mux, Name: "test", Version: "1.0", Concurrency: 4})
	log.Print("main goes on after Serve")
}

// startPluginAndEnd is a host that ends without a word.
func startPluginAndEnd() {
	cmd := pluginCommand()
	cmd.Env = append(cmd.Env, cookie())
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n') // the handshake: it serves
	}
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stdout, cmd.Process.Pid)
}

func cookie() string {
	h := wire.Handshake()
	return h.MagicCookieKey + "=" + h.MagicCookieValue
}

func pluginCommand() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=plugin")
	return cmd
}

// output collects what a process writes; safe for concurrent use.
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

// process is a plugin started as usher starts one.
type process struct {
	manager        *goplugin.Client
	client         *wire.Client
	stdout, stderr *output
	pid            int
}

func launch(t *testing.T) *process {
	t.Helper()
	cmd := pluginCommand()
	p := &process{stdout: &output{}, stderr: &output{}}
	p.manager = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  wire.Handshake(),
		VersionedPlugins: wire.Plugins(nil),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Cmd:              cmd,
		AutoMTLS:         true,
		SyncStdout:       p.stdout,
		SyncStderr:       io.Discard,
		Stderr:           p.stderr,
		Logger:           hclog.NewNullLogger(),
	})
	t.Cleanup(p.manager.Kill)
	protocol, err := p.manager.Client()
	if err != nil {
		t.Fatalf("start: %v\n%s", err, p.stderr)
	}
	dispensed, err := protocol.Dispense(wire.PluginName)
	if err != nil {
		t.Fatal(err)
	}
	client, ok := dispensed.(*wire.Client)
	if !ok {
		t.Fatalf("dispensed a %T", dispensed)
	}
	p.client, p.pid = client, cmd.Process.Pid
	return p
}

// eventually polls what has no event to wait for: files and processes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestProcessServesMessages(t *testing.T) {
	p := launch(t)
	d, err := p.client.Describe(t.Context(), &wire.DescribeRequest{})
	if err != nil || d.GetName() != "test" || d.GetVersion() != "1.0" || d.GetConcurrency() != 4 || len(d.GetTypes()) != 2 {
		t.Fatalf("described as %v, %v", d, err)
	}
	// A body over gRPC's own limit of 4 MiB gets to the handler, which emits too much.
	o, err := p.client.Handle(t.Context(), &wire.Message{Type: "good", Body: make([]byte, 5<<20)})
	if err != nil || !strings.Contains(o.GetDetail(), "an attempt may emit 1048576 bytes") {
		t.Fatalf("got %v, %v", o, err)
	}
	o, err = p.client.Handle(t.Context(), &wire.Message{Type: "good", Body: []byte("b")})
	if err != nil || o.GetVerdict() != wire.Verdict_VERDICT_DONE || string(o.GetFollowOns()[0].GetBody()) != "b" {
		t.Fatalf("got %v, %v", o, err)
	}
	eventually(t, "what the handler wrote", func() bool {
		return strings.Contains(p.stdout.String(), "printed by the handler") &&
			strings.Contains(p.stderr.String(), "logged by the handler") &&
			strings.Contains(p.stderr.String(), "written to stderr by the handler")
	})
	p.manager.Kill()
	eventually(t, "main goes on", func() bool { return strings.Contains(p.stderr.String(), "main goes on after Serve") })
}

// What a handler writes just before the process ends is what operators need most.
func TestLastWordsOfACrashArrive(t *testing.T) {
	p := launch(t)
	if _, err := p.client.Handle(t.Context(), &wire.Message{Type: "crash"}); err == nil {
		t.Error("a crash was an answer")
	}
	select {
	case <-p.client.Gone:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed the crash")
	}
	eventually(t, "the last words", func() bool { return strings.Contains(p.stderr.String(), "last words") })
}

func TestSignalsDoNotEndAPlugin(t *testing.T) {
	p := launch(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if err := syscall.Kill(p.pid, sig); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			o, err := p.client.Handle(t.Context(), &wire.Message{Type: "good"})
			if err != nil || o.GetVerdict() != wire.Verdict_VERDICT_DONE {
				t.Fatalf("after %v: %v, %v", sig, o, err)
			}
		}
	}
}

func TestPluginEndsWithItsParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=middle")
	var stderr output
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan ends", func() bool { return ended(pid) })
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

func TestStartedByHandItSaysWhatItIs(t *testing.T) {
	cmd := pluginCommand()
	cmd.Args = append(cmd.Args, "plugin")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
	for _, want := range []string{
		"test 1.0 is a handler plugin for usher; it handles crash, good.\n",
		"  test: {command: [\"" + os.Args[0] + "\", \"plugin\"]}\n",
		"  good: {plugin: test}\n",
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in:\n%s", want, &stderr)
		}
	}
	if stdout.Len() != 0 {
		t.Errorf("on standard output: %s", &stdout)
	}
}
