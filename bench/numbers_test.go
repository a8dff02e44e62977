package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var (
	rounds   = flag.Int("rounds", enoughRounds, "how many rounds BenchmarkNumbers runs")
	messages = flag.Int("messages", backlogSize, "how many messages wait in its measurements")
	report   = flag.String("report", "", "the file that it writes its report to")
)

// enoughRounds is how many rounds a report takes.
const enoughRounds = 7

// TestMain lets this binary be the plugin that the measurements run.
func TestMain(m *testing.M) {
	if os.Getenv(pluginRole) != "" {
		servePlugin()
		return
	}
	os.Exit(m.Run())
}

// BenchmarkNumbers measures what `make bench` reports; it runs once, whatever b.N.
func BenchmarkNumbers(b *testing.B) {
	var done []section
	r := openRig(b)
	all := []func(*rig) measurement{urgency, order, throughput, durability}
	for _, of := range all {
		m := of(r)
		b.Run(m.name, func(b *testing.B) {
			done = append(done, section{m, m.measure(b, *rounds)})
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
	machine := describe(b, r)
	if err := writeAnswers(os.Stdout, done); err != nil {
		b.Fatal(err)
	}
	switch {
	case b.Failed() || *report == "":
	case len(done) < len(all) || *rounds < enoughRounds || *messages != backlogSize:
		fmt.Fprintf(os.Stderr, "%s stays as it is: a report takes every measurement, %d rounds and %d messages\n", *report, enoughRounds, backlogSize)
	default:
		if err := os.WriteFile(*report, document(machine, done), 0o644); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(os.Stderr, "written:", filepath.Base(*report))
	}
}
