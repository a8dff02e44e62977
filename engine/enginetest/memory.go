package enginetest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"usher/engine"
)

// Memory is a record table and an archive in memory, for tests. It keeps what a real one
// keeps: times are UTC and whole milliseconds, an expired final record is as
// absent, watchers whose time is over are dropped. Its methods never wait, so
// it is fit for testing/synctest. It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex
	records map[string]engine.Record  // guarded by mu
	bodies  map[bodyKey]engine.Parked // guarded by mu
	leases  engine.Leases             // guarded by mu
	holds   engine.Holds              // guarded by mu
	letters map[string]letter         // by key; guarded by mu
	closed  bool                      // guarded by mu
}

var (
	_ RecordsUnderTest = (*Memory)(nil)
	_ ArchiveUnderTest = (*Memory)(nil)
)

// NewMemory makes an empty table.
func NewMemory() *Memory {
	return &Memory{records: map[string]engine.Record{}, bodies: map[bodyKey]engine.Parked{}, letters: map[string]letter{}}
}

// LookUp reads the records of the ids that have one.
func (m *Memory) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	found := engine.Found{Records: map[string]engine.Record{}, Now: time.Now().UTC()}
	err := m.locked(ctx, func(now time.Time) error {
		for _, id := range ids {
			if r, ok := m.read(id, now); ok {
				found.Records[id] = r
			}
		}
		return nil
	})
	return found, err
}

// Record reads one record, or answers ErrNotFound.
func (m *Memory) Record(ctx context.Context, id string) (engine.Record, error) {
	var r engine.Record
	err := m.locked(ctx, func(now time.Time) error {
		var ok bool
		if r, ok = m.read(id, now); !ok {
			return engine.ErrNotFound
		}
		return nil
	})
	return r, err
}

// Gate notes the first sight of a message that has to wait.
func (m *Memory) Gate(ctx context.Context, g engine.Gate) (engine.Record, error) {
	return m.change(ctx, g.ID, func(r engine.Record, _ time.Time) (engine.Record, error) {
		if !g.Allowed(r) {
			return r, nil
		}
		return g.Apply(r), nil
	})
}

// Claim takes the message for one delivery.
func (m *Memory) Claim(ctx context.Context, c engine.Claim) (engine.Record, error) {
	return m.change(ctx, c.ID, func(r engine.Record, _ time.Time) (engine.Record, error) {
		if !c.Allowed(r) {
			return r, engine.ErrGuarded
		}
		return c.Apply(r), nil
	})
}

// Write moves the record on.
func (m *Memory) Write(ctx context.Context, c engine.Change) (engine.Record, error) {
	return m.change(ctx, c.ID, func(r engine.Record, _ time.Time) (engine.Record, error) {
		if !c.Allowed(r) {
			return r, engine.ErrGuarded
		}
		return c.Apply(r), nil
	})
}

// SetDue moves a message to another time in an operator's name.
func (m *Memory) SetDue(ctx context.Context, id string, due time.Time) (engine.Record, error) {
	return m.change(ctx, id, func(r engine.Record, now time.Time) (engine.Record, error) {
		if r.State.Final() {
			return r, engine.ErrFinished
		}
		r = orNew(r, id)
		r.Due, r.DueBy, r.UpdatedAt = due, engine.ByOperator, now
		return r, nil
	})
}

// Watch adds or renews a watcher.
func (m *Memory) Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error) {
	return m.change(ctx, id, func(r engine.Record, now time.Time) (engine.Record, error) {
		if r.State == "" {
			r.UpdatedAt = now
		}
		r = orNew(r, id)
		r.Watchers = withWatcher(r.Watchers, w)
		return r, nil
	})
}

// Unwatch removes a watcher.
func (m *Memory) Unwatch(ctx context.Context, id, connection string) error {
	return m.locked(ctx, func(now time.Time) error {
		r, ok := m.read(id, now)
		if !ok {
			return nil
		}
		r.Watchers = slices.DeleteFunc(r.Watchers, func(o engine.Watcher) bool { return o.Connection == connection })
		m.records[id] = r
		return nil
	})
}

// Cancel ends a message that is not running.
func (m *Memory) Cancel(ctx context.Context, id string, expiresAt time.Time) (engine.Record, error) {
	return m.change(ctx, id, func(r engine.Record, now time.Time) (engine.Record, error) {
		return engine.CancelledBy(r, expiresAt, now)
	})
}

// Waiting lists the delayed and the retrying records by the time they are due.
func (m *Memory) Waiting(ctx context.Context, q engine.Waits) ([]engine.Record, error) {
	var waiting []engine.Record
	err := m.locked(ctx, func(now time.Time) error {
		for id := range m.records {
			r, ok := m.read(id, now)
			if ok && asksFor(q, r) {
				waiting = append(waiting, r)
			}
		}
		return nil
	})
	slices.SortFunc(waiting, func(a, b engine.Record) int { return comparePlace(placeOf(a), placeOf(b)) })
	return waiting[:min(len(waiting), max(q.Limit, 0))], err
}

// asksFor says whether a listing has the record.
func asksFor(q engine.Waits, r engine.Record) bool {
	return (r.State == engine.Delayed || r.State == engine.Retrying) && comparePlace(placeOf(r), q.After) > 0 &&
		(q.Type == "" || r.Type == q.Type) && (q.Level == nil || r.Priority == *q.Level) &&
		(q.Before.IsZero() || r.Due.Before(q.Before))
}

// Close ends the table: every later call fails. It is idempotent.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// change is a transaction on one record: f gets it as it is (the zero Record
// if there is none) and gives it as it shall be, unless it answers an error.
func (m *Memory) change(ctx context.Context, id string, f func(engine.Record, time.Time) (engine.Record, error)) (engine.Record, error) {
	var r engine.Record
	err := m.locked(ctx, func(now time.Time) error {
		var err error
		r, _ = m.read(id, now)
		if r, err = f(r, now); err != nil {
			return err
		}
		if r.ID != "" {
			r = keep(r, now)
			m.records[id] = r
			r.Watchers = slices.Clone(r.Watchers)
		}
		return nil
	})
	return r, err
}

// read gives a copy of a record that is not expired. The lock is held here.
func (m *Memory) read(id string, now time.Time) (engine.Record, bool) {
	r, ok := m.records[id]
	if !ok || !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now) {
		return engine.Record{}, false
	}
	r.Watchers = liveWatchers(r.Watchers, now)
	return r, true
}

func (m *Memory) locked(ctx context.Context, f func(now time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	return f(time.Now())
}

// withWatcher puts w in the place of the one of the same connection and, if
// there are too many, drops the one that ends first.
func withWatcher(watchers []engine.Watcher, w engine.Watcher) []engine.Watcher {
	watchers = slices.DeleteFunc(watchers, func(o engine.Watcher) bool { return o.Connection == w.Connection })
	watchers = append(watchers, w)
	if len(watchers) <= engine.MaxWatchers {
		return watchers
	}
	first := slices.MinFunc(watchers, func(a, b engine.Watcher) int { return a.Until.Compare(b.Until) })
	return slices.DeleteFunc(watchers, func(o engine.Watcher) bool { return o.Connection == first.Connection })
}

func orNew(r engine.Record, id string) engine.Record {
	r.ID = id
	r.State = cmp.Or(r.State, engine.Queued)
	return r
}

// keep is a record as a store gives it back.
func keep(r engine.Record, now time.Time) engine.Record {
	if !r.State.Final() {
		r.ExpiresAt = time.Time{} // set in final states only
	}
	for _, t := range []*time.Time{&r.Due, &r.GatedAt, &r.Claim.Until, &r.UpdatedAt, &r.ExpiresAt} {
		*t = millis(*t)
	}
	r.Watchers = liveWatchers(r.Watchers, now)
	for i := range r.Watchers {
		r.Watchers[i].Until = millis(r.Watchers[i].Until)
	}
	return r
}

// liveWatchers gives a new slice, nil if there is none.
func liveWatchers(watchers []engine.Watcher, now time.Time) []engine.Watcher {
	var live []engine.Watcher
	for _, w := range watchers {
		if w.Until.After(now) {
			live = append(live, w)
		}
	}
	return live
}

func millis(t time.Time) time.Time {
	if t.IsZero() || t.UnixMilli() == 0 {
		return time.Time{}
	}
	return time.UnixMilli(t.UnixMilli()).UTC()
}

func placeOf(r engine.Record) engine.Place { return engine.Place{Due: r.Due, ID: r.ID} }

func comparePlace(a, b engine.Place) int {
	return cmp.Or(a.Due.Compare(b.Due), strings.Compare(a.ID, b.ID))
}
