package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes put a process into a group of its own, and end it with the thread
// that started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// sacrifice is the oom_score_adj of a plugin (proc_pid_oom_score_adj(5)): when memory
// runs out the kernel ends plugins, whose messages are tried again, before usher.
const sacrifice = "500"

// limit bounds the memory of a process that has just been started.
func limit(pid int, memory int64) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(sacrifice), 0)
	if memory > 0 {
		most := unix.Rlimit{Cur: uint64(memory), Max: uint64(memory)}
		err = errors.Join(err, unix.Prlimit(pid, unix.RLIMIT_DATA, &most, nil))
	}
	return err
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
