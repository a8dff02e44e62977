//go:build !linux

package activemq

import "syscall"

// attributes leave the broker in the group of the test's process: it ends on an
// interrupt in the terminal as well.
func attributes() *syscall.SysProcAttr { return nil }
