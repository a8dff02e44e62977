package enginetest

import (
	"errors"
	"time"

	"usher/engine"
)

func cancelCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"EndsWhatWaits": func(c *recordsRig) {
			want := c.parkedAt("waits", time.Hour)
			c.watch("conn-1", c.now.Add(time.Hour))
			got := c.cancel()
			if got.State != engine.Cancelled || got.Bucket != "" || !got.ExpiresAt.Equal(c.now.Add(time.Hour)) || got.Hop != want.Hop || len(got.Watchers) != 1 {
				c.Errorf("cancelled: %+v; want it cancelled at hop %d, in no bucket, with its watcher", got, want.Hop)
			}
			c.lists(engine.Place{}, 10)
			c.refusesClaim(c.aClaim(want.Hop, "a"))
			c.refusesWrite(c.aChange(want.Hop+1, engine.Done))
		},
		"EndsWhatWasOnlySeen": func(c *recordsRig) {
			c.gate(c.aGate(c.now.Add(time.Hour)))
			if got := c.cancel(); got.State != engine.Cancelled {
				c.Errorf("it is %s, want cancelled", got.State)
			}
		},
		"NotWhatIsFinished": func(c *recordsRig) {
			for _, state := range []engine.State{engine.Done, engine.Dead, engine.Cancelled} {
				c.id = "finished-" + string(state)
				before := c.write(c.aChange(0, state))
				rec, err := c.r.Cancel(c.Context(), c.id, c.now)
				c.refused("Cancel", engine.ErrFinished, before, rec, err)
			}
		},
		"NotWhatRuns": func(c *recordsRig) {
			before := c.claim(c.aClaim(0, "a"))
			rec, err := c.r.Cancel(c.Context(), c.id, c.now)
			c.refused("Cancel", engine.ErrRunning, before, rec, err)
		},
		"WhoseClaimIsOver": func(c *recordsRig) {
			claim := c.aClaim(0, "a")
			claim.Mark.Until = c.now.Add(-time.Minute)
			claim.Now = c.now.Add(-time.Hour)
			c.claim(claim)
			if got := c.cancel(); got.State != engine.Cancelled || got.Claim.Token != "" {
				c.Errorf("it is %s with claim %q, want cancelled with none", got.State, got.Claim.Token)
			}
		},
		"NotWhatIsNotThere": func(c *recordsRig) {
			if rec, err := c.r.Cancel(c.Context(), c.id, c.now); !errors.Is(err, engine.ErrNotFound) || rec.ID != "" {
				c.Errorf("%+v, %v; want the zero Record and ErrNotFound", rec, err)
			}
		},
	}
}

func (c *recordsRig) cancel() engine.Record {
	c.Helper()
	rec, err := c.r.Cancel(c.Context(), c.id, c.now.Add(time.Hour))
	return c.must("Cancel", rec, err)
}
