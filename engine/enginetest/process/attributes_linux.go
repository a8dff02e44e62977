package process

import "syscall"

// attributes give a server a process group, so that an interrupt in the terminal
// leaves it to us, and end it with the test's process, however that ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
