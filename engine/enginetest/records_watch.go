package enginetest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"usher/engine"
)

func watchCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"MakesAMissingRecord": func(c *recordsRig) {
			rec := c.watch("conn-1", c.now.Add(time.Hour))
			rec.UpdatedAt = time.Time{}
			c.same("watched", rec, engine.Record{
				ID: c.id, State: engine.Queued, Watchers: []engine.Watcher{{Connection: "conn-1", Until: c.now.Add(time.Hour)}},
			})
		},
		"RenewsTheSameConnection": func(c *recordsRig) {
			c.watch("conn-1", c.now.Add(time.Hour))
			c.watch("conn-2", c.now.Add(time.Hour))
			c.watch("conn-1", c.now.Add(2*time.Hour))
			c.watched("conn-1", "conn-2")
			if rec := c.watch("conn-1", c.now.Add(time.Minute)); slices.ContainsFunc(rec.Watchers, func(w engine.Watcher) bool {
				return w.Connection == "conn-1" && !w.Until.Equal(c.now.Add(time.Minute))
			}) {
				c.Errorf("renewed: %+v; want conn-1 until a minute on", rec.Watchers)
			}
		},
		"ChangesNothingElse": func(c *recordsRig) {
			for _, state := range []engine.State{engine.Retrying, engine.Done, engine.Dead} {
				c.id = "watched-" + string(state)
				want := c.write(c.aChange(1, state))
				want.Watchers = []engine.Watcher{{Connection: "conn-1", Until: c.now.Add(time.Hour)}}
				c.same("watched", c.watch("conn-1", c.now.Add(time.Hour)), want)
			}
		},
		"OutlivesEveryOtherCall": func(c *recordsRig) {
			c.watch("conn-1", c.now.Add(time.Hour))
			c.gate(c.aGate(c.now))
			c.setDue(c.now)
			c.claim(c.aClaim(0, "a"))
			c.write(c.moved(0, 1))
			c.write(c.dead(1, 2))
			c.claim(c.aClaim(3, "b"))
			c.watched("conn-1")
		},
		"DropsTheOneThatEndsFirst": func(c *recordsRig) {
			var want []string
			for i := range engine.MaxWatchers {
				name := fmt.Sprintf("conn-%02d", i)
				c.watch(name, c.now.Add(time.Duration(60+(i+7)%engine.MaxWatchers)*time.Minute))
				if i != 43 { // of the least time
					want = append(want, name)
				}
			}
			c.watch("newest", c.now.Add(24*time.Hour))
			c.watched(append(want, "newest")...)
		},
		"ForgetsThoseWhoseTimeIsOver": func(c *recordsRig) {
			c.watch("over", c.now.Add(-time.Second))
			c.watched()
			c.watch("there", c.now.Add(time.Hour))
			c.watched("there")
			c.watch("there", c.now.Add(-time.Hour))
			if rec := c.write(c.aChange(0, engine.Done)); len(rec.Watchers) != 0 {
				c.Errorf("finished: watchers %+v; want none", rec.Watchers)
			}
		},
		"UnwatchRemovesOne": func(c *recordsRig) {
			c.watch("conn-1", c.now.Add(time.Hour))
			c.watch("conn-2", c.now.Add(time.Hour))
			c.unwatch("conn-1")
			c.watched("conn-2")
			c.unwatch("conn-1")
			c.unwatch("never there")
			c.watched("conn-2")
			c.unwatch("conn-2")
			c.watched()
		},
		"UnwatchOfAnAbsentRecordMakesNone": func(c *recordsRig) {
			c.unwatch("conn-1")
			c.same("after Unwatch", c.record(), engine.Record{})
		},
	}
}

func (c *recordsRig) unwatch(connection string) {
	c.Helper()
	if err := c.r.Unwatch(c.Context(), c.id, connection); err != nil {
		c.Fatalf("Unwatch: %v", err)
	}
}

func (c *recordsRig) watched(want ...string) {
	c.Helper()
	var got []string
	for _, w := range ordered(c.record()).Watchers {
		got = append(got, w.Connection)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.Errorf("watchers: %v; want %v", got, want)
	}
}

// racers is how many goroutines want the same record.
const racers = 64

func raceCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"OneClaimWins": func(c *recordsRig) {
			var won atomic.Int32
			c.race(func(i int) error {
				rec, err := c.r.Claim(c.Context(), c.aClaim(0, fmt.Sprintf("t%d", i)))
				if err == nil {
					won.Add(1)
				} else if rec.Claim.Token == "" {
					return fmt.Errorf("refused with %+v: %w", rec, err)
				}
				return nil
			})
			if rec := c.record(); won.Load() != 1 || rec.Claims != 1 {
				c.Errorf("%d claims won, %d counted; want 1, 1", won.Load(), rec.Claims)
			}
		},
		"OneFinishWins": func(c *recordsRig) {
			c.claim(c.aClaim(0, "a"))
			var winner atomic.Value
			var won atomic.Int32
			c.race(func(i int) error {
				change := c.aChange(0, engine.Done)
				change.Token = fmt.Sprintf("t%d", i)
				rec, err := c.r.Write(c.Context(), change)
				if err == nil {
					won.Add(1)
					winner.Store(change.Token)
				} else if rec.State != engine.Done {
					return fmt.Errorf("refused with %+v: %w", rec, err)
				}
				return nil
			})
			if rec := c.record(); won.Load() != 1 || rec.Token != winner.Load() {
				c.Errorf("%d won, the last %v; the record has the token %q", won.Load(), winner.Load(), rec.Token)
			}
		},
		"OneCopyMovesTheRecord": func(c *recordsRig) {
			var won atomic.Int32
			c.race(func(int) error {
				if _, err := c.r.Write(c.Context(), c.moved(0, 1)); err == nil {
					won.Add(1)
				}
				return nil
			})
			if rec := c.record(); won.Load() != 1 || rec.Hop != 1 {
				c.Errorf("%d won, the hop is %d; want 1, 1", won.Load(), rec.Hop)
			}
		},
		"OneGateWins": func(c *recordsRig) {
			dues := make([]time.Time, racers)
			c.race(func(i int) error {
				rec, err := c.r.Gate(c.Context(), c.aGate(c.now.Add(time.Duration(i)*time.Minute)))
				dues[i] = rec.Due
				return err
			})
			want := c.record().Due
			if i := slices.IndexFunc(dues, func(d time.Time) bool { return !d.Equal(want) }); i >= 0 {
				c.Errorf("one was told %v, the record says %v", dues[i], want)
			}
		},
		"NoWatcherIsLost": noWatcherIsLost,
	}
}

// noWatcherIsLost lets watchers come while the message finishes: each is in the
// answer to the finish, or was answered that it is finished.
func noWatcherIsLost(c *recordsRig) {
	c.claim(c.aClaim(0, "a"))
	var mu sync.Mutex
	told := map[string]bool{}
	c.race(func(i int) error {
		name := fmt.Sprintf("conn-%d", i)
		switch {
		case i == racers/2:
			rec, err := c.r.Write(c.Context(), c.aChange(0, engine.Done))
			mu.Lock()
			defer mu.Unlock()
			for _, w := range rec.Watchers {
				told[w.Connection] = true
			}
			return err
		case i >= engine.MaxWatchers:
			return nil // as many as there is room for
		}
		rec, err := c.r.Watch(c.Context(), c.id, engine.Watcher{Connection: name, Until: c.now.Add(time.Hour)})
		if rec.State == engine.Done {
			mu.Lock()
			defer mu.Unlock()
			told[name] = true
		}
		return err
	})
	if want := engine.MaxWatchers - 1; len(told) != want || len(c.record().Watchers) != want {
		c.Errorf("%d were told, %d are in the record; want %d of each", len(told), len(c.record().Watchers), want)
	}
}

// race runs f at once in many goroutines.
func (c *recordsRig) race(f func(i int) error) {
	c.Helper()
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			<-start
			if err := f(i); err != nil {
				c.Errorf("racer %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
}
