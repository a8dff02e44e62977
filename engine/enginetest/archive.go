package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/engine"
)

// ArchiveUnderTest is an archive that is ready for use, as RunArchive needs it.
type ArchiveUnderTest interface {
	engine.Archive
	Close() error
}

// RunArchive holds an archive to the contract of engine.Archive. open gives an
// empty one, or fails the test; the suite closes it. Listings and tallies may lag
// behind a write for some seconds.
//
// Beyond the words of the port it asks of every archive: times are UTC, in whole
// milliseconds; a letter whose ExpiresAt has passed is as absent; Close is
// idempotent, and later calls answer an error.
func RunArchive(t *testing.T, open func(t *testing.T) ArchiveUnderTest) {
	t.Attr("suite", "archive")
	cases := archiveCases()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) { cases[name](newArchiveRig(t, open(t))) })
	}
}

// archiveRig is a test with an archive.
type archiveRig struct {
	*recordsRig

	a ArchiveUnderTest
}

func newArchiveRig(t *testing.T, a ArchiveUnderTest) *archiveRig {
	t.Cleanup(func() {
		for range 2 {
			if err := a.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if _, err := a.Tally(t.Context()); err == nil {
			t.Error("Tally after Close worked")
		}
	})
	return &archiveRig{&recordsRig{T: t, now: millis(time.Now())}, a}
}

func archiveCases() map[string]func(*archiveRig) {
	return map[string]func(*archiveRig){
		"ALetterIsKeptWhole":                     testLetterWhole,
		"ALetterThatComesTwiceIsOne":             testLetterTwice,
		"WhatIsKeptIsTheCallersOwn":              testLetterOwned,
		"OneThatStaysHasNoContent":               testLetterStays,
		"ALargeLetterIsKept":                     testLetterLarge,
		"UnknownKeysAreNotFound":                 testLetterUnknown,
		"TheYoungestAreListedFirst":              testLettersOrder,
		"TheListGoesOnWhereItStopped":            testLettersPages,
		"EachFilterChooses":                      testLettersFilters,
		"AnyFiltersTogetherChooseWhatTheySay":    testLettersModel,
		"RedrivenKeepsItsContent":                testLetterRedriven,
		"DroppedForgetsItsContent":               testLetterDropped,
		"TheCareForALetterEndsOnce":              testLetterSettledOnce,
		"OfManyWhoEndItOneDoes":                  testLetterRace,
		"ASettledLetterThatComesAgainIsNotAnew":  testLetterSettledAndPut,
		"WhatTheStoreMayForgetIsAbsent":          testLetterExpires,
		"TheTallyCountsWhatIsKept":               testTally,
		"ACallWhoseContextHasEndedAnswersItself": testArchiveContext,
	}
}

// aLetter is one whose every field is set; n makes it another.
func (c *archiveRig) aLetter(n int) (engine.DeadLetter, engine.Content) {
	l := engine.DeadLetter{
		Key: fmt.Sprintf("key-%04d", n), ID: fmt.Sprintf("order-%d", n), Type: "order.placed", Level: 7, Hop: 3,
		Why: engine.Failure{
			Reason: engine.ReasonExhausted, Detail: "card declined: \"no\" ; é", Fingerprint: "0123456789ab", Attempts: 3, Redeliveries: 2,
			Handler: "orders 1.2.3", FirstFailedAt: c.now.Add(-time.Hour),
		},
		Queue: engine.DeadQueue, Origin: engine.WorkQueue, DeadAt: c.now.Add(-time.Duration(n) * time.Second), Size: 3,
		Redrives: 1, State: engine.LetterKept, ChangedAt: c.now,
	}
	return l, engine.Content{Headers: map[string]string{"type": "order.placed", "odd name": "b\nc\x00d"}, Body: []byte{0, 1, 255}}
}

// put keeps a letter that must be new.
func (c *archiveRig) put(l engine.DeadLetter, content engine.Content) engine.DeadLetter {
	c.Helper()
	kept, added, err := c.a.Put(c.Context(), l, content)
	if err != nil || !added {
		c.Fatalf("Put %s: added %v, %v", l.Key, added, err)
	}
	return kept
}

// putMany keeps n letters, which change makes different.
func (c *archiveRig) putMany(n int, change func(n int, l *engine.DeadLetter)) []engine.DeadLetter {
	c.Helper()
	var all []engine.DeadLetter
	for i := range n {
		l, content := c.aLetter(i)
		if change != nil {
			change(i, &l)
		}
		all = append(all, c.put(l, content))
	}
	return all
}

func (c *archiveRig) wantLetter(want engine.DeadLetter, content engine.Content) {
	c.Helper()
	got, gotContent, err := c.a.Letter(c.Context(), want.Key)
	if err != nil {
		c.Fatalf("Letter %s: %v", want.Key, err)
	}
	if !reflect.DeepEqual(got, want) {
		c.Errorf("the letter is\n%+v, want\n%+v", got, want)
	}
	if !maps.Equal(gotContent.Headers, content.Headers) || !bytes.Equal(gotContent.Body, content.Body) {
		c.Errorf("the content is %d headers %v and %d bytes, want %v and %d", len(gotContent.Headers), gotContent.Headers, len(gotContent.Body), content.Headers, len(content.Body))
	}
}

// wantLetters waits for a listing of exactly these, in their order.
func (c *archiveRig) wantLetters(q engine.LetterQuery, want ...engine.DeadLetter) {
	c.Helper()
	c.eventually(fmt.Sprintf("Letters %+v", q), func() (any, bool) {
		got, err := c.a.Letters(c.Context(), q)
		if err != nil {
			c.Fatalf("Letters: %v", err)
		}
		return got, slices.Equal(got, want)
	})
}

func (c *archiveRig) settle(key string, s engine.LetterState) engine.DeadLetter {
	c.Helper()
	l, err := c.a.Settle(c.Context(), engine.LetterChange{Key: key, State: s, Now: c.now})
	if err != nil {
		c.Fatalf("Settle %s %s: %v", key, s, err)
	}
	return l
}

func testLetterWhole(c *archiveRig) {
	l, content := c.aLetter(1)
	if kept := c.put(l, content); !reflect.DeepEqual(kept, l) {
		c.Errorf("Put answers\n%+v, want\n%+v", kept, l)
	}
	c.wantLetter(l, content)
	c.wantLetters(engine.LetterQuery{Limit: 10}, l)
	bare := engine.DeadLetter{Key: "bare", DeadAt: c.now, State: engine.LetterKept, ChangedAt: c.now, Hop: -1}
	c.put(bare, engine.Content{})
	c.wantLetter(bare, engine.Content{})
}

func testLetterTwice(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	again := l
	again.DeadAt, again.Why.Detail = c.now.Add(time.Hour), "another"
	kept, added, err := c.a.Put(c.Context(), again, engine.Content{Body: []byte("another")})
	if err != nil || added || !reflect.DeepEqual(kept, l) {
		c.Errorf("put again: added %v, %v,\n%+v, want the first\n%+v", added, err, kept, l)
	}
	c.wantLetter(l, content)
	c.wantLetters(engine.LetterQuery{Limit: 10}, l)
}

func testLetterOwned(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	content.Headers["type"], content.Body[0] = "changed", 'x'
	_, want := c.aLetter(1)
	c.wantLetter(l, want)
}

func testLetterStays(c *archiveRig) {
	l, _ := c.aLetter(1)
	l.Stays, l.Size = true, 100<<20
	c.put(l, engine.Content{})
	c.wantLetter(l, engine.Content{})
}

func testLetterLarge(c *archiveRig) {
	l, content := c.aLetter(1)
	content.Body = bytes.Repeat([]byte("0123456789abcdef"), engine.MinArchived/16)
	l.Size = len(content.Body)
	c.put(l, content)
	c.wantLetter(l, content)
}

func testLetterUnknown(c *archiveRig) {
	if _, _, err := c.a.Letter(c.Context(), "nobody"); !errors.Is(err, engine.ErrNotFound) {
		c.Errorf("Letter: %v, want ErrNotFound", err)
	}
	_, err := c.a.Settle(c.Context(), engine.LetterChange{Key: "nobody", State: engine.LetterDropped, Now: c.now})
	if !errors.Is(err, engine.ErrNotFound) {
		c.Errorf("Settle: %v, want ErrNotFound", err)
	}
	c.wantLetters(engine.LetterQuery{Limit: 10})
}

func testLettersOrder(c *archiveRig) {
	all := c.putMany(6, func(n int, l *engine.DeadLetter) { l.DeadAt = c.now.Add(time.Duration(n/2) * time.Second) }) // two at each time
	slices.Reverse(all)
	c.wantLetters(engine.LetterQuery{Limit: 10}, all...)
	c.wantLetters(engine.LetterQuery{Limit: 2}, all[:2]...)
	c.wantLetters(engine.LetterQuery{})
}

func testLettersPages(c *archiveRig) {
	all := c.putMany(23, func(n int, l *engine.DeadLetter) { l.DeadAt = c.now.Add(-time.Duration(n/4) * time.Second) })
	c.wantListed(len(all))
	var keys []string
	q := engine.LetterQuery{Limit: 5}
	for {
		page, err := c.a.Letters(c.Context(), q)
		if err != nil {
			c.Fatal(err)
		}
		for _, l := range page {
			keys = append(keys, l.Key)
		}
		if len(page) < q.Limit {
			break
		}
		q.After = engine.LetterPlace{DeadAt: page[len(page)-1].DeadAt, Key: page[len(page)-1].Key}
		c.settle(page[0].Key, engine.LetterDropped) // what is looked after meanwhile moves no page
	}
	slices.Sort(keys)
	if len(keys) != len(all) || len(slices.Compact(keys)) != len(all) {
		c.Errorf("%d letters came in pages, want each of %d once", len(keys), len(all))
	}
}

// wantListed waits until so many letters are listed.
func (c *archiveRig) wantListed(n int) {
	c.Helper()
	c.eventually("all are listed", func() (any, bool) {
		got, err := c.a.Letters(c.Context(), engine.LetterQuery{Limit: n + 1})
		if err != nil {
			c.Fatal(err)
		}
		return len(got), len(got) == n
	})
}

func testLettersFilters(c *archiveRig) {
	all := c.putMany(3, func(n int, l *engine.DeadLetter) {
		l.Type = "type-" + l.Key
		l.Level, l.Why.Reason, l.Why.Fingerprint = n, "permanent:"+l.Key, "f-"+l.Key
	})
	c.settle(all[2].Key, engine.LetterRedriven)
	one := all[1]
	for _, q := range []engine.LetterQuery{
		{ID: one.ID}, {Type: one.Type}, {Reason: one.Why.Reason}, {Fingerprint: one.Why.Fingerprint}, {Level: &one.Level},
		{Since: one.DeadAt, Until: all[0].DeadAt}, {Type: one.Type, Reason: one.Why.Reason, State: engine.LetterKept, Level: &one.Level},
	} {
		q.Limit = 10
		c.wantLetters(q, one)
	}
	c.wantLetters(engine.LetterQuery{State: engine.LetterKept, Limit: 10}, all[0], one)
	c.wantLetters(engine.LetterQuery{Type: one.Type, Reason: all[0].Why.Reason, Limit: 10})
	c.wantLetters(engine.LetterQuery{Type: "TYPE-" + one.Key, Limit: 10})
	c.wantLetters(engine.LetterQuery{Type: "type-%", Limit: 10})
}

// testLettersModel asks with any filters, and expects what Matches says.
func testLettersModel(c *archiveRig) {
	words := []string{"", "a", "b"}
	all := c.putMany(40, func(n int, l *engine.DeadLetter) {
		l.ID, l.Type, l.Level = words[1+n%2], words[n%3], n%5
		l.Why.Reason, l.Why.Fingerprint = words[1+n/2%2], words[1+n/3%2]
		l.DeadAt = c.now.Add(-time.Duration(n/3) * time.Second)
	})
	for n := range all {
		if n%4 == 0 {
			all[n] = c.settle(all[n].Key, []engine.LetterState{engine.LetterRedriven, engine.LetterDropped}[n/4%2])
		}
	}
	slices.SortFunc(all, func(a, b engine.DeadLetter) int {
		return comparePlaces(a, engine.LetterPlace{DeadAt: b.DeadAt, Key: b.Key})
	})
	c.wantListed(len(all))
	rapid.Check(c.T, func(t *rapid.T) {
		word := rapid.SampledFrom(words)
		q := engine.LetterQuery{
			ID: word.Draw(t, "id"), Type: word.Draw(t, "type"), Reason: word.Draw(t, "reason"), Fingerprint: word.Draw(t, "fingerprint"),
			State: rapid.SampledFrom([]engine.LetterState{"", engine.LetterKept, engine.LetterRedriven, engine.LetterDropped}).Draw(t, "state"),
			Level: rapid.Ptr(rapid.IntRange(0, 5), true).Draw(t, "level"), Limit: rapid.IntRange(0, len(all)).Draw(t, "limit"),
		}
		when := rapid.Custom(func(t *rapid.T) time.Time {
			return c.now.Add(-time.Duration(rapid.IntRange(-1, 14).Draw(t, "seconds")) * time.Second)
		})
		if since := rapid.Ptr(when, true).Draw(t, "since"); since != nil {
			q.Since = *since
		}
		if until := rapid.Ptr(when, true).Draw(t, "until"); until != nil {
			q.Until = *until
		}
		skip := rapid.IntRange(0, len(all)).Draw(t, "after")
		if skip > 0 {
			q.After = engine.LetterPlace{DeadAt: all[skip-1].DeadAt, Key: all[skip-1].Key}
		}
		var want []engine.DeadLetter
		for _, l := range all[skip:] {
			if q.Matches(l) && len(want) < q.Limit {
				want = append(want, l)
			}
		}
		got, err := c.a.Letters(c.Context(), q)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%+v: %v, %d letters\n%+v, want %d\n%+v", q, err, len(got), got, len(want), want)
		}
	})
}

func testLetterRedriven(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	l.State, l.ChangedAt, l.ExpiresAt = engine.LetterRedriven, c.now, c.now.Add(engine.LetterTTL)
	if got := c.settle(l.Key, engine.LetterRedriven); !reflect.DeepEqual(got, l) {
		c.Errorf("Settle answers\n%+v, want\n%+v", got, l)
	}
	c.wantLetter(l, content)
}

func testLetterDropped(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	c.wantLetter(c.settle(l.Key, engine.LetterDropped), engine.Content{})
}

func testLetterSettledOnce(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	first := c.settle(l.Key, engine.LetterRedriven)
	got, err := c.a.Settle(c.Context(), engine.LetterChange{Key: l.Key, State: engine.LetterDropped, Now: c.now.Add(time.Minute)})
	if !errors.Is(err, engine.ErrGuarded) || !reflect.DeepEqual(got, first) {
		c.Errorf("the second time: %v and\n%+v, want ErrGuarded and\n%+v", err, got, first)
	}
	c.wantLetter(first, content)
}

func testLetterRace(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := c.a.Settle(c.Context(), engine.LetterChange{Key: l.Key, State: engine.LetterRedriven, Now: c.now})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, engine.ErrGuarded):
				c.Errorf("Settle: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		c.Errorf("%d of 8 did it, want one", won.Load())
	}
}

func testLetterSettledAndPut(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	dropped := c.settle(l.Key, engine.LetterDropped)
	kept, added, err := c.a.Put(c.Context(), l, content)
	if err != nil || added || !reflect.DeepEqual(kept, dropped) {
		c.Errorf("put again: added %v, %v, %+v; want the dropped one", added, err, kept)
	}
	c.wantLetter(dropped, engine.Content{})
}

func testLetterExpires(c *archiveRig) {
	l, content := c.aLetter(1)
	c.put(l, content)
	past := c.now.Add(-engine.LetterTTL - time.Second)
	if _, err := c.a.Settle(c.Context(), engine.LetterChange{Key: l.Key, State: engine.LetterRedriven, Now: past}); err != nil {
		c.Fatal(err)
	}
	if _, _, err := c.a.Letter(c.Context(), l.Key); !errors.Is(err, engine.ErrNotFound) {
		c.Errorf("Letter: %v, want ErrNotFound", err)
	}
	c.wantLetters(engine.LetterQuery{Limit: 10})
	c.put(l, content) // as if it had never been there
	c.wantLetter(l, content)
}

func testTally(c *archiveRig) {
	all := c.putMany(7, func(n int, l *engine.DeadLetter) {
		l.Why.Reason = []string{engine.ReasonExpired, engine.ReasonExhausted}[n%2]
	})
	c.settle(all[6].Key, engine.LetterDropped)
	c.settle(all[5].Key, engine.LetterRedriven)
	want := []engine.Tally{
		{Reason: engine.ReasonExhausted, Count: 2, Oldest: all[3].DeadAt},
		{Reason: engine.ReasonExpired, Count: 3, Oldest: all[4].DeadAt},
	}
	c.eventually("Tally", func() (any, bool) {
		got, err := c.a.Tally(c.Context())
		if err != nil {
			c.Fatal(err)
		}
		slices.SortFunc(got, func(a, b engine.Tally) int { return strings.Compare(a.Reason, b.Reason) })
		return got, slices.Equal(got, want)
	})
}

func testArchiveContext(c *archiveRig) {
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	l, content := c.aLetter(1)
	_, _, err := c.a.Put(ctx, l, content)
	_, errLetters := c.a.Letters(ctx, engine.LetterQuery{Limit: 1})
	_, _, errLetter := c.a.Letter(ctx, l.Key)
	_, errSettle := c.a.Settle(ctx, engine.LetterChange{Key: l.Key, State: engine.LetterDropped})
	_, errTally := c.a.Tally(ctx)
	for call, err := range map[string]error{"Put": err, "Letters": errLetters, "Letter": errLetter, "Settle": errSettle, "Tally": errTally} {
		if !errors.Is(err, context.Canceled) {
			c.Errorf("%s: %v, want context.Canceled", call, err)
		}
	}
}
