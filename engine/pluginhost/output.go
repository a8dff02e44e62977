package pluginhost

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"usher/handlers"
)

const (
	// maxLine is the longest line that is logged, in bytes.
	maxLine = 4 << 10
	// linesASecond is how many lines are logged of one plugin.
	linesASecond = 1000
	// keptLines is how many lines are kept for when the process ends, each with
	// at most maxKeptLine bytes.
	keptLines   = 50
	maxKeptLine = 512
	// wordLines is how many lines an error quotes.
	wordLines = 5
)

// output takes what the processes of a plugin write, a line at a time: into the
// log, and the last lines of the latest are kept. It is safe for concurrent use.
type output struct {
	log zerolog.Logger
	now func() time.Time

	mu      sync.Mutex // guards the rest
	kept    []string   // the last lines, the oldest first
	cause   []string   // the first lines of a Go panic, whatever came after them
	second  time.Time  // when the second began that logged counts
	logged  int
	dropped int
}

func newOutput(log zerolog.Logger) *output { return &output{log: log, now: time.Now} }

// begin forgets what an earlier process wrote.
func (o *output) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept, o.cause = nil, nil
}

// line takes one line of a stream.
func (o *output) line(stream, line string) {
	if line == "" {
		return
	}
	logIt, dropped := o.keep(line)
	if dropped > 0 {
		o.log.Warn().Str("stream", stream).Int("lines", dropped).Msg("the plugin writes too much: lines were dropped")
	}
	if logIt {
		o.log.Info().Str("stream", stream).Msg(line)
	}
}

// keep keeps a line, and says whether to log it and how many were not before it.
func (o *output) keep(line string) (logIt bool, dropped int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.kept) == keptLines {
		o.kept = o.kept[:copy(o.kept, o.kept[1:])]
	}
	short := handlers.OneLine(line, maxKeptLine)
	o.kept = append(o.kept, short)
	begins := strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
	if n := len(o.cause); n > 0 && n < wordLines || n == 0 && begins {
		o.cause = append(o.cause, short)
	}
	if now := o.now(); now.Sub(o.second) >= time.Second {
		dropped = o.dropped
		o.second, o.logged, o.dropped = now, 0, 0
	}
	if o.logged == linesASecond {
		o.dropped++
		return false, dropped
	}
	o.logged++
	return true, dropped
}

// finish tells of lines that were dropped at the end.
func (o *output) finish() {
	o.mu.Lock()
	dropped := o.dropped
	o.dropped = 0
	o.mu.Unlock()
	if dropped > 0 {
		o.log.Warn().Int("lines", dropped).Msg("the plugin wrote too much: lines were dropped")
	}
}

// last returns the last lines.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.kept...)
}

// words are the lines that say most about why the process ended, in one: those
// of a Go panic from its beginning, else the last.
func (o *output) words() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.cause) > 0 {
		return strings.Join(o.cause, " / ")
	}
	return strings.Join(o.kept[max(0, len(o.kept)-wordLines):], " / ")
}

// lines is an io.Writer that gives what it is given to an output, line by line.
// Lines over maxLine are cut. It is for one goroutine.
type lines struct {
	out    *output
	stream string
	part   []byte // of a line whose end has not come
	over   bool   // the line is longer than part
}

// Write takes bytes and never fails.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			l.add(p)
			return n, nil
		}
		l.add(p[:end])
		l.flush()
		p = p[end+1:]
	}
}

func (l *lines) add(p []byte) {
	room := maxLine - len(l.part)
	if len(p) > room {
		p = p[:room]
		l.over = true
	}
	l.part = append(l.part, p...)
}

// flush ends the line.
func (l *lines) flush() {
	text := string(l.part)
	if l.over {
		text += "…"
	}
	l.out.line(l.stream, handlers.OneLine(text, maxLine+len("…")))
	l.part, l.over = l.part[:0], false
}
