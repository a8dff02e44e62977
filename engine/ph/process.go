package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"usher/handlers/plugin/wire"
)

// killTimeout is how long go-plugin gets to tidy up after a process that we
// have killed; its own Kill can hang for ever on one that is stopped.
const killTimeout = 3 * time.Second

// process is one running plugin process.
type process struct {
	client *plugin.Client
	pid    int
	wire   *wire.Client
	about  *wire.Description
	output *lines
}

// start starts a process and waits until it has said what it is. The caller's
// goroutine stays on one OS thread for as long as the process is to live,
// because Pdeathsig kills it when that thread ends (prctl(2), PR_SET_PDEATHSIG).
func (s *supervisor) start(ctx context.Context, dir string) (*process, error) {
	path, err := s.plugin.stage(dir)
	if err != nil {
		return nil, err
	}
	sockets := filepath.Join(dir, s.name)
	if err := os.MkdirAll(sockets, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, s.plugin.Command[1:]...) //nolint:noctx // it outlives calls; kill ends it
	cmd.Dir = s.plugin.Dir
	cmd.Env = s.environment(sockets)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{output: &lines{log: s.log}}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: wire.Handshake(), VersionedPlugins: wire.Plugins(nil),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Cmd:              cmd, SkipHostEnv: true, AutoMTLS: true, StartTimeout: s.plugin.StartTimeout,
		// At level Off go-plugin does not parse what a plugin prints to stderr; it
		// would panic on a line like {"@message":1}.
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Off}),
		Stderr: p.output, SyncStdout: p.output, SyncStderr: p.output,
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxFrameBytes))},
	})
	protocol, err := p.client.Client()
	if cmd.Process != nil {
		p.pid = cmd.Process.Pid
	}
	if err == nil {
		err = p.describe(ctx, protocol, s.plugin.StartTimeout)
	}
	if err == nil {
		err = p.serves(s.types)
	}
	if err != nil {
		p.kill()
		return nil, p.explain(err)
	}
	return p, nil
}

// environment is all that the plugin sees of the host's.
func (s *supervisor) environment(sockets string) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for name, v := range s.plugin.Env {
		env = append(env, name+"="+v)
	}
	return append(env, plugin.EnvUnixSocketDir+"="+sockets)
}

func (p *process) describe(parent context.Context, protocol plugin.ClientProtocol, timeout time.Duration) error {
	raw, err := protocol.Dispense(wire.PluginName)
	if err != nil {
		return err
	}
	client, ok := raw.(*wire.Client)
	if !ok {
		return errors.New("it is no usher plugin")
	}
	ctx, cancel := context.WithTimeout(parent, timeout)
	defer cancel()
	p.wire = client
	p.about, err = client.Describe(ctx, &wire.DescribeRequest{})
	return err
}

// serves checks that the plugin handles what the configuration sends to it.
func (p *process) serves(types []string) error {
	var missing []string
	for _, typ := range types {
		if !slices.Contains(p.about.GetTypes(), typ) {
			missing = append(missing, typ)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("it does not handle %s, which the configuration sends to it; it handles %s",
			strings.Join(missing, ", "), strings.Join(p.about.GetTypes(), ", "))
	}
	return nil
}

// explain adds what the process printed last.
func (p *process) explain(err error) error {
	if last := p.output.report(); last != "" {
		return fmt.Errorf("%w; it printed last: %s", err, last)
	}
	return err
}

// kill ends the process and all that it has started in its group, and waits
// for it at most killTimeout.
func (p *process) kill() {
	if p.pid != 0 {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // that it is gone already is no error
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.client.Kill()
	}()
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
