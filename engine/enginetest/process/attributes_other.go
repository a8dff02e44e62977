//go:build !linux

package process

import "syscall"

// attributes leave a server in the group of the test's process: it ends on an
// interrupt in the terminal as well.
func attributes() *syscall.SysProcAttr { return nil }
