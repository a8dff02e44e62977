package plugin

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"usher/handlers"
	"usher/handlers/plugin/internal/worker"
	"usher/handlers/plugin/wire"
)

// DefaultConcurrency is how many messages a plugin runs at once unless its
// Config says otherwise.
const DefaultConcurrency = 16

// sdk names this package in Description.sdk.
const sdk = "go/1"

// Config is what a plugin says of itself.
type Config struct {
	// Handler runs the messages. Required.
	Handler handlers.Handler
	// Types are the message types that Handler runs. By default they are what
	// Handler.Types() returns, if it has that method as *handlers.Mux does.
	Types []string
	// Name is for people, in logs. The default is the name of the program.
	Name string
	// Version is for people, in logs. The default is the version that the Go
	// tool recorded in the program, or "(devel)".
	Version string
	// Concurrency is how many messages run at once in this process, each in a
	// goroutine of its own. The default is DefaultConcurrency.
	Concurrency int
}

// Serve serves mux with the defaults of Config; see [ServeConfig].
func Serve(mux *handlers.Mux) {
	ServeConfig(Config{Handler: mux})
}

// ServeConfig serves messages to the usher that started this process, and
// returns when that usher has ended the plugin; main should return then. Started
// in any other way, or with a Config that cannot work, it says so on standard
// error and exits with status 1.
func ServeConfig(cfg Config) {
	description, err := cfg.describe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	handshake := wire.Handshake()
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		byHand(os.Stderr, description)
		os.Exit(1)
	}

	// The host drains this process before it stops it, so a signal that was
	// sent to the whole process group must not come first.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM)
	parent := os.Getppid()
	go watchParent(parent, os.Getppid, func() {
		fmt.Fprintf(os.Stderr, "plugin %s: process %d, which started it, has ended; so it ends as well\n", description.GetName(), parent)
		os.Exit(1)
	})
	stderr := os.Stderr
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  handshake,
		VersionedPlugins: wire.Plugins(worker.New(cfg.Handler, description)),
		Logger:           hclog.New(&hclog.LoggerOptions{Name: description.GetName(), Level: hclog.Warn, Output: stderr, JSONFormat: true}),
		GRPCServer:       func(opts []grpc.ServerOption) *grpc.Server { return newServer(opts, stderr) },
	})
}

// newServer makes the gRPC server. go-plugin sends both standard streams
// through gRPC, where the last words of a process that crashes are lost; so
// standard error is put back with the first call, of whichever kind: the host
// opens go-plugin's own stream at some time after it has connected.
func newServer(opts []grpc.ServerOption, stderr *os.File) *grpc.Server {
	putBack := sync.OnceFunc(func() { os.Stderr = stderr })
	return grpc.NewServer(append(opts,
		grpc.MaxRecvMsgSize(wire.MaxFrameBytes),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			putBack()
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			putBack()
			return next(srv, stream)
		}),
	)...)
}

// describe checks the Config and fills in the defaults.
func (c Config) describe() (*wire.Description, error) {
	d := &wire.Description{Name: c.Name, Version: c.Version, Sdk: sdk, Types: slices.Clone(c.Types)}
	if d.Name == "" {
		d.Name = filepath.Base(os.Args[0])
	}
	if d.Version == "" {
		d.Version = buildVersion()
	}
	if c.Handler == nil {
		return nil, fmt.Errorf("plugin %s: Config.Handler is nil; give it a *handlers.Mux", d.GetName())
	}
	if typed, ok := c.Handler.(interface{ Types() []string }); ok && len(d.Types) == 0 {
		d.Types = typed.Types()
	}
	switch {
	case len(d.Types) == 0:
		return nil, fmt.Errorf("plugin %s: it handles no message type; register one with mux.Handle, or name them in Config.Types", d.GetName())
	case c.Concurrency < 0 || c.Concurrency > math.MaxInt32:
		return nil, fmt.Errorf("plugin %s: Config.Concurrency is %d; it must be at least 1, or 0 for the default of %d", d.GetName(), c.Concurrency, DefaultConcurrency)
	case c.Concurrency == 0:
		c.Concurrency = DefaultConcurrency
	}
	for _, typ := range d.GetTypes() {
		if typ == "" || !utf8.ValidString(typ) {
			return nil, fmt.Errorf("plugin %s: %q cannot be a message type; a type is UTF-8 text and not empty", d.GetName(), typ)
		}
	}
	d.Concurrency = uint32(c.Concurrency)
	d.Name = strings.ToValidUTF8(d.GetName(), "\uFFFD")
	d.Version = strings.ToValidUTF8(d.GetVersion(), "\uFFFD")
	return d, nil
}

func buildVersion() string {
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" {
		return build.Main.Version
	}
	return "(devel)"
}

// byHand tells a person who started the plugin what it is.
func byHand(w io.Writer, d *wire.Description) {
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	command := []string{strconv.Quote(program)}
	for _, arg := range os.Args[1:] {
		command = append(command, strconv.Quote(arg))
	}
	fmt.Fprintf(w, `%s %s is a handler plugin for usher; it handles %s.
It does nothing by itself: usher starts it. In usher.yaml:

plugins:
  %s: {command: [%s]}
types:
`, d.GetName(), d.GetVersion(), strings.Join(d.GetTypes(), ", "), d.GetName(), strings.Join(command, ", "))
	for _, typ := range d.GetTypes() {
		fmt.Fprintf(w, "  %s: {plugin: %s}\n", typ, d.GetName())
	}
}

// watchParent calls gone when the process is no longer a child of parent. The
// host asks the kernel to end its plugins with it where the kernel can; this is
// for where it cannot.
func watchParent(parent int, now func() int, gone func()) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for now() == parent {
		<-ticker.C
	}
	gone()
}
