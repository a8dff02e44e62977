package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each test that a fault names is there.
func TestEachFaultHasItsTests(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows() {
		if len(r.tests) == 0 || seen[r.fault] {
			t.Errorf("%s: has no test, or is there twice", r.fault)
		}
		seen[r.fault] = true
		for _, test := range r.tests {
			at := strings.LastIndexByte(test, '.')
			files, err := filepath.Glob(filepath.Join("..", "..", test[:at], "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				found = found || bytes.Contains(text, []byte("\nfunc "+test[at+1:]+"("))
			}
			if !found {
				t.Errorf("%s: there is no %s", r.fault, test)
			}
		}
	}
	if len(rows()) < 45 {
		t.Errorf("%d faults, want 45 at least", len(rows()))
	}
}

// events are those of a run in which every test passes but one.
func events(but, outcome string) string {
	var w strings.Builder
	fmt.Fprintln(&w, "# a line of the go command")
	for _, r := range rows() {
		for _, test := range r.tests {
			at := strings.LastIndexByte(test, '.')
			action := "pass"
			if test == but {
				action = outcome
			}
			fmt.Fprintf(&w, "{\"Action\":\"attr\",\"Package\":\"usher/%s\",\"Test\":%q,\"Key\":\"measured\",\"Value\":\"7 of 7\"}\n", test[:at], test[at+1:])
			fmt.Fprintf(&w, "{\"Action\":%q,\"Package\":\"usher/%s\",\"Test\":%q}\n", action, test[:at], test[at+1:])
		}
	}
	return w.String()
}

func TestAllHaveToPass(t *testing.T) {
	page := filepath.Join(t.TempDir(), "faults.md")
	var out bytes.Buffer
	if status := run(strings.NewReader(events("", "")), page, &out); status != 0 {
		t.Errorf("all passed, and the status is %d: %s", status, &out)
	}
	text, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(text), "| 7 of 7") || !strings.Contains(string(text), "`TestFailover`") {
		t.Errorf("the page is %s, %v", text, err)
	}
	const long = "\n## By hand\n\n300 rounds.\n"
	if err := os.WriteFile(page, append(text, long...), 0o600); err != nil {
		t.Fatal(err)
	}
	run(strings.NewReader(events("", "")), page, &out)
	if again, err := os.ReadFile(page); err != nil || string(again) != string(text)+long {
		t.Errorf("what people wrote is not kept: %s, %v", again, err)
	}
	for _, outcome := range []string{"fail", "skip", "run"} {
		out.Reset()
		if status := run(strings.NewReader(events(chaos, outcome)), "", &out); status != 1 || !strings.Contains(out.String(), chaos) {
			t.Errorf("%s: status %d: %s", outcome, status, &out)
		}
	}
}
