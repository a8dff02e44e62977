package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"usher/engine"
)

const (
	// orphanAfter is how long a body is kept that no parked record belongs to: by
	// then its record has been written, or never will be.
	orphanAfter = time.Hour
	// orphanBatch is how many bodies are looked at in one sweep.
	orphanBatch = 2000
)

// Keep stores the copy of a hop.
func (r *Records) Keep(ctx context.Context, id string, hop int, p engine.Parked) error {
	headers, err := json.Marshal(p.Headers)
	if err != nil {
		return fmt.Errorf("records: keep the body of %q: %w", id, err)
	}
	body := append([]byte{}, p.Body...) // never nil; and the caller's may change when ctx ends
	return r.submitExec(ctx, id, func(ctx context.Context, tx *sql.Conn) error {
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO bodies (id, hop, kept_at, headers, body) VALUES (?, ?, ?, ?, ?)`,
			id, hop, time.Now().UnixMilli(), string(headers), body)
		return err
	})
}

// Kept reads the copy of a hop.
func (r *Records) Kept(ctx context.Context, id string, hop int) (engine.Parked, error) {
	if err := r.open(); err != nil {
		return engine.Parked{}, err
	}
	var p engine.Parked
	var headers string
	err := r.read.QueryRowContext(ctx, "SELECT headers, body FROM bodies WHERE id = ? AND hop = ?", id, hop).Scan(&headers, &p.Body)
	if errors.Is(err, sql.ErrNoRows) {
		return engine.Parked{}, engine.ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal([]byte(headers), &p.Headers)
	}
	if err != nil {
		return engine.Parked{}, fmt.Errorf("records: read the body of %q: %w", id, err)
	}
	return p, nil
}

// Drop forgets the copy of a hop.
func (r *Records) Drop(ctx context.Context, id string, hop int) error {
	return r.submitExec(ctx, id, func(ctx context.Context, tx *sql.Conn) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM bodies WHERE id = ? AND hop = ?", id, hop)
		return err
	})
}

// DueIn lists the parked records of a bucket that are due.
func (r *Records) DueIn(ctx context.Context, bucket string, limit int) ([]engine.Record, error) {
	now := time.Now()
	recs, err := r.query(ctx, now, r.due, bucket, toMillis(now), max(limit, 0))
	if err != nil {
		return nil, fmt.Errorf("records: list what is due in bucket %s: %w", bucket, err)
	}
	return recs, nil
}

// Unpark notes that a parked copy was sent.
func (r *Records) Unpark(ctx context.Context, u engine.Unpark) (engine.Record, error) {
	return r.submit(ctx, u.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !u.Allowed(rec) {
			return rec, engine.ErrGuarded
		}
		return u.Apply(rec), nil
	})
}

// storedLeases are leases as JSON; times are Unix milliseconds.
type storedLeases struct {
	Owners map[string]int64  `json:"owners"`
	Held   map[string]string `json:"held"`
}

// Leases reads who releases which bucket.
func (r *Records) Leases(ctx context.Context) (engine.Leases, error) {
	if err := r.open(); err != nil {
		return engine.Leases{}, err
	}
	var l engine.Leases
	var text string
	err := r.read.QueryRowContext(ctx, "SELECT version, leases FROM leases").Scan(&l.Version, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return engine.Leases{}, nil
	}
	var stored storedLeases
	if err == nil {
		err = json.Unmarshal([]byte(text), &stored)
	}
	if err != nil {
		return engine.Leases{}, fmt.Errorf("records: read the leases: %w", err)
	}
	l.Owners, l.Held = make(map[string]time.Time, len(stored.Owners)), stored.Held
	for owner, end := range stored.Owners {
		l.Owners[owner] = fromMillis(end)
	}
	return l, nil
}

// SetLeases replaces the leases if nobody else did.
func (r *Records) SetLeases(ctx context.Context, l engine.Leases) error {
	stored := storedLeases{Owners: make(map[string]int64, len(l.Owners)), Held: l.Held}
	for owner, end := range l.Owners {
		stored.Owners[owner] = toMillis(end)
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return fmt.Errorf("records: write the leases: %w", err)
	}
	return r.submitExec(ctx, "leases", func(ctx context.Context, tx *sql.Conn) error {
		query, args := "UPDATE leases SET version = version + 1, leases = ? WHERE version = ?", []any{string(text), l.Version}
		if l.Version == 0 {
			query, args = "INSERT INTO leases (number, version, leases) VALUES (1, 1, ?) ON CONFLICT DO NOTHING", args[:1]
		}
		res, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n == 0 {
			err = engine.ErrGuarded
		}
		return err
	})
}

// open is an error after Close.
func (r *Records) open() error {
	select {
	case <-r.closing:
		return ErrClosed
	default:
		return nil
	}
}

// dropOrphans looks at some bodies after the one it stopped at last, and drops
// those that were kept long ago for a copy that is not parked: the process that
// was to drop them has died.
func (w *writer) dropOrphans(now time.Time) error {
	ctx := context.Background()
	var last sql.NullInt64
	err := w.conn.QueryRowContext(ctx, `SELECT max(number) FROM (SELECT number FROM bodies WHERE number > ? ORDER BY number LIMIT ?)`,
		w.orphansAfter, orphanBatch).Scan(&last)
	if err != nil || !last.Valid {
		w.orphansAfter = 0 // from the beginning, the next time
		return err
	}
	_, err = w.conn.ExecContext(ctx, `DELETE FROM bodies WHERE number > ? AND number <= ? AND kept_at < ?
		AND NOT EXISTS (SELECT 1 FROM records r WHERE r.id = bodies.id AND r.hop = bodies.hop AND r.bucket <> '')`,
		w.orphansAfter, last.Int64, now.Add(-orphanAfter).UnixMilli())
	w.orphansAfter = last.Int64
	return err
}
