package enginetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"usher/engine"
)

// letter is a dead letter with its content.
type letter struct {
	engine.DeadLetter

	content engine.Content
}

// Put keeps a dead letter, unless one of its key is there.
func (m *Memory) Put(ctx context.Context, l engine.DeadLetter, c engine.Content) (kept engine.DeadLetter, added bool, err error) {
	err = m.locked(ctx, func(now time.Time) error {
		if old, ok := m.letter(l.Key, now); ok {
			kept = old.DeadLetter
			return nil
		}
		l.State, l.ExpiresAt, added = engine.LetterKept, time.Time{}, true
		kept = keepLetter(l)
		m.letters[l.Key] = letter{kept, cloneContent(c)}
		return nil
	})
	return kept, added, err
}

// Letters lists letters, the youngest first.
func (m *Memory) Letters(ctx context.Context, q engine.LetterQuery) ([]engine.DeadLetter, error) {
	var found []engine.DeadLetter
	err := m.locked(ctx, func(now time.Time) error {
		for key := range m.letters {
			l, ok := m.letter(key, now)
			after := q.After == engine.LetterPlace{} || comparePlaces(l.DeadLetter, q.After) > 0
			if ok && after && q.Matches(l.DeadLetter) {
				found = append(found, l.DeadLetter)
			}
		}
		return nil
	})
	slices.SortFunc(found, func(a, b engine.DeadLetter) int {
		return comparePlaces(a, engine.LetterPlace{DeadAt: b.DeadAt, Key: b.Key})
	})
	return found[:min(len(found), max(q.Limit, 0))], err
}

// comparePlaces orders letters: the youngest first.
func comparePlaces(l engine.DeadLetter, p engine.LetterPlace) int {
	return cmp.Or(p.DeadAt.Compare(l.DeadAt), strings.Compare(p.Key, l.Key))
}

// Letter reads one with its content, or answers ErrNotFound.
func (m *Memory) Letter(ctx context.Context, key string) (l engine.DeadLetter, c engine.Content, err error) {
	err = m.locked(ctx, func(now time.Time) error {
		found, ok := m.letter(key, now)
		if !ok {
			return engine.ErrNotFound
		}
		l, c = found.DeadLetter, cloneContent(found.content)
		return nil
	})
	return l, c, err
}

// Settle ends the care for a letter that is kept.
func (m *Memory) Settle(ctx context.Context, c engine.LetterChange) (l engine.DeadLetter, err error) {
	err = m.locked(ctx, func(now time.Time) error {
		found, ok := m.letter(c.Key, now)
		if l = found.DeadLetter; !ok {
			return engine.ErrNotFound
		}
		if !c.Allowed(l) {
			return engine.ErrGuarded
		}
		if c.State == engine.LetterDropped {
			found.content = engine.Content{}
		}
		l = keepLetter(c.Apply(l))
		m.letters[c.Key] = letter{l, found.content}
		return nil
	})
	return l, err
}

// Tally counts what is kept, by reason.
func (m *Memory) Tally(ctx context.Context) ([]engine.Tally, error) {
	counts := map[string]engine.Tally{}
	err := m.locked(ctx, func(now time.Time) error {
		for key := range m.letters {
			l, ok := m.letter(key, now)
			if !ok || l.State != engine.LetterKept {
				continue
			}
			t := counts[l.Why.Reason]
			if t.Count == 0 || l.DeadAt.Before(t.Oldest) {
				t.Oldest = l.DeadAt
			}
			counts[l.Why.Reason] = engine.Tally{Reason: l.Why.Reason, Count: t.Count + 1, Oldest: t.Oldest}
		}
		return nil
	})
	return slices.Collect(maps.Values(counts)), err
}

// letter gives one that is not expired. The lock is held here.
func (m *Memory) letter(key string, now time.Time) (letter, bool) {
	l, ok := m.letters[key]
	if !ok || !l.ExpiresAt.IsZero() && !l.ExpiresAt.After(now) {
		return letter{}, false
	}
	return l, true
}

// keepLetter is a letter as a store gives it back.
func keepLetter(l engine.DeadLetter) engine.DeadLetter {
	for _, t := range []*time.Time{&l.DeadAt, &l.Why.FirstFailedAt, &l.ChangedAt, &l.ExpiresAt} {
		*t = millis(*t)
	}
	return l
}

func cloneContent(c engine.Content) engine.Content {
	return engine.Content{Headers: maps.Clone(c.Headers), Body: slices.Clone(c.Body)}
}
