package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"usher/engine"
)

const (
	// maxBatch is how many calls share a transaction at the most; it bounds how
	// long the first of them waits.
	maxBatch = 512
	// insertRows is how many records one statement writes when there are enough.
	insertRows = 32
	// sweepBatch is how many expired records are deleted at once, so that a
	// call does not wait long for it.
	sweepBatch = 500
)

// errUnchanged is a change's answer that there is nothing to write.
var errUnchanged = errors.New("unchanged")

// op is one call that may write. The writer owns it until done is closed.
type op struct {
	ctx context.Context // of the caller
	id  string
	// change gets the record as it is (the zero Record if there is none) and
	// gives it as it shall be; with an error, as it stays.
	change func(rec engine.Record, now time.Time) (engine.Record, error)
	// exec, in the place of change, does something else in the transaction. An
	// ErrGuarded is the caller's; another error fails the whole batch.
	exec func(ctx context.Context, tx *sql.Conn) error

	rec  engine.Record
	err  error
	done chan struct{}
}

// submit hands a change to the writer and waits for its commit. A caller whose
// ctx ends waits no longer; what he asked for may happen all the same.
func (r *Records) submit(ctx context.Context, id string, change func(engine.Record, time.Time) (engine.Record, error)) (engine.Record, error) {
	o := &op{ctx: ctx, id: id, change: change, done: make(chan struct{})}
	if err := r.hand(o); err != nil {
		return engine.Record{}, err
	}
	return o.rec, o.err
}

// submitExec hands something else to the writer and waits for its commit.
func (r *Records) submitExec(ctx context.Context, id string, exec func(context.Context, *sql.Conn) error) error {
	o := &op{ctx: ctx, id: id, exec: exec, done: make(chan struct{})}
	if err := r.hand(o); err != nil {
		return err
	}
	return o.err
}

// hand gives an op to the writer and waits until it is done, or the error says
// that nobody waits any more.
func (r *Records) hand(o *op) error {
	select {
	case r.ops <- o:
	case <-r.closing:
		return ErrClosed
	case <-o.ctx.Done():
		return fmt.Errorf("records: write the record of %q: %w", o.id, o.ctx.Err())
	}
	select {
	case <-o.done:
		return nil
	case <-o.ctx.Done():
		return fmt.Errorf("records: write the record of %q: %w", o.id, o.ctx.Err())
	}
}

// writer is the one goroutine that writes. All it says to SQLite is prepared
// once, on its own connection: of a small transaction, parsing was the greatest part.
type writer struct {
	*Records

	conn                    *sql.Conn
	begin, commit, rollback *sql.Stmt
	load                    *sql.Stmt
	insertOne, insertMany   *sql.Stmt
	sweep                   *sql.Stmt
	orphansAfter            int64 // the number of the last body that was looked at
}

func newWriter(r *Records) (_ *writer, err error) {
	ctx := context.Background()
	w := &writer{Records: r}
	if w.conn, err = r.write.Conn(ctx); err != nil {
		return nil, err
	}
	row := "(?" + strings.Repeat(",?", columnCount-1) + ")"
	insert := "INSERT OR REPLACE INTO records (" + columns + ") VALUES " + row
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
		{&w.rollback, "ROLLBACK"},
		{&w.load, selectListed},
		{&w.insertOne, insert},
		{&w.insertMany, insert + strings.Repeat(","+row, insertRows-1)},
		{&w.sweep, `DELETE FROM records WHERE id IN
			(SELECT id FROM records WHERE expires_at > 0 AND expires_at <= ? LIMIT ?)`},
	} {
		if *s.stmt, err = w.conn.PrepareContext(ctx, s.text); err != nil {
			return nil, errors.Join(err, w.conn.Close())
		}
	}
	return w, nil
}

// run works until Close; who has handed something over by then is answered.
func (w *writer) run() {
	defer w.conn.Close()
	tick := time.NewTicker(w.cfg.SweepEvery)
	defer tick.Stop()
	var more <-chan time.Time // the sweep is not through
	for {
		select {
		case o := <-w.ops:
			w.settle(w.gather(o))
		case <-tick.C:
			more = w.sweepSome()
			if err := w.sweepLetters(time.Now()); err != nil {
				w.cfg.Log.Warn().Err(err).Str("path", w.cfg.Path).Msg("records: old dead letters could not be deleted; they will be tried again")
			}
			if err := w.dropOrphans(time.Now()); err != nil {
				w.cfg.Log.Warn().Err(err).Str("path", w.cfg.Path).Msg("records: bodies that nobody needs could not be deleted; they will be tried again")
			}
		case <-more:
			more = w.sweepSome()
		case <-w.closing:
			return
		}
	}
}

// gather takes who else is there, and waits for nobody. Those whom the last
// commit answered are about to come back: they get the processor first, else
// every other transaction would be nearly empty (measured with 32 callers on
// two cores: 18,000 writes/s without, 26,000 with it).
func (w *writer) gather(first *op) []*op {
	batch := []*op{first}
	for range 2 {
		runtime.Gosched()
		batch = w.take(batch)
	}
	return batch
}

// take adds the calls that wait to be taken.
func (w *writer) take(batch []*op) []*op {
	for len(batch) < maxBatch {
		select {
		case o := <-w.ops:
			batch = append(batch, o)
		default:
			return batch
		}
	}
	return batch
}

// settle does a batch in one transaction and answers it.
func (w *writer) settle(batch []*op) {
	batch = slices.DeleteFunc(batch, func(o *op) bool { return o.ctx.Err() != nil }) // nobody waits for it
	if len(batch) == 0 {
		return
	}
	err := w.transact(batch)
	for _, o := range batch {
		switch {
		case err != nil:
			o.rec, o.err = engine.Record{}, fmt.Errorf("records: write the record of %q: %w", o.id, err)
		case errors.Is(o.err, errUnchanged):
			o.err = nil
		}
		o.rec.Watchers = slices.Clone(o.rec.Watchers) // the caller's own
		close(o.done)
	}
}

// transact has every change made on the record as it is now, by the changes
// before it in the batch and by other processes. Without an error it is durable.
func (w *writer) transact(batch []*op) error {
	ctx := context.Background() // a batch belongs to no single caller
	if _, err := w.begin.ExecContext(ctx); err != nil {
		return err
	}
	changed, err := w.change(ctx, batch)
	if err == nil && changed {
		if _, err = w.commit.ExecContext(ctx); err == nil {
			return nil
		}
	}
	_, _ = w.rollback.ExecContext(ctx) // fails if SQLite has done it by itself
	return err
}

// change has the changes made within a transaction, and says whether there were any.
func (w *writer) change(ctx context.Context, batch []*op) (bool, error) {
	now := time.Now()
	recs, err := w.read(ctx, batch, now)
	if err != nil {
		return false, err
	}
	changed := map[string]bool{}
	executed := false
	for _, o := range batch {
		if o.exec != nil {
			if o.err = o.exec(ctx, w.conn); o.err != nil && !errors.Is(o.err, engine.ErrGuarded) {
				return false, o.err
			}
			executed = true
			continue
		}
		o.rec, o.err = o.change(recs[o.id], now)
		if o.err == nil {
			o.rec = normal(o.rec, now)
			recs[o.id] = o.rec
			changed[o.id] = true
		}
	}
	return len(changed) > 0 || executed, w.store(ctx, recs, changed)
}

// read reads the records of a batch.
func (w *writer) read(ctx context.Context, batch []*op, now time.Time) (map[string]engine.Record, error) {
	ids := make([]string, len(batch))
	for i, o := range batch {
		ids[i] = o.id
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	rows, err := w.load.QueryContext(ctx, string(list))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	recs := make(map[string]engine.Record, len(batch))
	for rows.Next() {
		rec, err := scan(rows)
		if err != nil {
			return nil, err
		}
		if !expired(rec, now) {
			rec.Watchers = liveWatchers(rec.Watchers, now)
			recs[rec.ID] = rec
		}
	}
	return recs, rows.Err()
}

// store writes the records that changed.
func (w *writer) store(ctx context.Context, recs map[string]engine.Record, changed map[string]bool) error {
	args := make([]any, 0, len(changed)*columnCount)
	for id := range changed {
		row, err := values(recs[id])
		if err != nil {
			return err
		}
		args = append(args, row...)
	}
	for len(args) > 0 {
		stmt, n := w.insertOne, columnCount
		if len(args) >= insertRows*columnCount {
			stmt, n = w.insertMany, insertRows*columnCount
		}
		if _, err := stmt.ExecContext(ctx, args[:n]...); err != nil {
			return err
		}
		args = args[n:]
	}
	return nil
}

// sweepSome deletes some expired records. The channel it gives fires when it
// should be called again; nil: at the next tick.
func (w *writer) sweepSome() <-chan time.Time {
	res, err := w.sweep.ExecContext(context.Background(), toMillis(time.Now()), sweepBatch)
	if err != nil {
		w.cfg.Log.Warn().Err(err).Str("path", w.cfg.Path).Msg("records: expired records could not be deleted; they will be tried again")
		return nil
	}
	if n, err := res.RowsAffected(); err != nil || n < sweepBatch {
		return nil
	}
	return time.After(sweepPause)
}

// sweepPause lets callers in between two batches of a sweep.
const sweepPause = 10 * time.Millisecond
