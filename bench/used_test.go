package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// used is the time of processors that processes have used so far.
type used struct{ self, plugin, broker time.Duration }

func (u used) minus(o used) used {
	return used{u.self - o.self, u.plugin - o.plugin, u.broker - o.broker}
}

// used looks at this process, the plugin and ActiveMQ.
func (r *rig) used(t testing.TB) used {
	t.Helper()
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		t.Fatal(err)
	}
	u := used{self: time.Duration(self.Utime.Nano() + self.Stime.Nano())}
	for pid, to := range map[int]*time.Duration{r.plugin.pid(): &u.plugin, r.activeMQ.PID(): &u.broker} {
		var err error
		if *to, err = usedBy(pid); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// usedBy reads what Linux knows of a process, in hundredths of a second (proc(5):
// utime and stime of stat).
func usedBy(pid int) (time.Duration, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	stat, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("the time of processors is read from Linux: %w", err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // the third is the first after the name
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
