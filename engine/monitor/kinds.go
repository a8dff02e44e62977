package monitor

import (
	"slices"
	"strings"
	"sync"
	"time"

	"usher/engine"
)

const (
	// maxKinds is how many kinds of failure are counted apart; what is more is
	// counted together, under no fingerprint.
	maxKinds = 1000
	// maxIDs is how many ids a note names.
	maxIDs = 3
)

// kinds counts failures by their kind, in windows. It is safe for concurrent use.
type kinds struct {
	window time.Duration

	mu   sync.Mutex
	open map[string]*kind // by fingerprint; guarded by mu
}

// kind is one kind of failure and the window that it is counted in.
type kind struct {
	sample engine.DeadLetter // the first of it
	from   time.Time         // the beginning of the window
	until  time.Time         // its end
	count  int               // of the window, less what was told at once
	ids    []string          // of some that were counted
}

func newKinds(window time.Duration) *kinds {
	return &kinds{window: window, open: map[string]*kind{}}
}

// add counts a letter. The first of its kind, with which a window begins, is told
// at once: first is true, and the note is about it alone.
func (k *kinds) add(l engine.DeadLetter, now time.Time) (note Note, first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.open[l.Why.Fingerprint]; !known && len(k.open) >= maxKinds {
		l = engine.DeadLetter{ID: l.ID}
	}
	g := k.open[l.Why.Fingerprint]
	if g == nil {
		g = &kind{sample: l, from: now, until: now.Add(k.window)}
		k.open[l.Why.Fingerprint] = g
		return noteOf(g, 1, []string{l.ID}, true, now), true
	}
	g.count++
	if len(g.ids) < maxIDs {
		g.ids = append(g.ids, l.ID)
	}
	return Note{}, false
}

// over gives the notes of the windows that have ended, and begins the next ones. A
// kind of which nothing came in a window is forgotten: the next is a first again.
func (k *kinds) over(now time.Time) []Note {
	k.mu.Lock()
	defer k.mu.Unlock()
	var notes []Note
	for fingerprint, g := range k.open {
		if now.Before(g.until) {
			continue
		}
		if g.count == 0 {
			delete(k.open, fingerprint)
			continue
		}
		notes = append(notes, noteOf(g, g.count, g.ids, false, now))
		g.from, g.until, g.count, g.ids = now, now.Add(k.window), 0, nil
	}
	slices.SortFunc(notes, func(a, b Note) int { return strings.Compare(a.Fingerprint, b.Fingerprint) })
	return notes
}

// end gives the notes of all windows, though they are not over.
func (k *kinds) end(now time.Time) []Note {
	k.mu.Lock()
	for _, g := range k.open {
		g.until = now
	}
	k.mu.Unlock()
	return k.over(now)
}
