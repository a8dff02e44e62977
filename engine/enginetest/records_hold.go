package enginetest

import (
	"errors"
	"reflect"
	"time"

	"usher/engine"
)

func holdCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"NothingAtFirst": func(c *recordsRig) {
			if h := c.holds(); h.Version != 0 || len(h.Types) != 0 {
				c.Errorf("the holds of a new table are %+v, want none", h)
			}
		},
		"AreReplacedByVersion": func(c *recordsRig) {
			want := engine.Holds{Version: 1, Types: map[string]engine.Hold{
				"order.placed": {Paused: c.now}, "old": {Removed: c.now.Add(-time.Hour)}, "both": {Paused: c.now, Removed: c.now},
			}}
			if err := c.r.SetHolds(c.Context(), engine.Holds{Types: want.Types}); err != nil {
				c.Fatal(err)
			}
			if got := c.holds(); !reflect.DeepEqual(got, want) {
				c.Errorf("the holds are\n%+v, want\n%+v", got, want)
			}
			if err := c.r.SetHolds(c.Context(), engine.Holds{}); !errors.Is(err, engine.ErrGuarded) {
				c.Errorf("an older version was answered with %v, want ErrGuarded", err)
			}
			if err := c.r.SetHolds(c.Context(), engine.Holds{Version: 1}); err != nil {
				c.Fatal(err)
			}
			if got := c.holds(); got.Version != 2 || len(got.Types) != 0 {
				c.Errorf("the holds are %+v, want version 2 with none", got)
			}
		},
		"PauseAndResume": func(c *recordsRig) {
			for range 2 { // twice is once
				if err := engine.Pause(c.Context(), c.r, "a", c.now); err != nil {
					c.Fatal(err)
				}
			}
			if h := c.holds(); h.Version != 1 || !h.Types["a"].Paused.Equal(c.now) {
				c.Errorf("paused: %+v", h)
			}
			for range 2 {
				if err := engine.Resume(c.Context(), c.r, "a"); err != nil {
					c.Fatal(err)
				}
			}
			if h := c.holds(); h.Version != 2 || len(h.Types) != 0 {
				c.Errorf("resumed: %+v", h)
			}
		},
		"OfManyWhoPauseEachCounts": func(c *recordsRig) {
			c.race(func(i int) error {
				return engine.Pause(c.Context(), c.r, string(rune('a'+i%26)), c.now)
			})
			if h := c.holds(); len(h.Types) != 26 {
				c.Errorf("%d types are paused, want 26: %+v", len(h.Types), h)
			}
		},
		"WhatIsHeldIsFoundByItsType": func(c *recordsRig) {
			held := c.parkedIn("held", engine.HeldBucket("order.placed"), -time.Hour)
			if !held.Held() {
				c.Errorf("%+v is not held", held)
			}
			c.wantDue(engine.HeldBucket("order.placed"), 10, held)
			c.wantDue(engine.HeldBucket("order"), 10)
			list, err := c.r.Waiting(c.Context(), engine.Waits{Limit: 10})
			if err != nil || len(list) != 1 || !equalRecords(list[0], held) {
				c.Errorf("Waiting: %+v, %v; want what is held", list, err)
			}
		},
	}
}

func (c *recordsRig) holds() engine.Holds {
	c.Helper()
	h, err := c.r.Holds(c.Context())
	if err != nil {
		c.Fatalf("Holds: %v", err)
	}
	return h
}
