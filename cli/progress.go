package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress counts on a screen what a long command has done; elsewhere it only
// counts. It is safe for concurrent use.
type progress struct {
	out  io.Writer // nil: no screen
	of   int
	verb string

	mu    sync.Mutex
	seen  int       // guarded by mu, as the rest
	done  int       // of those seen
	shown time.Time // when the screen was last written
}

// progressEvery is how often the screen is written at the most.
const progressEvery = 200 * time.Millisecond

func newProgress(out io.Writer, of int, verb string) *progress {
	if !isTerminal(out) {
		out = nil
	}
	return &progress{out: out, of: of, verb: verb, shown: time.Now()}
}

// add notes that one more has been seen, and n of it done.
func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen++
	p.done += n
	if p.out != nil && time.Since(p.shown) >= progressEvery {
		p.shown = time.Now()
		fmt.Fprintf(p.out, "\r%d of %d %s", p.seen, p.of, p.verb)
	}
}

// count is how many were done.
func (p *progress) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// end clears the line.
func (p *progress) end() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\033[K")
	}
}
