package pluginhost_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine/pluginhost"
	"usher/handlers"
	"usher/handlers/plugin"
)

// role makes this test binary be something else when a test starts it.
const role = "USHER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		goleak.VerifyTestMain(m)
	case "plugin":
		servePlugin()
	case "host":
		beHost()
	case "garbage": // greets its users, as many a program does
		fmt.Println("Welcome to Orders 2.0!")
		stay()
	case "longwinded":
		fmt.Println(strings.Repeat("x", 1<<20))
		stay()
	case "broken":
		fmt.Fprintln(os.Stderr, "orders: cannot read prices.csv")
		os.Exit(4)
	case "mute":
		fmt.Fprintln(os.Stderr, "orders: waiting for the database")
		stay()
	case "plain": // knows nothing of certificates
		fmt.Println("1|1|unix|/nowhere|grpc|")
		stay()
	case "brief": // shakes hands, and is gone
		fmt.Println("1|1|unix|/nowhere|grpc|" + certificate())
	case "frozen": // shakes hands, and answers no call
		ln, err := net.Listen("unix", filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "socket"))
		if err != nil {
			panic(err)
		}
		fmt.Println("1|1|unix|" + ln.Addr().String() + "|grpc|" + certificate())
		stay()
	case "oversized":
		serveOversized()
	case "old":
		fmt.Println("1|99|unix|/nowhere|grpc|" + strings.Repeat("A", 100))
		stay()
	case "child": // holds its parent's standard error
		fmt.Fprintln(os.Stderr, "the child is here")
		stay()
	}
}

func stay() { <-time.After(time.Hour) }

// certificate is one as a handshake carries it.
func certificate() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return base64.RawStdEncoding.EncodeToString(der)
}

// concurrency of the plugin below.
const concurrency = 4

func servePlugin() {
	var mux handlers.Mux
	for typ, handle := range map[string]func(context.Context, *handlers.Message) error{
		"nothing": func(context.Context, *handlers.Message) error { return nil },
		"plain":   func(context.Context, *handlers.Message) error { return errors.New("try again") },
		"after": func(context.Context, *handlers.Message) error {
			return handlers.RetryAfter(time.Minute, errors.New("soon"))
		},
		"defer": func(context.Context, *handlers.Message) error { return handlers.Defer(time.Hour) },
		"permanent": func(context.Context, *handlers.Message) error {
			return handlers.Permanent(errors.New("no"), "no_stock")
		},
		"drop":  func(context.Context, *handlers.Message) error { return handlers.Drop() },
		"panic": func(context.Context, *handlers.Message) error { panic("boom") },
		"emit":  emit,
		"env": func(_ context.Context, m *handlers.Message) error {
			return m.Emit("env", []byte(strings.Join(os.Environ(), "\n")))
		},
		"where": where,
		"obedient": func(ctx context.Context, m *handlers.Message) error {
			m.Progress(0.5, "begun")
			<-ctx.Done()
			return context.Cause(ctx)
		},
		"short": func(_ context.Context, m *handlers.Message) error {
			m.Progress(0.5, "begun")
			<-time.After(200 * time.Millisecond)
			return nil
		},
		"late": func(ctx context.Context, m *handlers.Message) error {
			m.Progress(0.5, "begun")
			<-ctx.Done()
			return m.Emit("next", nil)
		},
		"hang":   func(_ context.Context, m *handlers.Message) error { m.Progress(0.5, "begun"); stay(); return nil },
		"crash":  crash,
		"orphan": orphan,
		"write":  write,
		"crowd":  (&crowd{}).handle,
	} {
		mux.Handle(typ, handle)
	}
	plugin.ServeConfig(plugin.Config{Handler: &mux, Name: "test", Version: "1.2.3", Concurrency: capacity()})
}

func capacity() int {
	if n, err := strconv.Atoi(os.Getenv("CONCURRENCY")); err == nil {
		return n
	}
	return concurrency
}

func emit(_ context.Context, m *handlers.Message) error {
	nine := 9
	return errors.Join(m.Emit("first", m.Body), m.EmitFollowOn(handlers.FollowOn{
		Type: "second", Body: []byte{0, 255}, ContentType: "x/y", Headers: map[string]string{"a": "b"}, Priority: &nine, Delay: time.Second, Key: "k",
	}))
}

// where tells what the process is, and where.
func where(_ context.Context, m *handlers.Message) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	group, err := syscall.Getpgid(0)
	if err != nil {
		return err
	}
	return m.Emit("where", fmt.Appendf(nil, "%s\n%s\n%s\n%d\n%d", os.Args[0], exe, dir, os.Getpid(), group))
}

func crash(context.Context, *handlers.Message) error {
	fmt.Fprintln(os.Stderr, "the disk is on fire")
	os.Exit(3)
	return nil
}

// orphan leaves a child that holds standard error, in a group of its own if the
// message says so, and dies.
func orphan(_ context.Context, m *handlers.Message) error {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), role+"=child")
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: string(m.Body) == "away"}
	if err := child.Start(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "the child is %d.\n", child.Process.Pid)
	os.Exit(3)
	return nil
}

// write writes what has made hosts panic or stall, by go-plugin and past it.
func write(context.Context, *handlers.Message) error {
	for _, to := range []io.Writer{os.Stdout, os.Stderr, descriptor(1), descriptor(2)} {
		fmt.Fprintln(to, `{"@message":123}`)
		fmt.Fprintln(to, `{"@level":[],"@timestamp":{}}`)
		fmt.Fprintln(to, strings.Repeat("x", 1<<20))
		fmt.Fprintln(to, "\x1b[31mred\x00\xff")
	}
	return nil
}

// descriptor is a file descriptor as the process was given it.
type descriptor int

func (d descriptor) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = syscall.Write(int(d), p[n:])
		n += max(m, 0)
	}
	return n, err
}

// crowd counts how many messages run at once.
type crowd struct{ now, most atomic.Int64 }

func (c *crowd) handle(_ context.Context, m *handlers.Message) error {
	now := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); now > most; most = c.most.Load() {
		c.most.CompareAndSwap(most, now)
	}
	<-time.After(time.Millisecond)
	return m.Emit("most", []byte(strconv.FormatInt(c.most.Load(), 10)))
}

// beHost is a host that is killed. It says which process its plugin is.
func beHost() {
	h, err := pluginhost.New(pluginhost.Config{
		Plugins: map[string]pluginhost.Plugin{"test": {Command: os.Args[:1], Env: map[string]string{role: "plugin"}}},
		Log:     zerolog.Nop(),
	})
	if err == nil {
		go func() { panic(h.Run(context.Background())) }()
		err = h.WaitReady(context.Background())
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(h.Status()[0].PID)
	stay()
}
