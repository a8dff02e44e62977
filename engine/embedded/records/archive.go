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

const letterColumns = `key, id, type, level, hop, reason, detail, fingerprint, attempts, redeliveries, handler, first_failed_at,
	queue, origin, dead_at, size, stays, redrives, state, changed_at, expires_at`

const insertLetter = `INSERT OR REPLACE INTO letters (` + letterColumns + `)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

const selectLetters = `SELECT ` + letterColumns + ` FROM letters`

// letterValues are a letter's columns, in their order.
func letterValues(l engine.DeadLetter) []any {
	return []any{
		l.Key, l.ID, l.Type, l.Level, l.Hop, l.Why.Reason, l.Why.Detail, l.Why.Fingerprint, l.Why.Attempts, l.Why.Redeliveries,
		l.Why.Handler, toMillis(l.Why.FirstFailedAt), l.Queue, l.Origin, toMillis(l.DeadAt), l.Size, l.Stays, l.Redrives,
		string(l.State), toMillis(l.ChangedAt), toMillis(l.ExpiresAt),
	}
}

// scanLetter reads what letterValues gave; more is what follows it.
func scanLetter(row interface{ Scan(dest ...any) error }, more ...any) (engine.DeadLetter, error) {
	var l engine.DeadLetter
	var firstFailedAt, deadAt, changedAt, expiresAt int64
	err := row.Scan(append([]any{
		&l.Key, &l.ID, &l.Type, &l.Level, &l.Hop, &l.Why.Reason, &l.Why.Detail, &l.Why.Fingerprint, &l.Why.Attempts, &l.Why.Redeliveries,
		&l.Why.Handler, &firstFailedAt, &l.Queue, &l.Origin, &deadAt, &l.Size, &l.Stays, &l.Redrives,
		&l.State, &changedAt, &expiresAt,
	}, more...)...)
	l.Why.FirstFailedAt, l.DeadAt, l.ChangedAt, l.ExpiresAt = fromMillis(firstFailedAt), fromMillis(deadAt), fromMillis(changedAt), fromMillis(expiresAt)
	return l, err
}

// letterIn reads a letter in a transaction. It is false if there is none, or if
// the store may have forgotten it.
func letterIn(ctx context.Context, tx *sql.Conn, key string, now time.Time) (engine.DeadLetter, bool, error) {
	l, err := scanLetter(tx.QueryRowContext(ctx, selectLetters+" WHERE key = ? AND (expires_at = 0 OR expires_at > ?)", key, toMillis(now)))
	if errors.Is(err, sql.ErrNoRows) {
		return engine.DeadLetter{}, false, nil
	}
	return l, err == nil, err
}

// Put keeps a dead letter, unless one of its key is there.
func (r *Records) Put(ctx context.Context, l engine.DeadLetter, c engine.Content) (engine.DeadLetter, bool, error) {
	headers, err := json.Marshal(c.Headers)
	if err != nil {
		return engine.DeadLetter{}, false, fmt.Errorf("records: archive %q: %w", l.ID, err)
	}
	body := append([]byte{}, c.Body...) // never nil; and the caller's may change when ctx ends
	l.State, l.ExpiresAt = engine.LetterKept, time.Time{}
	row := letterValues(l)
	var kept engine.DeadLetter // the writer's until submitExec has answered, as added
	var added bool
	err = r.submitExec(ctx, l.ID, func(ctx context.Context, tx *sql.Conn) error {
		now := time.Now()
		old, there, err := letterIn(ctx, tx, l.Key, now)
		if err != nil || there {
			kept = old
			return err
		}
		if _, err := tx.ExecContext(ctx, insertLetter, row...); err != nil {
			return err
		}
		if !l.Stays {
			if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO contents (key, headers, body) VALUES (?, ?, ?)", l.Key, string(headers), body); err != nil {
				return err
			}
		}
		kept, added, err = letterIn(ctx, tx, l.Key, now)
		return err
	})
	if err != nil {
		return engine.DeadLetter{}, false, err
	}
	return kept, added, nil
}

// Letters lists letters, the youngest first.
func (r *Records) Letters(ctx context.Context, q engine.LetterQuery) ([]engine.DeadLetter, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	where, args := letterConditions(q, time.Now())
	rows, err := r.read.QueryContext(ctx, selectLetters+where+" ORDER BY dead_at DESC, key DESC LIMIT ?", append(args, max(q.Limit, 0))...)
	if err != nil {
		return nil, fmt.Errorf("records: list dead letters: %w", err)
	}
	defer rows.Close()
	var letters []engine.DeadLetter
	for rows.Next() {
		l, err := scanLetter(rows)
		if err != nil {
			return nil, fmt.Errorf("records: list dead letters: %w", err)
		}
		letters = append(letters, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("records: list dead letters: %w", err)
	}
	return letters, nil
}

// letterConditions are the WHERE of a question. Each filter for which there is an
// index (see migrations) has the order of the list in it.
func letterConditions(q engine.LetterQuery, now time.Time) (where string, args []any) {
	where, args = " WHERE (expires_at = 0 OR expires_at > ?)", []any{toMillis(now)}
	add := func(wanted bool, condition string, values ...any) {
		if wanted {
			where, args = where+" AND "+condition, append(args, values...)
		}
	}
	add(q.After != engine.LetterPlace{}, "(dead_at, key) < (?, ?)", toMillis(q.After.DeadAt), q.After.Key)
	for _, f := range [...]struct{ column, value string }{
		{"id", q.ID}, {"type", q.Type}, {"reason", q.Reason}, {"fingerprint", q.Fingerprint}, {"state", string(q.State)},
	} {
		add(f.value != "", f.column+" = ?", f.value)
	}
	if q.Level != nil {
		add(true, "level = ?", *q.Level)
	}
	add(!q.Since.IsZero(), "dead_at >= ?", upMillis(q.Since))
	add(!q.Until.IsZero(), "dead_at < ?", upMillis(q.Until))
	return where, args
}

// upMillis is the first millisecond that is not before t.
func upMillis(t time.Time) int64 {
	return t.Add(time.Millisecond - 1).UnixMilli()
}

// Letter reads one with its content.
func (r *Records) Letter(ctx context.Context, key string) (engine.DeadLetter, engine.Content, error) {
	if err := r.open(); err != nil {
		return engine.DeadLetter{}, engine.Content{}, err
	}
	var headers sql.NullString
	var c engine.Content
	l, err := scanLetter(r.read.QueryRowContext(ctx, `SELECT `+letterColumns+`, headers, body FROM letters LEFT JOIN contents USING (key)
		WHERE key = ? AND (expires_at = 0 OR expires_at > ?)`, key, toMillis(time.Now())), &headers, &c.Body)
	if errors.Is(err, sql.ErrNoRows) {
		return engine.DeadLetter{}, engine.Content{}, engine.ErrNotFound
	}
	if err == nil && headers.Valid {
		err = json.Unmarshal([]byte(headers.String), &c.Headers)
	}
	if err != nil {
		return engine.DeadLetter{}, engine.Content{}, fmt.Errorf("records: read a dead letter: %w", err)
	}
	return l, c, nil
}

// errNoLetter travels through a batch as a guard that did not hold.
var errNoLetter = fmt.Errorf("%w: %w", engine.ErrNotFound, engine.ErrGuarded)

// Settle ends the care for a letter that is kept.
func (r *Records) Settle(ctx context.Context, c engine.LetterChange) (engine.DeadLetter, error) {
	var l engine.DeadLetter // the writer's until submitExec has answered
	err := r.submitExec(ctx, c.Key, func(ctx context.Context, tx *sql.Conn) error {
		found, there, err := letterIn(ctx, tx, c.Key, time.Now())
		switch l = found; {
		case err != nil:
			return err
		case !there:
			return errNoLetter
		case !c.Allowed(l):
			return engine.ErrGuarded
		}
		next := c.Apply(l)
		if _, err := tx.ExecContext(ctx, "UPDATE letters SET state = ?, changed_at = ?, expires_at = ? WHERE key = ?",
			string(next.State), toMillis(next.ChangedAt), toMillis(next.ExpiresAt), c.Key); err != nil {
			return err
		}
		if c.State == engine.LetterDropped {
			if _, err := tx.ExecContext(ctx, "DELETE FROM contents WHERE key = ?", c.Key); err != nil {
				return err
			}
		}
		l, _, err = letterIn(ctx, tx, c.Key, c.Now)
		return err
	})
	switch {
	case errors.Is(err, errNoLetter):
		return engine.DeadLetter{}, engine.ErrNotFound
	case err == nil, errors.Is(err, engine.ErrGuarded):
		return l, err
	}
	return engine.DeadLetter{}, err
}

// Tally counts what is kept, by reason.
func (r *Records) Tally(ctx context.Context) ([]engine.Tally, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	rows, err := r.read.QueryContext(ctx, "SELECT reason, count(*), min(dead_at) FROM letters WHERE state = 'kept' GROUP BY reason")
	if err != nil {
		return nil, fmt.Errorf("records: count dead letters: %w", err)
	}
	defer rows.Close()
	var tallies []engine.Tally
	for rows.Next() {
		var t engine.Tally
		var oldest int64
		if err := rows.Scan(&t.Reason, &t.Count, &oldest); err != nil {
			return nil, fmt.Errorf("records: count dead letters: %w", err)
		}
		t.Oldest = fromMillis(oldest)
		tallies = append(tallies, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("records: count dead letters: %w", err)
	}
	return tallies, nil
}

// sweepLetters deletes some of those that were looked after long ago.
func (w *writer) sweepLetters(now time.Time) error {
	ctx := context.Background()
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	const over = " WHERE key IN (SELECT key FROM letters WHERE expires_at > 0 AND expires_at <= ? ORDER BY expires_at LIMIT ?)"
	for _, statement := range [...]string{"DELETE FROM contents" + over, "DELETE FROM letters" + over} {
		if _, err := tx.ExecContext(ctx, statement, toMillis(now), sweepBatch); err != nil {
			return err
		}
	}
	return tx.Commit()
}
