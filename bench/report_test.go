package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"usher/engine"
)

// section is one measurement with what came out.
type section struct {
	measurement

	results results
}

// verdict says in a word how an answer stands to what was asked.
func (a answer) verdict() string {
	switch {
	case a.met == nil:
		return "counted"
	case a.met(a.got):
		return "met"
	case strings.HasPrefix(a.asked, "aim"):
		return "short of the aim"
	}
	return "missed"
}

func (a answer) spread() string {
	return number(slices.Min(a.got), a.unit) + " to " + number(slices.Max(a.got), a.unit)
}

// writeAnswers prints asked beside measured, for a terminal.
func writeAnswers(w io.Writer, sections []section) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nnumber\tasked\tmeasured (median)\tspread\t")
	for _, s := range sections {
		for _, a := range s.answers(s.results) {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", a.what, a.asked, number(a.got.median(), a.unit), a.spread(), a.verdict())
		}
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// document is a page of the report.
func document(title string, machine [][2]string, sections []section) []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, `# %s

What was asked, and what was measured. `+"`make bench`"+` measures it all and writes this page; `+"`make bench ROUNDS=1`"+` is a quick look that
leaves it alone. Each measurement has several ways of doing one thing, which take turns: in each of %d rounds every way runs once,
beginning with another one each time. A ratio is taken within a round. Given are medians over the rounds, with the lowest and the
highest; what must never happen is judged by the worst round.

| number | asked | measured | lowest to highest | |
|---|---|---|---|---|
`, title, *rounds)
	for _, s := range sections {
		for _, a := range s.answers(s.results) {
			fmt.Fprintf(&w, "| %s | %s | %s | %s | %s |\n", a.what, a.asked, number(a.got.median(), a.unit), a.spread(), a.verdict())
		}
	}
	fmt.Fprint(&w, "\n## The machine\n\n| | |\n|---|---|\n")
	for _, line := range machine {
		fmt.Fprintf(&w, "| %s | %s |\n", line[0], line[1])
	}
	for _, s := range sections {
		fmt.Fprintf(&w, "\n## %s\n\n%s\n\n", s.title, s.how)
		writeTable(&w, s)
	}
	return w.Bytes()
}

// writeTable writes a row for each number of each way.
func writeTable(w io.Writer, s section) {
	fmt.Fprint(w, "| | | median | lowest | highest |\n|---|---|---|---|---|\n")
	for _, way := range s.ways {
		for _, c := range s.results[way.name] {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", way.name, c.name,
				number(c.series.median(), c.unit), number(slices.Min(c.series), c.unit), number(slices.Max(c.series), c.unit))
		}
	}
}

// describe says what the numbers were measured on, and with which settings.
func describe(t testing.TB, r *rig) [][2]string {
	t.Helper()
	sync, err := syncTime(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return [][2]string{
		{"processors", fmt.Sprintf("%d × %s", runtime.NumCPU(), lineOf("/proc/cpuinfo", "model name"))},
		{"memory", lineOf("/proc/meminfo", "MemTotal")},
		{"a run", fmt.Sprintf("%d messages, bodies of %d bytes", *messages, bodyBytes)},
		{"a write of 4 KiB with fsync", number(float64(sync.Microseconds())/1000, "ms") + " (median of 200)"},
		{"Go", strings.TrimPrefix(runtime.Version(), "go") + " " + runtime.GOOS + "/" + runtime.GOARCH},
		{"ActiveMQ", r.activeMQ.Version() + ", 512 MB of heap, KahaDB with a sync for each commit, configured by `usher deploy broker-xml`"},
		{"Java", javaVersion()},
		{"engine", fmt.Sprintf("window %d; %d slots for throughput, %d for the rest", engine.DefaultWindow, engine.DefaultSlots, urgentSlots)},
		{"records", "SQLite, synchronous=FULL"},
		{"connections", "all over the loopback, without TLS to the broker, with TLS to the plugin"},
	}
}

// lineOf is what stands after the colon in the first line that begins with name.
func lineOf(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "unknown"
}

// javaVersion is the first line that java -version writes.
func javaVersion() string {
	out, err := exec.Command("java", "-version").CombinedOutput()
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.ReplaceAll(strings.TrimSpace(first), `"`, "")
}

// syncTime is the median of what it takes to have 4 KiB on disk.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	block := make([]byte, 4<<10)
	var took []time.Duration
	for range 200 {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return quantile(took, 0.5), nil
}
