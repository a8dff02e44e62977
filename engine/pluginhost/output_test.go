package pluginhost

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestBackoffDoublesWithFullJitter(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: 250 * time.Millisecond, 1: 500 * time.Millisecond, 2: time.Second, 6: 16 * time.Second, 7: 30 * time.Second, 1000: 30 * time.Second,
	} {
		if got := backoff(failures, 1); got != want {
			t.Errorf("after %d failures at most %v, not %v", failures, got, want)
		}
		if got := backoff(failures, 0.5); got != want/2 {
			t.Errorf("after %d failures %v in the middle", failures, got)
		}
	}
}

func TestLinesAreCut(t *testing.T) {
	var log bytes.Buffer
	l := &lines{out: newOutput(zerolog.New(&log)), stream: "stderr"}
	for _, part := range []string{"one\ntw", "o\n\n", strings.Repeat("x", maxLine), "\n", strings.Repeat("y", maxLine), "y", strings.Repeat("y", 1<<20), "\nlast"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	}
	l.flush()
	var got []string
	for line := range strings.SplitSeq(strings.TrimSpace(log.String()), "\n") {
		_, text, _ := strings.Cut(line, `"message":"`)
		got = append(got, strings.TrimSuffix(text, `"}`))
	}
	want := []string{"one", "two", strings.Repeat("x", maxLine), strings.Repeat("y", maxLine) + "…", "last"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("logged %.300q", got)
	}
}

func TestLinesOverTheRateAreDroppedAndCounted(t *testing.T) {
	var log bytes.Buffer
	now := time.Unix(0, 0)
	o := newOutput(zerolog.New(&log))
	o.now = func() time.Time { return now }
	for i := range linesASecond + 7 {
		o.line("stderr", fmt.Sprint("line ", i))
	}
	now = now.Add(time.Second)
	o.line("stderr", "later")
	if n := strings.Count(log.String(), "\n"); n != linesASecond+2 || !strings.Contains(log.String(), `"lines":7`) {
		t.Errorf("%d lines logged", n)
	}
	if last := o.last(); len(last) != keptLines || last[keptLines-1] != "later" || last[keptLines-2] != "line 1006" {
		t.Errorf("kept %q", last)
	}
	for range linesASecond {
		o.line("stderr", "line")
	}
	log.Reset()
	o.finish()
	o.finish()
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), `"lines":1,`) {
		t.Errorf("in the end: %s", &log)
	}
}

func TestWordsAreThoseOfThePanic(t *testing.T) {
	o := newOutput(zerolog.Nop())
	if w := o.words(); w != "" {
		t.Errorf("words of nobody: %q", w)
	}
	for i := range 9 {
		o.line("stderr", fmt.Sprint(i))
	}
	if w := o.words(); w != "4 / 5 / 6 / 7 / 8" {
		t.Errorf("words %q", w)
	}
	for _, line := range []string{"panic: boom", "goroutine 1 [running]:", "main.f(...)", "\t/a.go:1", "main.main()", "\t/a.go:2", "exit status 2"} {
		o.line("stderr", line)
	}
	if w := o.words(); w != "panic: boom / goroutine 1 [running]: / main.f(...) / /a.go:1 / main.main()" {
		t.Errorf("words %q", w)
	}
	o.line("stderr", strings.Repeat("x", 10*maxKeptLine))
	if last := o.last(); len(last[len(last)-1]) > maxKeptLine {
		t.Errorf("a kept line has %d bytes", len(last[len(last)-1]))
	}
	o.begin()
	if w := o.words(); w != "" {
		t.Errorf("words of an earlier process: %q", w)
	}
}
