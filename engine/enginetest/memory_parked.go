package enginetest

import (
	"context"
	"maps"
	"slices"
	"time"

	"usher/engine"
)

// bodyKey names the copy of one hop.
type bodyKey struct {
	id  string
	hop int
}

// Keep stores the copy of a hop.
func (m *Memory) Keep(ctx context.Context, id string, hop int, p engine.Parked) error {
	return m.locked(ctx, func(time.Time) error {
		m.bodies[bodyKey{id, hop}] = cloneParked(p)
		return nil
	})
}

// Kept reads the copy of a hop, or answers ErrNotFound.
func (m *Memory) Kept(ctx context.Context, id string, hop int) (p engine.Parked, err error) {
	err = m.locked(ctx, func(time.Time) error {
		kept, ok := m.bodies[bodyKey{id, hop}]
		if !ok {
			return engine.ErrNotFound
		}
		p = cloneParked(kept)
		return nil
	})
	return p, err
}

// Drop forgets the copy of a hop.
func (m *Memory) Drop(ctx context.Context, id string, hop int) error {
	return m.locked(ctx, func(time.Time) error {
		delete(m.bodies, bodyKey{id, hop})
		return nil
	})
}

// Bodies is how many copies are kept.
func (m *Memory) Bodies() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bodies)
}

// DueIn lists the parked records of a bucket that are due, the earliest first.
func (m *Memory) DueIn(ctx context.Context, bucket string, limit int) ([]engine.Record, error) {
	var due []engine.Record
	err := m.locked(ctx, func(now time.Time) error {
		for id := range m.records {
			if r, ok := m.read(id, now); ok && bucket != "" && r.Bucket == bucket && !r.Due.After(now) {
				due = append(due, r)
			}
		}
		return nil
	})
	slices.SortFunc(due, func(a, b engine.Record) int { return comparePlace(placeOf(a), placeOf(b)) })
	return due[:min(len(due), max(limit, 0))], err
}

// Unpark notes that a parked copy was sent.
func (m *Memory) Unpark(ctx context.Context, u engine.Unpark) (engine.Record, error) {
	return m.change(ctx, u.ID, func(r engine.Record, _ time.Time) (engine.Record, error) {
		if !u.Allowed(r) {
			return r, engine.ErrGuarded
		}
		return u.Apply(r), nil
	})
}

// Leases reads who releases which bucket.
func (m *Memory) Leases(ctx context.Context) (l engine.Leases, err error) {
	err = m.locked(ctx, func(time.Time) error {
		l = cloneLeases(m.leases)
		return nil
	})
	return l, err
}

// SetLeases replaces the leases if nobody else did.
func (m *Memory) SetLeases(ctx context.Context, l engine.Leases) error {
	return m.locked(ctx, func(time.Time) error {
		if l.Version != m.leases.Version {
			return engine.ErrGuarded
		}
		m.leases = cloneLeases(l)
		m.leases.Version++
		return nil
	})
}

// Holds reads which types are held.
func (m *Memory) Holds(ctx context.Context) (h engine.Holds, err error) {
	err = m.locked(ctx, func(time.Time) error {
		h = engine.Holds{Version: m.holds.Version, Types: maps.Clone(m.holds.Types)}
		return nil
	})
	return h, err
}

// SetHolds replaces the holds if nobody else did.
func (m *Memory) SetHolds(ctx context.Context, h engine.Holds) error {
	return m.locked(ctx, func(time.Time) error {
		if h.Version != m.holds.Version {
			return engine.ErrGuarded
		}
		m.holds = engine.Holds{Version: h.Version + 1, Types: maps.Clone(h.Types)}
		return nil
	})
}

func cloneParked(p engine.Parked) engine.Parked {
	return engine.Parked{Headers: maps.Clone(p.Headers), Body: slices.Clone(p.Body)}
}

func cloneLeases(l engine.Leases) engine.Leases {
	l.Owners, l.Held = maps.Clone(l.Owners), maps.Clone(l.Held)
	return l
}
