package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each mutation has its place in the code as it is: one that has none says nothing.
func TestEachMutationHasItsPlace(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutations() {
		text, err := os.ReadFile(filepath.Join("..", "..", m.file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), m.old); n != 1 || m.old == m.new || len(m.tests) == 0 {
			t.Errorf("%s: its place is in %s %d times, want once", m.name, m.file, n)
		}
		if names[m.name] {
			t.Errorf("there are two %q", m.name)
		}
		names[m.name] = true
	}
}

// module writes a module with one function and one test of it.
func module(t *testing.T, test string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.26\n", "f.go": "package m\n\nfunc F() int { return 1 }\n",
		"f_test.go": "package m\n\nimport \"testing\"\n\nfunc TestF(t *testing.T) {\n" + test + "\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWhatAMutationComesTo(t *testing.T) {
	bites, sleeps := "\tif F() != 1 {\n\t\tt.Error(F())\n\t}", "\t_ = F()"
	for _, tt := range []struct {
		name, test, old, new, says string
		status                     int
	}{
		{"a test that looks", bites, "return 1", "return 2", "killed    m (", 0},
		{"a test that does not", sleeps, "return 1", "return 2", "no test fails", 1},
		{"no Go", bites, "return 1", "return", "does not compile", 1},
		{"no place", bites, "return 3", "return 2", "0 times", 1},
		{"a panic", bites, "return 1", "panic(1)", "killed    m (", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			status := run(module(t, tt.test), nil, []mutation{{"m", "f.go", tt.old, tt.new, tests(".")}}, &out)
			said := out.String()
			if status != tt.status || !strings.Contains(said, tt.says) {
				t.Errorf("status %d, want %d: %s", status, tt.status, said)
			}
		})
	}
}

func TestANameThatNoMutationHasIsAnError(t *testing.T) {
	var out bytes.Buffer
	if status := run(t.TempDir(), []string{"nothing of the kind"}, mutations(), &out); status != 1 || !strings.Contains(out.String(), "0 of 0") {
		t.Errorf("status %d: %s", status, &out)
	}
}
