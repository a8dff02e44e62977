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
	maxLine     = 4 << 10 // bytes of a line that are kept
	maxLines    = 1000    // lines a second that are logged
	keptLines   = 50      // for the report of a crash
	reportLines = 3       // of them in an error
)

// lines takes what a plugin prints and logs it line by line. It never fails and
// never blocks for long, so that no plugin is stopped by what it prints, and
// keeps a bounded part of it. It is safe for concurrent use.
type lines struct {
	log zerolog.Logger

	mu      sync.Mutex // guards the rest
	partial []byte     // of a line whose end has not come, at most maxLine
	last    []string   // at most keptLines
	second  time.Time  // the second that logged counts
	logged  int
	dropped int
}

// Write takes a part of what was printed.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		room := maxLine - len(l.partial)
		l.partial = append(l.partial, line[:min(len(line), room)]...)
		if !ended {
			return n, nil
		}
		l.line(handlers.OneLine(string(l.partial), maxLine))
		l.partial, p = l.partial[:0], rest
	}
}

// line logs one line. The lock is held.
func (l *lines) line(text string) {
	if text == "" {
		return
	}
	if l.last = append(l.last, text); len(l.last) > keptLines {
		l.last = l.last[1:]
	}
	if now := time.Now().Truncate(time.Second); now != l.second {
		if l.dropped > 0 {
			l.log.Warn().Int("lines", l.dropped).Msg("the plugin prints more than is logged")
		}
		l.second, l.logged, l.dropped = now, 0, 0
	}
	if l.logged++; l.logged > maxLines {
		l.dropped++
		return
	}
	l.log.Info().Msg(text)
}

// report is what was printed last, in one line.
func (l *lines) report() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last[max(len(l.last)-reportLines, 0):], " | ")
}
