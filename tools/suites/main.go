// Command suites reads the output of go test -json and prints what go test
// prints without -v: the output of failed tests and one line a package, as it
// is. Before each package's line it names the conformance suites that ran
// there, the backend each ran on, and how many of its cases passed:
//
//	go test -json ./... | suites
//
// A suite says so itself, with t.Attr("suite", name) on the test whose subtests
// are its cases. The backend has the name of that test if it is a subtest, else
// of the package, unless the test says more with t.Attr("backend", name).
//
// The exit status is 1 when a test or a build failed, when a test was skipped
// (what cannot be tested must fail), and when nothing was tested at all.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(run(os.Stdin, os.Stdout)) }

// run prints the report of the events in to out, and returns the exit status.
func run(in io.Reader, out io.Writer) int {
	r := newReport(out)
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				r.add(e)
			} else {
				fmt.Fprintf(out, "%s", line) // not go test's: a message of the go command
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			fmt.Fprintln(out, "suites:", err)
			return 1
		}
	}
	if r.failed || r.tests == 0 {
		fmt.Fprintln(out, "FAIL")
		return 1
	}
	return 0
}
