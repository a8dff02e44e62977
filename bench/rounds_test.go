package bench

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// value is one number that a run of a way came to.
type value struct {
	name string
	unit string
	v    float64
}

// way is one way of doing what a measurement is about. run does it once and
// fails b if it cannot.
type way struct {
	name string
	run  func(t testing.TB) []value
}

// measurement is one thing to find out.
type measurement struct {
	name    string
	title   string
	how     string // for the report: how it is measured, and what limits it
	ways    []way
	answers func(results) []answer
}

// answer is what was asked, beside what was measured.
type answer struct {
	what  string
	asked string
	unit  string
	got   series
	met   func(series) bool // nil: nothing was asked
}

// series is one number over the rounds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// over divides round by round.
func (s series) over(other series) series {
	ratios := make(series, len(s))
	for i := range s {
		ratios[i] = s[i] / other[i]
	}
	return ratios
}

func (s series) times(factor float64) series {
	product := make(series, len(s))
	for i := range s {
		product[i] = s[i] * factor
	}
	return product
}

// atMost and atLeast judge the median; never judges the worst round.
func atMost(limit float64) func(series) bool {
	return func(s series) bool { return s.median() <= limit }
}

func atLeast(limit float64) func(series) bool {
	return func(s series) bool { return s.median() >= limit }
}

func never(limit float64) func(series) bool {
	return func(s series) bool { return slices.Max(s) <= limit }
}

// results are the columns of each way.
type results map[string][]*column

// column is one number of one way, over the rounds.
type column struct {
	name, unit string
	series     series
}

// of is the series of one number, which has to be there.
func (r results) of(way, name string) series { return r.column(way, value{name: name}).series }

// column finds the column of a value, or begins it.
func (r results) column(way string, v value) *column {
	for _, c := range r[way] {
		if c.name == v.name {
			return c
		}
	}
	c := &column{name: v.name, unit: v.unit}
	r[way] = append(r[way], c)
	return c
}

// measure runs so many rounds and says on standard error how they go.
func (m measurement) measure(t testing.TB, rounds int) results {
	r := results{}
	began := time.Now()
	for round := range rounds {
		for i := range m.ways {
			w := m.ways[(i+round)%len(m.ways)]
			runtime.GC()
			values := w.run(t)
			if t.Failed() {
				t.FailNow()
			}
			for _, v := range values {
				c := r.column(w.name, v)
				c.series = append(c.series, v.v)
			}
			fmt.Fprintf(os.Stderr, "%6.0fs  round %d of %d  %-10s  %-26s  %s\n", time.Since(began).Seconds(), round+1, rounds, m.name, w.name, sentence(values))
		}
	}
	return r
}

func sentence(values []value) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = v.name + " " + number(v.v, v.unit)
	}
	return strings.Join(parts, ", ")
}

// number gives three digits that count, thousands apart, and the unit.
func number(v float64, unit string) string {
	var text string
	switch {
	case v < 1000 && v == math.Trunc(v):
		text = fmt.Sprint(int(v))
	case v >= 1000:
		digits := math.Pow(10, math.Floor(math.Log10(v))-2)
		text = fmt.Sprintf("%.0f", math.Round(v/digits)*digits)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
	case v >= 100:
		text = fmt.Sprintf("%.0f", v)
	case v >= 10:
		text = fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		text = fmt.Sprintf("%.2f", v)
	default:
		text = fmt.Sprintf("%.3g", v)
	}
	if unit == "" {
		return text
	}
	return text + " " + unit
}

// rate turns a count and a time into a rate.
func rate(name string, n int, took time.Duration) value {
	return value{name, "/s", float64(n) / took.Seconds()}
}

func millis(name string, d time.Duration) value {
	return value{name, "ms", float64(d) / float64(time.Millisecond)}
}
