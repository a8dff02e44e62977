package dynamo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
)

// LookUp reads the records of the ids that have one, with one request, and those
// that were not processed with another. It may be stale.
func (r *Records) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.Found{}, err
	}
	defer end()
	found := engine.Found{Records: make(map[string]engine.Record, len(ids))}
	keys := make([]item, len(ids))
	for i, id := range ids {
		keys[i] = item{attrID: text(id)}
	}
	items, err := r.batchGet(ctx, r.names.Records, keys)
	if err != nil {
		return engine.Found{}, r.explain(fmt.Sprintf("look up %d records", len(ids)), err)
	}
	found.Now = time.Now().UTC()
	for _, it := range items {
		rec := recordOf(it, found.Now)
		if !expired(rec, found.Now) {
			found.Records[rec.ID] = rec
		}
	}
	return found, nil
}

// batchGet reads items until none is left unprocessed.
func (r *Records) batchGet(ctx context.Context, table string, keys []item) ([]item, error) {
	var items []item
	for wait := newWait(); len(keys) > 0; {
		out, err := r.client.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{table: {Keys: keys}}})
		if err != nil {
			return nil, err
		}
		items = append(items, out.Responses[table]...)
		if keys = out.UnprocessedKeys[table].Keys; len(keys) > 0 {
			if err := wait.next(ctx); err != nil {
				return nil, err
			}
		}
	}
	return items, nil
}

// Record reads one record, never stale.
func (r *Records) Record(ctx context.Context, id string) (engine.Record, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.Record{}, err
	}
	defer end()
	seen, err := r.read(ctx, id)
	if err == nil && seen.record.ID == "" {
		err = engine.ErrNotFound
	}
	return seen.record, err
}

// sighting is a record as it was read, with the nonce of its last write. The zero
// record is that of an item that is not there, or that the store may forget.
type sighting struct {
	record engine.Record
	there  bool   // there is an item, perhaps an expired one
	nonce  string // ""; also if an operator wrote it
}

func (r *Records) read(ctx context.Context, id string) (sighting, error) {
	it, err := r.get(ctx, r.names.Records, item{attrID: text(id)})
	if err != nil {
		return sighting{}, r.explain(fmt.Sprintf("read the record of %q", id), err)
	}
	return sight(it), nil
}

func sight(it item) sighting {
	now := time.Now()
	s := sighting{record: recordOf(it, now), there: len(it) > 0, nonce: fields(it).text(attrNonce)}
	if expired(s.record, now) {
		s.record = engine.Record{}
	}
	return s
}

// change reads a record, has it changed, and puts it back if nobody wrote it in
// between; if somebody did it begins anew. f gets the zero Record if there is none;
// after an error of f the answer is the record that f gave with it.
func (r *Records) change(ctx context.Context, id string, f func(engine.Record, time.Time) (engine.Record, error)) (engine.Record, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.Record{}, err
	}
	defer end()
	return r.changeSeen(ctx, id, nil, f)
}

// changeSeen is change with what is known to be there already, or nil.
func (r *Records) changeSeen(ctx context.Context, id string, seen *sighting, f func(engine.Record, time.Time) (engine.Record, error)) (engine.Record, error) {
	if seen == nil {
		s, err := r.read(ctx, id)
		if err != nil {
			return engine.Record{}, err
		}
		seen = &s
	}
	for wait := newWait(); ; {
		now := time.Now()
		next, err := f(seen.record, now)
		if errors.Is(err, errAsItIs) {
			return seen.record, nil
		}
		if err != nil {
			return next, err
		}
		next.ID = id
		next = normal(next, now)
		if err := r.noteShelf(ctx, next.Bucket); err != nil {
			return engine.Record{}, err
		}
		there, ok, err := r.putIf(ctx, r.names.Records, itemOf(next), attrID, seen.stays())
		if ok {
			return next, nil
		}
		if err != nil {
			return engine.Record{}, r.explain(fmt.Sprintf("write the record of %q", id), err)
		}
		*seen = sight(there)
		if err := wait.next(ctx); err != nil {
			return engine.Record{}, err
		}
	}
}

// errAsItIs has change write nothing, and answer the record.
var errAsItIs = errors.New("nothing to write")

// Gate notes the first sight of a message that has to wait.
func (r *Records) Gate(ctx context.Context, g engine.Gate) (engine.Record, error) {
	return r.change(ctx, g.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !g.Allowed(rec) {
			return rec, errAsItIs
		}
		return g.Apply(rec), nil
	})
}

// Claim takes the message for one delivery.
func (r *Records) Claim(ctx context.Context, c engine.Claim) (engine.Record, error) {
	return r.change(ctx, c.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !c.Allowed(rec) {
			return rec, engine.ErrGuarded
		}
		return c.Apply(rec), nil
	})
}

// Write moves the record on. One that sets no time and takes nothing back is one
// request.
func (r *Records) Write(ctx context.Context, c engine.Change) (engine.Record, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.Record{}, err
	}
	defer end()
	var seen *sighting
	if c.Digest != "" && c.DueBy == engine.ByNone && c.TakeBack == "" && c.Bucket == "" && c.State != engine.Delayed && c.State != engine.Retrying {
		rec, s, err := r.writeAtOnce(ctx, c)
		if s == nil {
			return rec, err
		}
		seen = s
	}
	return r.changeSeen(ctx, c.ID, seen, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !c.Allowed(rec) {
			return rec, engine.ErrGuarded
		}
		return c.Apply(rec), nil
	})
}

// Unpark notes that a parked copy was sent.
func (r *Records) Unpark(ctx context.Context, u engine.Unpark) (engine.Record, error) {
	return r.change(ctx, u.ID, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		if !u.Allowed(rec) {
			return rec, engine.ErrGuarded
		}
		return u.Apply(rec), nil
	})
}

// SetDue moves a message to another time in an operator's name.
func (r *Records) SetDue(ctx context.Context, id string, due time.Time) (engine.Record, error) {
	return r.change(ctx, id, func(rec engine.Record, now time.Time) (engine.Record, error) {
		if rec.State.Final() {
			return rec, engine.ErrFinished
		}
		rec = orQueued(rec)
		rec.Due, rec.DueBy, rec.UpdatedAt = due, engine.ByOperator, now
		return rec, nil
	})
}

// Cancel ends a message that is not running.
func (r *Records) Cancel(ctx context.Context, id string, expiresAt time.Time) (engine.Record, error) {
	return r.change(ctx, id, func(rec engine.Record, now time.Time) (engine.Record, error) {
		return engine.CancelledBy(rec, expiresAt, now)
	})
}

// Watch adds or renews a watcher.
func (r *Records) Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error) {
	return r.change(ctx, id, func(rec engine.Record, now time.Time) (engine.Record, error) {
		if rec.State == "" {
			rec.UpdatedAt = now
		}
		rec = orQueued(rec)
		rec.Watchers = withWatcher(rec.Watchers, w)
		return rec, nil
	})
}

// Unwatch removes a watcher.
func (r *Records) Unwatch(ctx context.Context, id, connection string) error {
	_, err := r.change(ctx, id, func(rec engine.Record, _ time.Time) (engine.Record, error) {
		left := withoutWatcher(rec.Watchers, connection)
		if len(left) == len(rec.Watchers) {
			return rec, errAsItIs
		}
		rec.Watchers = left
		return rec, nil
	})
	return err
}

// orQueued is a new record for one that is not there.
func orQueued(r engine.Record) engine.Record {
	if r.State == "" {
		r.State = engine.Queued
	}
	return r
}

// withWatcher gives a new slice with w in it, without an older one of the same
// connection and, if there are too many, without the one that ends first.
func withWatcher(watchers []engine.Watcher, w engine.Watcher) []engine.Watcher {
	all := append(withoutWatcher(watchers, w.Connection), w)
	if len(all) > engine.MaxWatchers {
		first := slices.MinFunc(all, func(a, b engine.Watcher) int { return a.Until.Compare(b.Until) })
		all = withoutWatcher(all, first.Connection)
	}
	return all
}

func withoutWatcher(watchers []engine.Watcher, connection string) []engine.Watcher {
	return slices.DeleteFunc(slices.Clone(watchers), func(w engine.Watcher) bool { return w.Connection == connection })
}
