package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"usher/deploy/brokerxml"
	"usher/engine/enginetest/activemq"
	"usher/engine/enginetest/process"
)

// runsOn is an usher that runs with the sample for one's own ActiveMQ, on one of
// the test's whose XML was edited; only the ports differ from the README's.
func runsOn(t *testing.T, edit func(xml string) string) *usher {
	t.Helper()
	server := activemq.Start(t, func(w io.Writer, address, data string) error {
		var ours strings.Builder
		if err := brokerxml.Write(&ours, brokerxml.Options{STOMP: address, Data: data}); err != nil {
			return err
		}
		_, err := io.WriteString(w, edit(ours.String()))
		return err
	})
	sample, err := filepath.Abs("../deploy/samples/activemq.yaml")
	if err != nil {
		t.Fatal(err)
	}
	u := &usher{t: t, dir: t.TempDir(), http: process.FreeAddress(t), stomp: server.Address()}
	ports := filepath.Join(u.dir, "ports.yaml")
	if err := os.WriteFile(ports, fmt.Appendf(nil, "broker: {urls: [stomp://%s]}\nserver: {listen: %s}\n", u.stomp, u.http), 0o600); err != nil {
		t.Fatal(err)
	}
	u.args = []string{"run", "--config", sample, "--config", ports}
	t.Cleanup(func() {
		if u.cmd != nil {
			u.kill()
		}
	})
	u.start()
	return u
}

// What README and docs/activemq.md say of one's own ActiveMQ.
func TestOnAnActiveMQOfOnesOwn(t *testing.T) {
	u := runsOn(t, func(xml string) string { return xml })
	u.wantCLI(0, "done", "send", "order.rush", "--priority", "9", "--id", "order-7", "--data", `{"order":7}`, "--wait")
	u.eventually(patience, "well", func() bool {
		code, out, _ := u.cli("doctor") // the broker is asked how much waits a little after the rest
		return code == 0 && !strings.Contains(out, "?")
	})
	out := u.wantCLI(0, "total", "queues")
	if strings.Contains(out, "?") {
		t.Errorf("something is not known:\n%s", out)
	}
	out = u.wantCLI(0, "", "doctor", "--json")
	for _, finding := range []string{"lanes", "scheduler", "statistics", "durability", "timestamps", "clock"} {
		if !strings.Contains(out, fmt.Sprintf(`"name": %q`, finding)) {
			t.Errorf("there is no finding of %s:\n%s", finding, out)
		}
	}
	u.stop()
}

// Without the lanes it runs, in three bands of priority, and doctor says so.
func TestOnAnActiveMQWithoutLanes(t *testing.T) {
	lanes := regexp.MustCompile(`(?s)<destinationInterceptors>.*</destinationInterceptors>`)
	u := runsOn(t, func(xml string) string { return lanes.ReplaceAllString(xml, "") })
	u.wantCLI(0, "done", "send", "order.rush", "--id", "order-7", "--wait")
	out := u.wantCLI(exitFailed, "not as it should be: lanes\n", "doctor")
	for _, line := range []string{"FAIL  lanes", "→ `usher deploy broker-xml` writes the lanes", "ok    scheduler"} {
		if !strings.Contains(out, line) {
			t.Errorf("doctor does not say %q:\n%s", line, out)
		}
	}
	u.stop()
	if !strings.Contains(u.stderr.String(), "lanes: there are none") {
		t.Errorf("the log does not say it:\n%s", u.stderr)
	}
}
