package records

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"usher/engine"
)

// values are a record's columns, in their order.
func values(r engine.Record) ([]any, error) {
	watchers, err := marshalWatchers(r.Watchers)
	if err != nil {
		return nil, err
	}
	return []any{
		r.ID, r.Type, r.Digest, r.Priority, string(r.State), r.Hop,
		toMillis(r.Due), string(r.DueBy), toMillis(r.GatedAt), r.Attempts, r.Redeliveries,
		r.Claim.Token, r.Claim.BrokerID, toMillis(r.Claim.Until), r.Claims,
		r.Token, r.Reason, watchers, toMillis(r.UpdatedAt), toMillis(r.ExpiresAt), r.Bucket,
		r.Crashes, r.Deaths, r.Claim.Alone,
	}, nil
}

// scan reads what values gave.
func scan(rows interface{ Scan(dest ...any) error }) (engine.Record, error) {
	var r engine.Record
	var watchers string
	var due, gatedAt, claimUntil, updatedAt, expiresAt int64
	err := rows.Scan(
		&r.ID, &r.Type, &r.Digest, &r.Priority, &r.State, &r.Hop,
		&due, &r.DueBy, &gatedAt, &r.Attempts, &r.Redeliveries,
		&r.Claim.Token, &r.Claim.BrokerID, &claimUntil, &r.Claims,
		&r.Token, &r.Reason, &watchers, &updatedAt, &expiresAt, &r.Bucket,
		&r.Crashes, &r.Deaths, &r.Claim.Alone,
	)
	if err != nil {
		return engine.Record{}, err
	}
	r.Due, r.GatedAt, r.Claim.Until = fromMillis(due), fromMillis(gatedAt), fromMillis(claimUntil)
	r.UpdatedAt, r.ExpiresAt = fromMillis(updatedAt), fromMillis(expiresAt)
	if r.Watchers, err = unmarshalWatchers(watchers); err != nil {
		return engine.Record{}, fmt.Errorf("the watchers of %q: %w", r.ID, err)
	}
	return r, nil
}

// normal is a record as the file gives it back: the answer to a write is what a
// later look-up finds.
func normal(r engine.Record, now time.Time) engine.Record {
	if !r.State.Final() {
		r.ExpiresAt = time.Time{} // set in final states only
	}
	for _, t := range []*time.Time{&r.Due, &r.GatedAt, &r.Claim.Until, &r.UpdatedAt, &r.ExpiresAt} {
		*t = fromMillis(toMillis(*t))
	}
	r.Watchers = liveWatchers(r.Watchers, now)
	for i, w := range r.Watchers {
		r.Watchers[i].Until = fromMillis(toMillis(w.Until))
	}
	return r
}

// expired says whether the store may have forgotten the record.
func expired(r engine.Record, now time.Time) bool {
	return !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now)
}

// liveWatchers gives a new slice of those whose time is not over, nil for none.
func liveWatchers(watchers []engine.Watcher, now time.Time) []engine.Watcher {
	var live []engine.Watcher
	for _, w := range watchers {
		if w.Until.After(now) {
			live = append(live, w)
		}
	}
	return live
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

// withoutWatcher gives a new slice without the watcher of the connection.
func withoutWatcher(watchers []engine.Watcher, connection string) []engine.Watcher {
	return slices.DeleteFunc(slices.Clone(watchers), func(w engine.Watcher) bool { return w.Connection == connection })
}

// storedWatcher is a watcher as JSON.
type storedWatcher struct {
	Connection string `json:"connection"`
	Until      int64  `json:"until"` // Unix milliseconds
}

func marshalWatchers(watchers []engine.Watcher) (string, error) {
	if len(watchers) == 0 {
		return "", nil
	}
	stored := make([]storedWatcher, len(watchers))
	for i, w := range watchers {
		stored[i] = storedWatcher{w.Connection, toMillis(w.Until)}
	}
	text, err := json.Marshal(stored)
	return string(text), err
}

func unmarshalWatchers(text string) ([]engine.Watcher, error) {
	if text == "" {
		return nil, nil
	}
	var stored []storedWatcher
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return nil, err
	}
	watchers := make([]engine.Watcher, len(stored))
	for i, w := range stored {
		watchers[i] = engine.Watcher{Connection: w.Connection, Until: fromMillis(w.Until)}
	}
	return watchers, nil
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
