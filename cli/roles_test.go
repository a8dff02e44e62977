package cli

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"usher/server"
)

// run has it started as `usher run` in one role, with another file of settings.
func (u *usher) run(role, state, settings string) {
	u.t.Helper()
	file := filepath.Join(u.t.TempDir(), role+".yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "server: {listen: %q}\n%s\n", u.http, settings), 0o600); err != nil {
		u.t.Fatal(err)
	}
	u.args = []string{"run", "--roles", role, "--state", state, "--config", "usher.yaml", "--config", file}
	u.start()
}

func TestAMonitorMayRunWithoutAnEngine(t *testing.T) {
	runs, watches, state := newUsher(t), newUsher(t), t.TempDir()
	watches.stomp = runs.stomp
	runs.run(roleEngine, state, fmt.Sprintf("embedded: {stomp: %q}", runs.stomp))
	watches.run(roleMonitor, state, fmt.Sprintf("broker: {urls: [%q]}", "stomp://"+runs.stomp))

	runs.sendDead("nobody.knows", "{}", "m-1", "m-2")
	watches.archived(2)
	watches.wantCLI(0, "1 of 1 are redriven", "dlq", "redrive", "m-1")
	watches.archived(2) // it died again
	watches.wantCLI(0, "2 dead letters wait for somebody: unknown_type 2", "doctor")
	watches.wantCLI(exitFailed, "m-1 is dead", "watch", "m-1")
	runs.wantCLI(0, "2 dead letters wait for somebody: unknown_type 2", "doctor")

	var b server.BrokerReport
	if watches.get("/api/v1/broker", &b); !b.Connected || b.Address != runs.stomp || len(b.Findings) > 0 {
		t.Errorf("of the broker the monitor says %+v", b)
	}
	var q server.QueueReport
	if watches.get("/api/v1/queues", &q); q.Connected || q.Dead.Size != nil {
		t.Errorf("of the queues, which only an engine asks for, the monitor says %+v", q)
	}
	if status := watches.get("/readyz", nil); status != http.StatusOK || watches.get("/metrics", nil) != http.StatusOK {
		t.Errorf("the monitor answers /readyz with %d, or has no metrics", status)
	}
	watches.stop()
	runs.stop()
}
