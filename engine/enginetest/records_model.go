package enginetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"usher/engine"
)

// checkModel makes random calls of the table and of a Memory side by side: both
// must answer the same. Times are hours apart, so that it does not matter when
// exactly a call is made.
func (c *recordsRig) checkModel() {
	runs := 0
	rapid.Check(c.T, func(t *rapid.T) {
		runs++
		m := recordsModel{rig: c, real: c.r, plain: NewMemory(), run: fmt.Sprintf("run-%d-", runs)}
		t.Repeat(map[string]func(*rapid.T){
			"Gate": m.gate, "Claim": m.claim, "Write": m.write, "Unpark": m.unpark, "SetDue": m.setDue, "Watch": m.watch, "Unwatch": m.unwatch,
		})
		m.check(t)
	})
}

// recordsModel is a table with its model.
type recordsModel struct {
	rig   *recordsRig
	real  RecordsUnderTest
	plain RecordsUnderTest
	run   string // begins every id of this run
}

// both makes a call of both and compares the answers.
func (m *recordsModel) both(t *rapid.T, what string, call func(context.Context, RecordsUnderTest) (engine.Record, error)) {
	got, gotErr := call(m.rig.Context(), m.real)
	want, wantErr := call(m.rig.Context(), m.plain)
	for _, sentinel := range []error{engine.ErrGuarded, engine.ErrFinished, engine.ErrNotFound} {
		if errors.Is(gotErr, sentinel) && errors.Is(wantErr, sentinel) {
			gotErr, wantErr = nil, nil
		}
	}
	if gotErr != nil || wantErr != nil {
		t.Fatalf("%s: the error is %v; want %v\n got %+v\nwant %+v", what, gotErr, wantErr, got, want)
	}
	if !equalRecords(timeless(got), timeless(want)) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// timeless leaves out what is by the store's own clock.
func timeless(r engine.Record) engine.Record {
	r.UpdatedAt = time.Time{}
	return r
}

func (m *recordsModel) id(t *rapid.T) string {
	return m.run + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")
}

func (m *recordsModel) time(t *rapid.T, name string) time.Time {
	return m.rig.now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, name)) * time.Hour).Add(30 * time.Minute)
}

func digest(t *rapid.T) string { return rapid.SampledFrom([]string{"abc", "def"}).Draw(t, "digest") }

func token(t *rapid.T) string {
	return rapid.SampledFrom([]string{"one-1", "one-2", "two-1"}).Draw(t, "token")
}

func hop(t *rapid.T) int { return rapid.IntRange(0, 6).Draw(t, "hop") }

func (m *recordsModel) gate(t *rapid.T) {
	g := engine.Gate{
		ID: m.id(t), Type: "a.type", Digest: digest(t), Priority: 3, Due: m.time(t, "due"),
		DueBy: rapid.SampledFrom([]engine.DueBy{engine.ByRule, engine.ByHeader}).Draw(t, "by"), Now: m.rig.now,
	}
	m.both(t, "Gate", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.Gate(ctx, g) })
}

func (m *recordsModel) claim(t *rapid.T) {
	c := engine.Claim{
		ID: m.id(t), Type: "a.type", Digest: digest(t), Priority: 4, Hop: hop(t), Now: m.time(t, "now"),
		Mark: engine.ClaimMark{Token: token(t), BrokerID: "d1", Until: m.time(t, "until"), Alone: rapid.Bool().Draw(t, "alone")},
	}
	m.both(t, "Claim", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.Claim(ctx, c) })
}

func (m *recordsModel) write(t *rapid.T) {
	c := engine.Change{
		ID: m.id(t), Type: "a.type", Digest: digest(t), Priority: 5, Hop: hop(t), Token: token(t), Now: m.time(t, "now"),
		State: rapid.SampledFrom([]engine.State{
			engine.Queued, engine.Delayed, engine.Delayed, engine.Processing, engine.Retrying, engine.Retrying,
			engine.Done, engine.Dead, engine.Dead, engine.Cancelled,
		}).Draw(t, "state"),
		Attempts: rapid.IntRange(0, 3).Draw(t, "attempts"), Redeliveries: rapid.IntRange(0, 3).Draw(t, "redeliveries"),
		Crashes: rapid.IntRange(0, 3).Draw(t, "crashes"), Deaths: rapid.IntRange(0, 3).Draw(t, "deaths"),
		TakeBack: rapid.SampledFrom([]string{"", "", "", token(t)}).Draw(t, "take back"),
	}
	c.NextHop = c.Hop + rapid.IntRange(0, 1).Draw(t, "step")
	if rapid.Bool().Draw(t, "has due") {
		c.Due, c.DueBy = m.time(t, "due"), engine.ByRetry
	}
	if c.State.Final() && rapid.Bool().Draw(t, "expires") {
		c.ExpiresAt = m.time(t, "expires at")
	}
	if c.State == engine.Dead {
		c.Reason = engine.ReasonTimeout
	}
	if c.State == engine.Delayed || c.State == engine.Retrying {
		c.Bucket = rapid.SampledFrom([]string{"", "0", "7"}).Draw(t, "bucket")
	}
	m.both(t, "Write", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.Write(ctx, c) })
}

func (m *recordsModel) unpark(t *rapid.T) {
	u := engine.Unpark{ID: m.id(t), Hop: hop(t), Now: m.time(t, "now")}
	m.both(t, "Unpark", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.Unpark(ctx, u) })
}

func (m *recordsModel) setDue(t *rapid.T) {
	id, due := m.id(t), m.time(t, "due")
	m.both(t, "SetDue", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.SetDue(ctx, id, due) })
}

func (m *recordsModel) watch(t *rapid.T) {
	id := m.id(t)
	w := engine.Watcher{Connection: rapid.SampledFrom([]string{"c1", "c2", "c3"}).Draw(t, "connection"), Until: m.time(t, "until")}
	m.both(t, "Watch", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.Watch(ctx, id, w) })
}

func (m *recordsModel) unwatch(t *rapid.T) {
	id, connection := m.id(t), rapid.SampledFrom([]string{"c1", "c2", "c3"}).Draw(t, "connection")
	m.both(t, "Unwatch", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) {
		return engine.Record{}, r.Unwatch(ctx, id, connection)
	})
}

// check compares all that can be read.
func (m *recordsModel) check(t *rapid.T) {
	for _, name := range []string{"a", "b", "c"} {
		m.both(t, "Record", func(ctx context.Context, r RecordsUnderTest) (engine.Record, error) { return r.Record(ctx, m.run+name) })
	}
	want := m.waiting(m.plain)
	m.rig.eventually("Waiting", func() (any, bool) {
		got := m.waiting(m.real)
		return got, slices.Equal(got, want)
	})
}

// waiting lists the ids of this run that wait.
func (m *recordsModel) waiting(r RecordsUnderTest) []string {
	var ids []string
	var after engine.Place
	for {
		page, err := r.Waiting(m.rig.Context(), engine.Waits{After: after, Limit: 100})
		if err != nil {
			m.rig.Fatalf("Waiting: %v", err)
		}
		for _, rec := range page {
			if comparePlace(placeOf(rec), after) <= 0 {
				m.rig.Fatalf("Waiting after %+v lists %s, due %v", after, rec.ID, rec.Due)
			}
			after = engine.Place{Due: rec.Due, ID: rec.ID}
			if strings.HasPrefix(rec.ID, m.run) {
				ids = append(ids, rec.ID)
			}
		}
		if len(page) == 0 {
			return ids
		}
	}
}
