package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// events writes the lines of go test -json for the package p. Each is
// "action test", "output test: text" or "attr test: key value".
func events(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		head, text, _ := strings.Cut(line, ": ")
		action, test, _ := strings.Cut(head, " ")
		key, value, _ := strings.Cut(text, " ")
		if action == "output" {
			key, value = "", ""
			text += "\n"
		}
		fmt.Fprintf(&b, `{"Action":%q,"Package":"p","Test":%q,"Output":%q,"Key":%q,"Value":%q}`+"\n", action, test, text, key, value)
	}
	return b.String()
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name   string
		in     string
		status int
		want   string
	}{
		{
			"what passed leaves go test's line",
			events("run TestA", "output TestA: === RUN   TestA", "output TestA: noise", "pass TestA", "output : PASS", "output : ok p 0.1s", "pass"),
			0, "ok p 0.1s\n",
		},
		{
			"a suite is named with its backend and its cases, not their groups",
			events("run TestS", "attr TestS: suite broker", "attr TestS: backend embedded",
				"run TestS/group", "run TestS/group/one", "pass TestS/group/one", "run TestS/group/two", "pass TestS/group/two", "pass TestS/group",
				"run TestS/three", "pass TestS/three", "pass TestS", "output : ok p 0.1s", "pass"),
			0, "suite\tbroker on embedded: 3 cases passed\nok p 0.1s\n",
		},
		{
			"the backend is the package, if the suite does not say",
			events("run TestS", "attr TestS: suite records", "run TestS/one", "pass TestS/one", "pass TestS", "output : ok p 0.1s", "pass"),
			0, "suite\trecords on p: 1 cases passed\nok p 0.1s\n",
		},
		{
			"or the subtest, if it is one",
			events("run TestS/ActiveMQ", "attr TestS/ActiveMQ: suite broker", "run TestS/ActiveMQ/one", "pass TestS/ActiveMQ/one",
				"pass TestS/ActiveMQ", "pass TestS", "output : ok p 0.1s", "pass"),
			0, "suite\tbroker on ActiveMQ: 1 cases passed\nok p 0.1s\n",
		},
		{
			"what failed is shown, and what passed beside it is not",
			events("run TestA", "output TestA: noise", "pass TestA", "run TestB", "output TestB: === RUN   TestB", "output TestB: b.go:1: bad", "fail TestB", "output : FAIL p 0.1s", "fail"),
			1, "b.go:1: bad\nFAIL p 0.1s\nFAIL\n",
		},
		{
			"what a panic cut off is shown",
			events("run TestA", "output TestA: panic: oh", "output : FAIL p 0.1s", "fail", "pass TestOfAnother"),
			1, "panic: oh\nFAIL p 0.1s\nFAIL\n",
		},
		{
			"a skipped test fails",
			events("run TestA", "skip TestA", "output : ok p 0.1s", "pass"),
			1, "--- FAIL: TestA was skipped, which counts as a failure\nok p 0.1s\nFAIL\n",
		},
		{
			"a build that failed is shown",
			`{"Action":"build-output","ImportPath":"p","Output":"x.go:1: undefined\n"}` + "\n" + events("output : FAIL p [build failed]", "fail"),
			1, "x.go:1: undefined\nFAIL p [build failed]\nFAIL\n",
		},
		{"nothing at all is a failure", "", 1, "FAIL\n"},
		{"words of the go command pass through", "go: no modules\n", 1, "go: no modules\nFAIL\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			status := run(strings.NewReader(c.in), &out)
			if status != c.status || out.String() != c.want {
				t.Errorf("status %d, want %d; printed\n%swant\n%s", status, c.status, &out, c.want)
			}
		})
	}
}
