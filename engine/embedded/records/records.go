package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
)

// Config says where the table is.
type Config struct {
	// Path is the SQLite file. It is made if it is not there; its directory
	// must be. Required.
	Path string
	// Log is told what nobody else is: that expired records could not be deleted.
	Log zerolog.Logger
	// SweepEvery is how often expired records are deleted. Default
	// DefaultSweepEvery.
	SweepEvery time.Duration
}

// DefaultSweepEvery is the default of Config.SweepEvery.
const DefaultSweepEvery = time.Minute

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("records: the table is closed")

// Records is a record table in a SQLite file. It is safe for concurrent use.
// What its methods do is said by engine.Records, Table, Bodies, DueIndex and Archive.
type Records struct {
	cfg   Config
	write *sql.DB // one connection, the writer's
	read  *sql.DB // query only

	// What is asked of read, parsed once a connection.
	listed, one, due *sql.Stmt

	ops       chan *op      // to the writer
	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	closeErr  error
	writer    sync.WaitGroup
}

var (
	_ engine.Records   = (*Records)(nil)
	_ engine.Table     = (*Records)(nil)
	_ engine.Schedule  = (*Records)(nil)
	_ engine.Bodies    = (*Records)(nil)
	_ engine.DueIndex  = (*Records)(nil)
	_ engine.HoldStore = (*Records)(nil)
	_ engine.Archive   = (*Records)(nil)
)

// Open opens the table, makes it if it is not there, and brings an older one up
// to date. The caller closes it.
func Open(cfg Config) (*Records, error) {
	if cfg.Path == "" {
		return nil, errors.New("records: Config.Path is required")
	}
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = DefaultSweepEvery
	}
	r := &Records{cfg: cfg, ops: make(chan *op), closing: make(chan struct{})}
	var err error
	if r.write, r.read, err = openFile(cfg.Path); err != nil {
		return nil, fmt.Errorf("records: open %s: %w", cfg.Path, err)
	}
	var w *writer
	if err = r.prepare(); err == nil {
		w, err = newWriter(r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("records: open %s: %w", cfg.Path, err), r.write.Close(), r.read.Close())
	}
	r.writer.Go(w.run)
	return r, nil
}

// prepare makes the readers' statements.
func (r *Records) prepare() error {
	for stmt, text := range map[**sql.Stmt]string{
		&r.listed: selectListed,
		&r.one:    selectAny + ` WHERE id = ?`,
		&r.due:    selectAny + ` WHERE bucket <> '' AND bucket = ? AND due <= ? ORDER BY due, id LIMIT ?`,
	} {
		var err error
		if *stmt, err = r.read.PrepareContext(context.Background(), text); err != nil {
			return err
		}
	}
	return nil
}

// Close answers the calls that are under way, then lets go of the file. It is
// idempotent; later calls of the other methods answer ErrClosed.
func (r *Records) Close() error {
	r.closeOnce.Do(func() {
		close(r.closing)
		r.writer.Wait()
		// Readers first: the last connection to close empties the WAL.
		r.closeErr = errors.Join(r.read.Close(), r.write.Close())
	})
	return r.closeErr
}

// Gate notes the first sight of a delayed message.
func (r *Records) Gate(ctx context.Context, g engine.Gate) (engine.Record, error) {
	return r.submit(ctx, g.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !g.Allowed(rec) {
			return rec, errUnchanged
		}
		return g.Apply(rec), nil
	})
}

// Claim takes the message for one delivery.
func (r *Records) Claim(ctx context.Context, c engine.Claim) (engine.Record, error) {
	return r.submit(ctx, c.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !c.Allowed(rec) {
			return rec, engine.ErrGuarded
		}
		return c.Apply(rec), nil
	})
}

// Write moves the record on.
func (r *Records) Write(ctx context.Context, c engine.Change) (engine.Record, error) {
	return r.submit(ctx, c.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !c.Allowed(rec) {
			return rec, engine.ErrGuarded
		}
		return c.Apply(rec), nil
	})
}

// SetDue moves a message to another time in an operator's name. ErrFinished
// comes with the record as it is.
func (r *Records) SetDue(ctx context.Context, id string, due time.Time) (engine.Record, error) {
	return r.submit(ctx, id, func(rec engine.Record, now time.Time) (engine.Record, error) {
		if rec.State.Final() {
			return rec, engine.ErrFinished
		}
		rec = orNew(rec, id, now)
		rec.Due, rec.DueBy, rec.UpdatedAt = due, engine.ByOperator, now
		return rec, nil
	})
}

// Cancel ends a message that is not running. Its errors come with the record as it is.
func (r *Records) Cancel(ctx context.Context, id string, expiresAt time.Time) (engine.Record, error) {
	return r.submit(ctx, id, func(rec engine.Record, now time.Time) (engine.Record, error) {
		return engine.CancelledBy(rec, expiresAt, now)
	})
}

// Watch adds a watcher, or renews the one of the same connection.
func (r *Records) Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error) {
	return r.submit(ctx, id, func(rec engine.Record, now time.Time) (engine.Record, error) {
		rec = orNew(rec, id, now)
		rec.Watchers = withWatcher(rec.Watchers, w)
		return rec, nil
	})
}

// Unwatch removes a watcher.
func (r *Records) Unwatch(ctx context.Context, id, connection string) error {
	_, err := r.submit(ctx, id, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		rest := withoutWatcher(rec.Watchers, connection)
		if len(rest) == len(rec.Watchers) {
			return rec, errUnchanged
		}
		rec.Watchers = rest
		return rec, nil
	})
	return err
}

// LookUp reads the records of the ids that have one, as the last commit left them.
func (r *Records) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	now := time.Now().UTC()
	found := engine.Found{Records: make(map[string]engine.Record, len(ids)), Now: now}
	if len(ids) == 0 {
		return found, nil
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return engine.Found{}, fmt.Errorf("records: look up %d ids: %w", len(ids), err)
	}
	recs, err := r.query(ctx, now, r.listed, string(list))
	if err != nil {
		return engine.Found{}, fmt.Errorf("records: look up %d ids: %w", len(ids), err)
	}
	for _, rec := range recs {
		found.Records[rec.ID] = rec
	}
	return found, nil
}

// Record reads one record, as the last commit left it.
func (r *Records) Record(ctx context.Context, id string) (engine.Record, error) {
	recs, err := r.query(ctx, time.Now(), r.one, id)
	switch {
	case err != nil:
		return engine.Record{}, fmt.Errorf("records: read the record of %q: %w", id, err)
	case len(recs) == 0:
		return engine.Record{}, engine.ErrNotFound
	}
	return recs[0], nil
}

// Waiting lists the records in state delayed or retrying by the time they are due.
func (r *Records) Waiting(ctx context.Context, q engine.Waits) ([]engine.Record, error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	where, args := ` WHERE state IN ('delayed', 'retrying') AND (due, id) > (?, ?)`, []any{toMillis(q.After.Due), q.After.ID}
	if q.Type != "" {
		where, args = where+" AND type = ?", append(args, q.Type)
	}
	if q.Level != nil {
		where, args = where+" AND priority = ?", append(args, *q.Level)
	}
	if !q.Before.IsZero() {
		where, args = where+" AND due < ?", append(args, toMillis(q.Before))
	}
	recs, err := r.ask(ctx, selectAny+where+" ORDER BY due, id LIMIT ?", append(args, q.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("records: list what waits: %w", err)
	}
	return recs, nil
}

// query reads the records that are not expired.
func (r *Records) query(ctx context.Context, now time.Time, stmt *sql.Stmt, args ...any) ([]engine.Record, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, now)
}

// ask is query for a question that is put together each time.
func (r *Records) ask(ctx context.Context, query string, args ...any) ([]engine.Record, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	rows, err := r.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, time.Now())
}

// collect reads rows to their end.
func collect(rows *sql.Rows, now time.Time) ([]engine.Record, error) {
	defer rows.Close()
	var recs []engine.Record
	for rows.Next() {
		rec, err := scan(rows)
		if err != nil {
			return nil, err
		}
		if !expired(rec, now) {
			rec.Watchers = liveWatchers(rec.Watchers, now)
			recs = append(recs, rec)
		}
	}
	return recs, rows.Err()
}

// orNew is a record that was made before its message came, if there is none.
func orNew(rec engine.Record, id string, now time.Time) engine.Record {
	if rec.ID == "" {
		rec = engine.Record{ID: id, State: engine.Queued, UpdatedAt: now}
	}
	return rec
}
