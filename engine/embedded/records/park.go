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
	var stored storedLeases
	version, err := r.document(ctx, "leases", &stored)
	if err != nil || version == 0 {
		return engine.Leases{}, err
	}
	l := engine.Leases{Version: version, Owners: make(map[string]time.Time, len(stored.Owners)), Held: stored.Held}
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
	return r.setDocument(ctx, "leases", l.Version, stored)
}

// storedHold is a hold as JSON; times are Unix milliseconds, 0 is not set.
type storedHold struct {
	Paused  int64 `json:"paused,omitempty"`
	Removed int64 `json:"removed,omitempty"`
}

// Holds reads which types are held.
func (r *Records) Holds(ctx context.Context) (engine.Holds, error) {
	var stored map[string]storedHold
	version, err := r.document(ctx, "holds", &stored)
	if err != nil || version == 0 {
		return engine.Holds{}, err
	}
	h := engine.Holds{Version: version, Types: make(map[string]engine.Hold, len(stored))}
	for typ, s := range stored {
		h.Types[typ] = engine.Hold{Paused: fromMillis(s.Paused), Removed: fromMillis(s.Removed)}
	}
	return h, nil
}

// SetHolds replaces the holds if nobody else did.
func (r *Records) SetHolds(ctx context.Context, h engine.Holds) error {
	stored := make(map[string]storedHold, len(h.Types))
	for typ, hold := range h.Types {
		stored[typ] = storedHold{toMillis(hold.Paused), toMillis(hold.Removed)}
	}
	return r.setDocument(ctx, "holds", h.Version, stored)
}

// document reads the one row of a table: a version, and JSON in the column that
// has the table's name. The version is 0 if there is none.
func (r *Records) document(ctx context.Context, table string, into any) (version int, err error) {
	if err := r.open(); err != nil {
		return 0, err
	}
	var text string
	err = r.read.QueryRowContext(ctx, "SELECT version, "+table+" FROM "+table).Scan(&version, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), into)
	}
	if err != nil {
		return 0, fmt.Errorf("records: read the %s: %w", table, err)
	}
	return version, nil
}

// setDocument replaces it, if it has the version still.
func (r *Records) setDocument(ctx context.Context, table string, version int, document any) error {
	text, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("records: write the %s: %w", table, err)
	}
	return r.submitExec(ctx, table, func(ctx context.Context, tx *sql.Conn) error {
		//nolint:gosec // table is one of our names
		query, args := "UPDATE "+table+" SET version = version + 1, "+table+" = ? WHERE version = ?", []any{string(text), version}
		if version == 0 {
			query, args = "INSERT INTO "+table+" (number, version, "+table+") VALUES (1, 1, ?) ON CONFLICT DO NOTHING", args[:1]
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
