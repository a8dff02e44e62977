package pluginhost

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes put a process into a group of its own, and end it with the thread
// that started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// collect waits until the process has ended and kills what is left of its group
// before it is reaped: until then the group's number cannot be given to others.
func (p *process) collect() {
	for interrupted := true; interrupted; {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		interrupted = errors.Is(err, unix.EINTR)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killGroup()
	p.exitErr = p.cmd.Wait()
	p.reaped = true
}
