package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

var (
	rounds   = flag.Int("rounds", enoughRounds, "how many rounds are run")
	messages = flag.Int("messages", backlogSize, "how many messages wait in its measurements")
	report   = flag.String("report", "", "the folder that the pages of the report are written to")
)

// enoughRounds is how many rounds a report takes.
const enoughRounds = 7

// TestMain lets this binary be the other processes of the measurements.
func TestMain(m *testing.M) {
	for role, play := range map[string]func(){pluginRole: servePlugin, gatewayRole: serveGateway, senderRole: sendWatched} {
		if os.Getenv(role) != "" {
			play()
			return
		}
	}
	os.Exit(m.Run())
}

// BenchmarkNumbers measures order and speed, what `make bench` reports in
// docs/performance.md; it runs once, whatever b.N.
func BenchmarkNumbers(b *testing.B) {
	page{"performance.md", "Performance"}.measure(b, urgency, order, throughput, durability)
}

// BenchmarkWaiting measures what waits, fails and is changed, for
// docs/performance-waiting.md.
func BenchmarkWaiting(b *testing.B) {
	page{"performance-waiting.md", "Performance: what waits, fails and is changed"}.measure(b, waiting, due, failing, reloads, redrives)
}

// BenchmarkShared measures records in DynamoDB, and watchers over API Gateway, for docs/performance-dynamodb.md.
func BenchmarkShared(b *testing.B) {
	page{"performance-dynamodb.md", "Performance: records in DynamoDB"}.measure(b, slowStore, kinds, outages, watchers)
}

// page is a file of the report.
type page struct{ file, title string }

// measure makes all measurements that were asked for, and writes the page if that was
// all of them.
func (p page) measure(b *testing.B, all ...func(*rig) measurement) {
	b.Helper()
	var done []section
	r := &rig{}
	open := sync.OnceFunc(func() { *r = *openRig(b) }) // not if none is asked for
	for _, of := range all {
		m := of(r)
		b.Run(m.name, func(b *testing.B) {
			open()
			done = append(done, section{m, m.measure(b, *rounds)})
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
	if len(done) == 0 {
		return
	}
	machine := describe(b, r)
	if err := writeAnswers(os.Stdout, done); err != nil {
		b.Fatal(err)
	}
	switch {
	case b.Failed() || *report == "":
	case len(done) < len(all) || *rounds < enoughRounds || *messages != backlogSize:
		fmt.Fprintf(os.Stderr, "%s stays as it is: a report takes every measurement, %d rounds and %d messages\n", p.file, enoughRounds, backlogSize)
	default:
		if err := os.WriteFile(filepath.Join(*report, p.file), document(p.title, machine, done), 0o644); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(os.Stderr, "written:", p.file)
	}
}
