//go:build linux

package pluginhost_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"usher/engine"
	"usher/engine/pluginhost"
	"usher/handlers"
)

// TestAPluginGetsNoMoreMemoryThanItMay: who takes more ends alone and comes back, and
// when the machine has none left it is not usher that is ended for it.
func TestAPluginGetsNoMoreMemoryThanItMay(t *testing.T) {
	program := filepath.Join(t.TempDir(), "hog")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/hog").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := launch(t, settings{types: []string{"take"}, plugin: pluginhost.Plugin{Command: []string{program}, Memory: 256 << 20}})
	take := func(mib string) ([]handlers.FollowOn, error) {
		m := message("take")
		m.Body = []byte(mib)
		return h.do(m)
	}
	few, err := take("16")
	if err != nil || len(few) != 1 || strings.TrimSpace(string(few[0].Body)) != "500" {
		t.Fatalf("16 MiB of 256: %+v, %v; want it done, with an oom_score_adj of 500", few, err)
	}
	pid := h.status().PID
	// A Go program that gets no memory says so, or ends with SIGSEGV in its garbage
	// collector.
	if _, err := take("512"); !errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), "last words") {
		t.Errorf("512 MiB of 256: %v, want that the plugin is lost, with its last words", err)
	}
	h.again(pid)
	if _, err := take("16"); err != nil {
		t.Errorf("afterwards 16 MiB of 256: %v", err)
	}
}
