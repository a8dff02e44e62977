package cli

import (
	"strings"
	"testing"
	"time"

	"usher/engine"
)

func TestWhatWaitsIsMovedReleasedAndCancelledByFilter(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(0, "r-3", "send", "report.daily", "--count", "3", "--id", "r", "--delay", "2h")
	u.wantCLI(0, "rush", "send", "order.rush", "--id", "rush", "--delay", "1h")
	for _, id := range []string{"r-1", "r-2", "r-3", "rush"} {
		u.eventually(5*time.Second, "delaying "+id, func() bool { return u.message(id).State == engine.Delayed })
	}

	if out := u.wantCLI(0, "r-1", "delay", "list", "--type", "report.daily"); strings.Contains(out, "rush") || strings.Count(out, "report.daily") != 3 {
		t.Errorf("of report.daily are listed:\n%s", out)
	}
	if out := u.wantCLI(0, "rush", "delay", "list", "--due-before", "90m"); strings.Contains(out, "r-1") {
		t.Errorf("due before 90m are listed:\n%s", out)
	}
	u.wantCLI(0, "3 messages would be released", "delay", "release", "--type", "report.daily", "--dry-run")
	if m := u.message("r-2"); m.State != engine.Delayed {
		t.Errorf("after a dry run r-2 is %s, want delayed", m.State)
	}
	u.wantCLI(0, "3 of 3 messages are moved", "delay", "set", "--type", "report.daily", "3h")
	if m := u.message("r-2"); time.Until(m.ProcessingTime) < 2*time.Hour+30*time.Minute {
		t.Errorf("r-2 is due %v, want in three hours", m.ProcessingTime)
	}
	u.wantCLI(0, "r-3 is cancelled", "delay", "cancel", "r-3")
	u.wantCLI(6, "finished", "delay", "cancel", "r-3")
	u.wantCLI(0, "2 of 2 messages are released", "delay", "release", "--type", "report.daily")
	for _, id := range []string{"r-1", "r-2"} {
		u.eventually(10*time.Second, "done with "+id, func() bool { return u.message(id).State == engine.Done })
	}
	u.wantCLI(4, "nothing that waits is chosen", "delay", "release", "--type", "report.daily")
	u.wantCLI(2, "name a message", "delay", "release")
	u.wantCLI(2, "do not go together", "delay", "cancel", "rush", "--type", "order.rush")
	u.wantCLI(2, "no level", "delay", "list", "--level", "10")
	u.stop()
}
