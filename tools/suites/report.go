package main

import (
	"fmt"
	"io"
	"strings"
)

// event is one line of go test -json; see go doc test2json. The attributes of
// a test come with the action "attr".
type event struct {
	Action  string `json:"Action"`
	Package string `json:"Package"`
	Test    string `json:"Test"`
	Output  string `json:"Output"`
	Key     string `json:"Key"`
	Value   string `json:"Value"`
}

// report prints packages as they end. It belongs to one goroutine.
type report struct {
	out      io.Writer
	packages map[string]*pkg
	tests    int  // that ended
	failed   bool // something did, or was skipped
}

// pkg is a package whose tests are running.
type pkg struct {
	output  map[string][]string // of each test that has not ended; "" is the package's own
	order   []string            // tests in the order they began
	passed  map[string]int      // cases that passed, by the test they are part of
	suites  map[string]*suite   // by test
	skipped []string
}

// suite is a conformance suite on a backend.
type suite struct{ name, backend string }

func newReport(out io.Writer) *report {
	return &report{out: out, packages: map[string]*pkg{}}
}

// add takes one event.
func (r *report) add(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(r.out, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &pkg{output: map[string][]string{}, passed: map[string]int{}, suites: map[string]*suite{}}
		r.packages[e.Package] = p
	}
	switch e.Action {
	case "output":
		p.output[e.Test] = append(p.output[e.Test], e.Output)
	case "run":
		p.order = append(p.order, e.Test)
	case "attr":
		p.attr(e)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.end(p, e.Action)
			delete(r.packages, e.Package)
			return
		}
		r.testEnded(p, e)
	}
}

// attr notes what a test says of itself.
func (p *pkg) attr(e event) {
	s := p.suites[e.Test]
	if s == nil {
		s = &suite{backend: e.Package}
		if up := parent(e.Test); up != "" {
			s.backend = e.Test[len(up)+1:]
		}
		p.suites[e.Test] = s
	}
	switch e.Key {
	case "suite":
		s.name = e.Value
	case "backend":
		s.backend = e.Value
	}
}

// testEnded keeps of a test what the package's end will need.
func (r *report) testEnded(p *pkg, e event) {
	r.tests++
	switch e.Action {
	case "pass":
		delete(p.output, e.Test)
		if p.passed[e.Test] > 0 {
			return // its parts are the cases, not itself
		}
		for test := parent(e.Test); test != ""; test = parent(test) {
			p.passed[test]++
		}
	case "fail":
		r.failed = true
	case "skip":
		r.failed = true
		p.skipped = append(p.skipped, e.Test)
	}
}

// parent returns the test that a subtest is part of, or "".
func parent(test string) string {
	return test[:max(strings.LastIndexByte(test, '/'), 0)]
}

// end prints a package whose tests ended: what failed or was skipped, what is
// left of tests that a panic or a time-out cut off, the suites, and last go
// test's own words on the package.
func (r *report) end(p *pkg, action string) {
	r.failed = r.failed || action == "fail"
	for _, test := range p.order {
		for _, line := range p.output[test] {
			if !isProgress(line) {
				fmt.Fprint(r.out, line)
			}
		}
	}
	for _, test := range p.skipped {
		fmt.Fprintf(r.out, "--- FAIL: %s was skipped, which counts as a failure\n", test)
	}
	for _, test := range p.order {
		if s := p.suites[test]; s != nil && s.name != "" {
			fmt.Fprintf(r.out, "suite\t%s on %s: %d cases passed\n", s.name, s.backend, p.passed[test])
		}
	}
	for _, line := range p.output[""] {
		if line != "PASS\n" {
			fmt.Fprint(r.out, line)
		}
	}
}

// isProgress says whether the line only tells that a test began, waits or goes on.
func isProgress(line string) bool {
	for _, prefix := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME ", "=== ATTR "} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}
