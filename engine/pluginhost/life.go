package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"usher/handlers/plugin/wire"
)

// killLimit is how long a process may take to end when it is told to, and
// go-plugin to clean up in the end.
const killLimit = 3 * time.Second

// errStopped is why a process is killed whose host stops before it is ready.
var errStopped = errors.New("usher stops")

// life is one process of a plugin, from its folder to its end.
type life struct {
	dir         string // its own, removed at the end
	process     *process
	client      *plugin.Client
	description *wire.Description

	session *session
	cancel  context.CancelFunc // ends the stream
	done    chan struct{}      // closed when session.run has returned

	forgotten bool // go-plugin has been told that it ends
}

// start starts a process and returns when it is ready. If it fails, nothing is
// left of it.
func (v *supervisor) start(ctx context.Context) (*life, error) {
	dir, err := os.MkdirTemp(v.runtimeDir, "usher-")
	if err != nil {
		return nil, fmt.Errorf("a folder for the process: %w", err)
	}
	v.out.begin()
	l := &life{dir: dir, process: newProcess(v.launcher, v.out, v.plugin.Memory)}
	program, err := stage(v.plugin, dir)
	if err == nil {
		err = checkFiles(v.plugin)
	}
	if err != nil {
		v.remove(dir)
		return nil, err
	}
	l.client = plugin.NewClient(v.clientConfig(l, program))

	// All that follows waits for the process, so it ends with it.
	late := time.AfterFunc(v.plugin.StartTimeout, func() {
		l.process.kill(fmt.Errorf("it was not ready within %v", v.plugin.StartTimeout))
	})
	defer late.Stop()
	defer context.AfterFunc(ctx, func() { l.process.kill(errStopped) })()

	if err := v.connect(l); err != nil {
		l.process.release()
		if why := v.end(l, err); why != nil {
			err = fmt.Errorf("it did not start: %w", why)
		}
		return nil, err
	}
	l.process.release()
	if !late.Stop() { // it was killed, or is about to be
		return nil, v.end(l, nil)
	}
	return l, nil
}

// clientConfig is a go-plugin Client that does the handshake with our process.
func (v *supervisor) clientConfig(l *life, program string) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake(),
		VersionedPlugins: wire.Plugins(nil),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     2 * v.plugin.StartTimeout, // ours comes first, and holds for all steps
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: l.dir},
		SyncStdout:       &lines{out: l.process.out, stream: "stdout"},
		SyncStderr:       &lines{out: l.process.out, stream: "stderr"},
		GRPCDialOptions:  []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxFrameBytes))},
		Logger:           hclog.NewNullLogger(), // what matters comes back as an error
		RunnerFunc: func(_ hclog.Logger, asked *exec.Cmd, _ string) (runner.Runner, error) {
			l.process.cmd = &exec.Cmd{
				Path:        program,
				Args:        v.plugin.Command,
				Dir:         v.plugin.Dir,
				Env:         append(environment(v.plugin.Env), asked.Env...),
				SysProcAttr: attributes(),
			}
			return l.process, nil
		},
	}
}

// inherited are the variables that a plugin has from the host: where things
// are, and how to write them. None is a secret.
var inherited = []string{"PATH", "HOME", "TMPDIR", "LANG", "TZ"}

// environment is what a process gets besides the handshake. Of two values of a
// name the later counts.
func environment(more map[string]string) []string {
	var env []string
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range more {
		env = append(env, name+"="+value)
	}
	return env
}

// connect starts the process and takes all steps until it is ready.
func (v *supervisor) connect(l *life) error {
	protocol, err := l.client.Client()
	if err != nil {
		return err
	}
	dispensed, err := protocol.Dispense(wire.PluginName)
	if err != nil {
		return err
	}
	client, ok := dispensed.(*wire.Client)
	if !ok {
		return fmt.Errorf("go-plugin dispensed a %T", dispensed)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if l.description, err = client.Describe(ctx, &wire.DescribeRequest{HostVersion: v.version}); err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if err := v.checkTypes(l.description.GetTypes()); err != nil {
		return err
	}
	stream, err := client.Work(ctx)
	if err == nil {
		err = stream.Send(&wire.HostFrame{Kind: &wire.HostFrame_Hello{Hello: &wire.Hello{HostVersion: v.version}}})
	}
	if err != nil {
		return fmt.Errorf("open its stream: %w", err)
	}
	l.session = newSession(v.name, v.plugin.Grace, v.log, l.process.kill, v.changed)
	l.done = make(chan struct{})
	go func() {
		defer close(l.done)
		l.session.run(stream, cancel)
	}()
	select {
	case <-l.session.greeted:
		return nil
	case <-l.session.broken:
		return l.session.broke()
	}
}

// checkTypes finds the types that are routed to the plugin and not served by it.
func (v *supervisor) checkTypes(served []string) error {
	served = slices.Sorted(slices.Values(served))
	v.mu.Lock()
	v.served = served
	v.mu.Unlock()
	return unserved(v.routed(), served)
}

// unserved is an error if some of the routed types are not among the served. A nil
// served is not known yet.
func unserved(routed, served []string) error {
	var missing []string
	for _, typ := range routed {
		if served != nil && !slices.Contains(served, typ) {
			missing = append(missing, typ)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("it does not handle %s, which the configuration routes to it; it handles: %s", listed(missing), listed(served))
}

// end sees to it that the process has ended, and that its messages know. A nil
// err means that it is to end by itself, on demand; else, unless it has ended
// anyway, err is why it is killed. It returns how the process ended, nil if
// there never was one.
func (v *supervisor) end(l *life, err error) error {
	defer v.remove(l.dir)
	if l.process.group() == 0 {
		return nil
	}
	if err == nil {
		v.forget(l)
		within(killLimit, l.process.exited)
		err = errors.New("it did not end when it was told to")
	}
	// The stream of a process that is ending breaks first.
	within(lastWords, l.process.exited)
	l.process.kill(err)
	<-l.process.ended
	why := l.process.why()
	if l.session != nil {
		within(lastWords, l.session.broken) // what it sent before is still to be read
	}
	if l.cancel != nil {
		l.cancel()
	}
	if l.session != nil {
		<-l.done
		l.session.end(why)
	}
	v.forget(l)
	return why
}

func (v *supervisor) remove(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		v.log.Warn().Err(err).Msg("the folder of a process that has ended cannot be removed")
	}
}

// forget has go-plugin end the process and clean up, and does not wait for that:
// it hangs on a process that is stopped, and it syncs the host's standard error
// to its disk each time a process has ended.
func (v *supervisor) forget(l *life) {
	if l.forgotten {
		return
	}
	l.forgotten = true
	v.leftovers.Go(l.client.Kill)
}

// within waits for done for a while.
func within(d time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
