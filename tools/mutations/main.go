// Command mutations breaks promises on purpose, one at a time, and looks whether the
// tests find out:
//
//	mutations /path/to/the/repository [NAME…]
//
// Names are parts of what a mutation is called; without one all are made. A mutation is
// killed if a test fails. The exit status is 1 if one survives, does not compile, or has
// no place any more in the file that it changes. The files themselves are not touched.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// patience is how long the tests may take to find one; tests that hang find it as well.
const patience = 3 * time.Minute

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: mutations ROOT [NAME…]")
		os.Exit(2)
	}
	os.Exit(run(os.Args[1], os.Args[2:], mutations(), os.Stdout))
}

// run makes the mutations that are asked for, and returns the exit status.
func run(root string, names []string, all []mutation, out io.Writer) int {
	status, killed, made := 0, 0, 0
	for _, m := range all {
		if len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(m.name, name) }) {
			continue
		}
		made++
		began := time.Now()
		by, err := m.try(root)
		took := time.Since(began).Round(time.Second)
		if err != nil {
			status = 1
			fmt.Fprintf(out, "SURVIVED  %s (%v): %v\n", m.name, took, err)
			continue
		}
		killed++
		fmt.Fprintf(out, "killed    %s (%v), by %s\n", m.name, took, by)
	}
	fmt.Fprintf(out, "mutations: %d of %d killed\n", killed, made)
	if made == 0 {
		status = 1
	}
	return status
}

// try makes a mutation and gives the first test that fails; an error says why none did.
func (m mutation) try(root string) (by string, err error) {
	path := filepath.Join(root, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("%s has its place %d times, not once: %q", m.file, n, m.old)
	}
	dir, err := os.MkdirTemp("", "mutation-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is temporary
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return "", err
	}
	return m.test(root, overlay)
}

// failed is how go test names a test that has failed.
var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

func (m mutation) test(root, overlay string) (by string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	args := append([]string{"test", "-overlay", overlay, "-count", "1", "-failfast", "-vet", "off", "-timeout", (patience * 3 / 4).String()}, m.tests...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	output, err := cmd.CombinedOutput()
	text := string(output)
	switch found := failed.FindStringSubmatch(text); {
	case err == nil:
		return "", fmt.Errorf("no test fails: go test %s", strings.Join(m.tests, " "))
	case strings.Contains(text, "[build failed]"), strings.Contains(text, "[setup failed]"):
		return "", fmt.Errorf("it does not compile:\n%s", text)
	case found != nil:
		return found[1], nil
	case strings.Contains(text, "panic: test timed out"):
		return "tests that hang", nil
	case strings.Contains(text, "panic: "), strings.Contains(text, "DATA RACE"):
		return "a panic", nil
	}
	return "", fmt.Errorf("go test: %w\n%s", err, text)
}
