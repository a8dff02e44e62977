package broker

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A client in another language, by other people: stomp.py.
func TestForeignClient(t *testing.T) {
	python, err := filepath.Abs("../../../.cache/venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("the Python with stomp.py is not there: run tools/prepare, as make test does: %v", err)
	}
	for _, version := range []string{"1.0", "1.1", "1.2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := start(t, Config{})
			_, port, err := net.SplitHostPort(r.addr)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), python, "testdata/foreign.py", port, version).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := strings.Count(string(out), "ok "); n != 9 {
				t.Errorf("%d of 9 cases ended:\n%s", n, out)
			}
		})
	}
}
