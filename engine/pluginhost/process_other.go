//go:build unix && !linux

package pluginhost

import "syscall"

// attributes put a process into a group of its own. Plugins see by themselves
// when their host is gone.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// limit limits nothing here.
func limit(int, int64) error { return nil }

// collect waits until the process has ended and kills what is left of its group.
func (p *process) collect() {
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killGroup()
	p.exitErr = err
	p.reaped = true
}
