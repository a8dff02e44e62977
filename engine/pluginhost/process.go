package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"

	"usher/handlers"
)

// lastWords is how long output is read after a process has ended. What it wrote
// is read at once; a child of its that lives on may hold the pipe for ever.
const lastWords = 250 * time.Millisecond

// launcher starts processes on one OS thread. Linux kills a process with
// Pdeathsig when the thread ends that started it, and the Go runtime ends
// threads as it likes, except one that a goroutine has locked.
type launcher struct{ jobs chan func() }

func newLauncher() *launcher { return &launcher{jobs: make(chan func())} }

// run runs jobs until stop is closed, when all processes have ended.
func (l *launcher) run(stop <-chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case job := <-l.jobs:
			job()
		case <-stop:
			return
		}
	}
}

// do runs f on the thread and waits for it. Not after run has ended.
func (l *launcher) do(f func()) {
	done := make(chan struct{})
	l.jobs <- func() { defer close(done); f() }
	<-done
}

// process is one process of a plugin, until its last words. It is what go-plugin
// runs ([runner.Runner]), so that go-plugin sees no more than the handshake and
// cannot start, wait or kill in its own ways. It is safe for concurrent use.
type process struct {
	launcher *launcher
	out      *output
	memory   int64     // what it may have; 0: any
	cmd      *exec.Cmd // Start's and collect's

	greeting  *io.PipeReader // the handshake line, then EOF
	greetings *io.PipeWriter

	released chan struct{} // closed when go-plugin may know that it ended
	release  func()
	exited   chan struct{} // closed when it has ended and was collected
	ended    chan struct{} // closed when its output has been read as well

	mu      sync.Mutex // guards the rest; held while a signal is sent
	pid     int        // and process group; 0 before the start
	reaped  bool       // the pid may be another process's now
	cause   error      // why it was killed
	exitErr error
}

var _ runner.Runner = (*process)(nil)

func newProcess(l *launcher, out *output, memory int64) *process {
	p := &process{launcher: l, out: out, memory: memory, released: make(chan struct{}), exited: make(chan struct{}), ended: make(chan struct{})}
	p.release = sync.OnceFunc(func() { close(p.released) })
	p.greeting, p.greetings = io.Pipe()
	return p
}

// Start starts the process.
func (p *process) Start(context.Context) error {
	stdout, outEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	stderr, errEnd, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdout.Close(), outEnd.Close())
	}
	p.cmd.Stdout, p.cmd.Stderr = outEnd, errEnd
	err = p.launch()
	closeAll(outEnd, errEnd)
	if err != nil {
		closeAll(stdout, stderr)
		return explainStart(err)
	}
	go p.wait(stdout, stderr)
	return nil
}

// closeAll closes what is not needed any more, and can have nothing to say.
func closeAll(closers ...io.Closer) {
	for _, c := range closers {
		_ = c.Close()
	}
}

func (p *process) launch() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return p.cause
	}
	p.launcher.do(func() { err = p.cmd.Start() })
	if err != nil {
		return err
	}
	p.pid = p.cmd.Process.Pid
	if err := limit(p.pid, p.memory); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		p.out.log.Warn().Err(err).Msg("the plugin's memory is not limited")
	}
	return nil
}

// explainStart says what to do about a program that the system does not start.
func explainStart(err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: it is not a program for %s/%s; of a script, the first line must be #! with its interpreter", err, runtime.GOOS, runtime.GOARCH)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: the file or its folder may not be run; if the folder is on a file system that is mounted noexec, set TMPDIR to one that is not", err)
	}
	return err
}

// wait sees the process through to its end.
func (p *process) wait(stdout, stderr *os.File) {
	var readers sync.WaitGroup
	readers.Go(func() { p.readStdout(stdout) })
	readers.Go(func() { p.read("stderr", stderr) })
	p.collect()
	close(p.exited)
	end := time.Now().Add(lastWords)
	for _, f := range []*os.File{stdout, stderr} {
		if f.SetReadDeadline(end) != nil {
			closeAll(f) // a pipe that cannot wait with an end must not wait for ever
		}
	}
	readers.Wait()
	closeAll(stdout, stderr)
	p.out.finish()
	close(p.ended)
}

// read gives what the process writes to the output, until all writers have ended.
func (p *process) read(stream string, from io.Reader) {
	to := &lines{out: p.out, stream: stream}
	_, _ = io.Copy(to, from) // ends with the pipe, or at the deadline
	to.flush()
}

// maxGreeting is the longest handshake line; the certificate in it is short.
const maxGreeting = 64 << 10

// readStdout gives the first line, if it is the handshake, to go-plugin and the
// rest to the output.
func (p *process) readStdout(stdout io.Reader) {
	in := bufio.NewReaderSize(stdout, maxGreeting)
	line, _ := in.ReadSlice('\n')
	rest := io.Reader(in)
	if err := checkGreeting(string(line)); err == nil {
		_, _ = p.greetings.Write(line) // go-plugin reads until EOF
	} else {
		rest = io.MultiReader(strings.NewReader(string(line)), in)
		if len(line) > 0 {
			p.kill(err)
		}
	}
	closeAll(p.greetings)
	p.read("stdout", rest)
}

// checkGreeting checks the form of a handshake line: the versions of go-plugin's
// protocol and of ours, network, address, "grpc", certificate; more may follow.
func checkGreeting(line string) error {
	parts := strings.Split(strings.TrimSpace(line), "|")
	switch {
	case len(parts) < 4 || parts[0] != "1":
		return fmt.Errorf("the first line on its standard output is %q and not the handshake: a plugin must print nothing before it serves", handlers.OneLine(line, 200))
	case len(parts) < 6 || parts[5] == "":
		return errors.New("it gave no certificate in its handshake: a plugin must make one when PLUGIN_CLIENT_CERT is set")
	}
	return nil
}

// kill kills the process group, or keeps the process from starting. The first
// cause counts. It does not wait.
func (p *process) kill(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return
	}
	if p.cause == nil {
		p.cause = cause
	}
	p.killGroup()
}

// killGroup is called with the lock held, while the group cannot be another one.
func (p *process) killGroup() {
	if p.pid > 0 {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it may have ended
	}
}

// group is the number of the process and of its group; 0 before the start.
func (p *process) group() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// why is how the process ended and, unless it was asked to, its last words.
func (p *process) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	how := "exit status 0"
	if p.exitErr != nil {
		how = p.exitErr.Error()
	}
	words := ""
	if p.cause != nil || p.exitErr != nil {
		if words = p.out.words(); words != "" {
			words = "; its last words: " + words
		}
	}
	if p.cause != nil {
		return fmt.Errorf("process %d was killed: %w%s", p.pid, p.cause, words)
	}
	return fmt.Errorf("process %d ended: %s%s", p.pid, how, words)
}

// Wait waits until the process has ended, and go-plugin may know. Then go-plugin
// gives up whatever it was doing; should that be connecting, it would leave the
// connection open for ever.
func (p *process) Wait(context.Context) error {
	<-p.exited
	<-p.released
	return nil
}

// Kill does nothing: whoever has go-plugin end the process does it himself then,
// and knows why.
func (p *process) Kill(context.Context) error { return nil }

// Stdout is the handshake line.
func (p *process) Stdout() io.ReadCloser { return p.greeting }

// Stderr is empty: go-plugin would parse what the plugin writes, and panic
// where JSON has another form than its own.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is the program's.
func (p *process) Name() string { return p.cmd.Path }

// ID is the process id; empty before the start.
func (p *process) ID() string {
	pid := p.group()
	if pid == 0 {
		return ""
	}
	return strconv.Itoa(pid)
}

// Diagnose has nothing to add.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost translates nothing: both are in the same place.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin translates nothing.
func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
