package demo

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"usher/engine"
)

// Facts are what the board itself cannot know.
type Facts struct {
	Title   string      // the first line
	Waiting map[int]int // by lane: in the broker or in hand, not running; nil: not known
	Ends    time.Time   // when the demo ends; zero: never
}

// Draw writes the board as a screen of the given size, with colour.
func (b *Board) Draw(w io.Writer, f Facts, width, height int) error {
	lines := b.lines(f, time.Now(), height)
	var s strings.Builder
	s.WriteString("\x1b[H") // home; each line clears its own rest, so nothing flickers
	for _, line := range lines {
		s.WriteString(fit(line, width))
		s.WriteString("\x1b[0m\x1b[K\r\n")
	}
	s.WriteString("\x1b[J")
	_, err := io.WriteString(w, s.String())
	return err
}

const (
	bold = "\x1b[1m"
	dim  = "\x1b[2m"
	red  = "\x1b[31m"
)

func (b *Board) lines(f Facts, now time.Time, height int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	clock := now.Sub(b.started).Truncate(time.Second).String()
	if !f.Ends.IsZero() {
		clock += " of " + f.Ends.Sub(b.started).Round(time.Second).String()
	}
	lines := []string{bold + f.Title + "   " + clock, ""}
	lines = append(lines, b.table(f)...)
	if waits := b.waitLines(now, 5); len(waits) > 0 {
		lines = append(append(lines, "", bold+"WAITS UNTIL"), waits...)
	}
	lines = append(lines, "", bold+"JUST NOW")
	room := max(height-len(lines)-3, 1)
	for _, line := range b.news[max(len(b.news)-room, 0):] {
		if strings.Contains(line, ": dead, ") {
			line = red + line
		}
		lines = append(lines, "  "+line)
	}
	return append(lines, "", dim+"Ctrl-C ends it. In another terminal: usher send order.rush --data '{}' --wait; usher queues; usher dlq list")
}

// table is one row a level that has had messages.
func (b *Board) table(f Facts) []string {
	lines := []string{bold + "LEVEL  WAITING  RUNNING    DONE  RETRIED  DELAYED   DEAD    WAIT p50      p99"}
	for level := engine.Levels - 1; level >= 0; level-- {
		t := &b.levels[level]
		if t.Received == 0 && t.Done == 0 && t.Running == 0 {
			continue
		}
		waiting := "?"
		if f.Waiting != nil {
			waiting = strconv.Itoa(max(f.Waiting[level]-t.Running, 0))
		}
		lines = append(lines, fmt.Sprintf("%5d  %7s  %7d  %6d  %7d  %7d  %5d  %9s  %7s",
			level, waiting, t.Running, t.Done, t.Retried, t.Delayed, t.Dead, short(t.quantile(.5)), short(t.quantile(.99))))
	}
	return lines
}

func (b *Board) waitLines(now time.Time, most int) []string {
	type row struct {
		id string
		pending
	}
	var rows []row
	for id, p := range b.waits {
		rows = append(rows, row{id, p})
	}
	slices.SortFunc(rows, func(x, y row) int { return x.until.Compare(y.until) })
	var lines []string
	for _, r := range rows[:min(len(rows), most)] {
		in := max(r.until.Sub(now), 0).Truncate(100 * time.Millisecond)
		lines = append(lines, fmt.Sprintf("  %s %s: %s, in %s (%s)", r.typ, r.id, r.until.Local().Format("15:04:05"), in, r.why))
	}
	if more := len(rows) - most; more > 0 {
		lines = append(lines, fmt.Sprintf("  … and %d more", more))
	}
	return lines
}

// Plain is a line on what happened until now, for where there is no screen.
func (b *Board) Plain(f Facts) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	fmt.Fprintf(&s, "%4.0fs", time.Since(b.started).Seconds())
	for level := engine.Levels - 1; level >= 0; level-- {
		t := &b.levels[level]
		if t.Received == 0 && t.Done == 0 {
			continue
		}
		fmt.Fprintf(&s, " | p%d", level)
		if f.Waiting != nil {
			fmt.Fprintf(&s, " %d waiting,", max(f.Waiting[level]-t.Running, 0))
		}
		fmt.Fprintf(&s, " %d done", t.Done)
		if t.Retried > 0 {
			fmt.Fprintf(&s, ", %d retried", t.Retried)
		}
		if t.Dead > 0 {
			fmt.Fprintf(&s, ", %d dead", t.Dead)
		}
		fmt.Fprintf(&s, ", p99 %s", short(t.quantile(.99)))
	}
	if len(b.waits) > 0 {
		fmt.Fprintf(&s, " | %d wait for their time", len(b.waits))
	}
	return s.String()
}

// Summary is the board in the end: levels, then types.
func (b *Board) Summary(w io.Writer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	head := "    DONE  RETRIED  DELAYED   DEAD    WAIT p50      p99\n"
	row := func(name string, t *tally) {
		fmt.Fprintf(&s, "%-15s %6d  %7d  %7d  %5d  %9s  %7s\n", name, t.Done, t.Retried, t.Delayed, t.Dead, short(t.quantile(.5)), short(t.quantile(.99)))
	}
	s.WriteString("LEVEL       " + head)
	for level := engine.Levels - 1; level >= 0; level-- {
		if t := &b.levels[level]; t.Received > 0 || t.Done > 0 {
			row(strconv.Itoa(level), t)
		}
	}
	s.WriteString("\nTYPE        " + head)
	types := make([]string, 0, len(b.types))
	for typ := range b.types {
		types = append(types, typ)
	}
	slices.Sort(types)
	for _, typ := range types {
		row(typ, b.types[typ])
	}
	_, err := io.WriteString(w, s.String())
	return err
}

// short is a duration in at most seven characters.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Truncate(time.Second).String()
}

// fit cuts a line to what is seen of width characters; colour codes take none.
func fit(line string, width int) string {
	seen, escape := 0, false
	for i, r := range line {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			if seen++; seen > width {
				return line[:i]
			}
		}
	}
	return line
}
