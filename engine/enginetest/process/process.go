// Package process runs the servers of tests: real ones, each in a process of its own,
// on a free port of the loopback. Only tests import it.
package process

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Process is one that runs, or has ended.
type Process struct {
	*os.Process

	// Ended is closed when the process has ended.
	Ended <-chan struct{}
}

// Start starts a command that ends with this process at the latest.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = attributes()
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The process ends with the thread that started it; this one stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // that it ended is what counts
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return &Process{cmd.Process, ended}, nil
}

// Kill ends the process as a crash does, if it runs, and waits until it has ended. A
// nil one has.
func (p *Process) Kill() error {
	if p == nil {
		return nil
	}
	if err := p.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.Ended
	return nil
}

// FreeAddress is a host:port that nobody listens on now.
func FreeAddress(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// ModuleRoot is the folder with go.mod; tests run somewhere below it.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("there is no go.mod above the folder of the test")
		}
		dir = filepath.Dir(dir)
	}
}
