// Command faults reads the output of go test -json and looks whether the tests of each
// fault have run and passed. It passes on what it reads, says on standard error what is
// wrong, and with a file it writes the table of faults:
//
//	go test -json ./... | faults docs/faults.md | suites
//
// A test says what it has measured with t.Attr("measured", …). The exit status is 1 if
// the test of a fault failed, was skipped, or did not run.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

const module = "usher/"

func main() {
	page := ""
	if len(os.Args) > 1 {
		page = os.Args[1]
	}
	os.Exit(run(io.TeeReader(os.Stdin, os.Stdout), page, os.Stderr))
}

// result is what became of one test.
type result struct {
	outcome  string // pass, fail, skip; "": it has not ended
	measured string
}

// event is a line of go test -json.
type event struct {
	Action  string `json:"action"`
	Package string `json:"package"`
	Test    string `json:"test"`
	Key     string `json:"key"`
	Value   string `json:"value"`
}

// run reads events, writes the page if it is to, and returns the exit status.
func run(in io.Reader, page string, out io.Writer) int {
	results, err := read(in)
	if err != nil {
		fmt.Fprintln(out, "faults:", err)
		return 1
	}
	status := 0
	for _, r := range rows() {
		for _, test := range r.tests {
			if got := results[test]; got.outcome != "pass" {
				fmt.Fprintf(out, "faults: %s: %s: %s\n", r.fault, test, orNone(got.outcome))
				status = 1
			}
		}
	}
	if page != "" {
		if err := os.WriteFile(page, append(document(results), byHand(page)...), 0o600); err != nil {
			fmt.Fprintln(out, "faults:", err)
			return 1
		}
	}
	if status == 0 {
		fmt.Fprintf(out, "faults: the tests of all %d passed\n", len(rows()))
	}
	return status
}

func read(in io.Reader) (results, error) {
	results := results{}
	for _, r := range rows() {
		for _, test := range r.tests {
			results[test] = &result{}
		}
	}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil { // else it is a message of the go command
			results.add(e)
		}
		if err == io.EOF {
			return results, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// results are those of the tests of faults, by package and name.
type results map[string]*result

func (all results) add(e event) {
	r := all[strings.TrimPrefix(e.Package, module)+"."+e.Test]
	switch {
	case r == nil:
	case e.Action == "attr" && e.Key == "measured":
		r.measured = e.Value
	case e.Action == "pass", e.Action == "fail", e.Action == "skip":
		r.outcome = e.Action
	}
}

// byHand is what the page says already of long runs, which people write there.
func byHand(page string) []byte {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil // there is none yet
	}
	_, kept, found := bytes.Cut(text, []byte("\n## By hand\n"))
	if !found {
		return nil
	}
	return append([]byte("\n## By hand\n"), kept...)
}

func orNone(outcome string) string {
	if outcome == "" {
		return "did not run"
	}
	return outcome
}

func document(results results) []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, `# Faults

%d faults, each made to happen by the tests beside it. `+"`make faults`"+` runs them and writes this page; `+"`make test`"+` runs them as well, and fails if one is missing.
What is asked of each besides: nothing acknowledged is lost, nothing comes that nobody sent, and only what was in flight runs again.

| | fault | made to happen by | has to come of it | measured | tests |
|---|---|---|---|---|---|
`, len(rows()))
	for i, r := range rows() {
		var measured, tests []string
		for _, test := range r.tests {
			got, name := results[test], test[strings.LastIndexByte(test, '.')+1:]
			if got.outcome != "pass" {
				name += " (" + orNone(got.outcome) + ")"
			}
			tests = append(tests, "`"+name+"`")
			if got.measured != "" {
				measured = append(measured, got.measured)
			}
		}
		if len(measured) == 0 {
			measured = []string{"passed"}
		}
		fmt.Fprintf(&w, "| %d | %s | %s | %s | %s | %s |\n", i+1, r.fault, r.injected, r.expected, strings.Join(measured, "; "), strings.Join(tests, ", "))
	}
	return w.Bytes()
}
