package enginetest

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"usher/engine"
)

func bodyCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"ABodyIsKeptByHop": func(c *recordsRig) {
			first := engine.Parked{Headers: map[string]string{"type": "a", "odd name": "b\nc\x00d"}, Body: []byte{0, 1, 255}}
			second := engine.Parked{Headers: map[string]string{}, Body: []byte{}}
			c.keep(1, first)
			c.keep(2, second)
			c.wantKept(1, first)
			c.wantKept(2, second)
			c.keep(1, second)
			c.wantKept(1, second)
			c.drop(1)
			c.wantNotKept(1)
			c.wantKept(2, second)
			c.drop(1) // it is no error
		},
		"ALargeBodyIsKept": func(c *recordsRig) {
			p := engine.Parked{Headers: map[string]string{"type": "a"}, Body: make([]byte, engine.MaxParked-8)}
			p.Body[len(p.Body)-1] = 1
			c.keep(1, p)
			c.wantKept(1, p)
		},
		"WhatIsKeptIsTheCallersOwn": func(c *recordsRig) {
			p := engine.Parked{Headers: map[string]string{"type": "a"}, Body: []byte("abc")}
			c.keep(1, p)
			p.Headers["type"], p.Body[0] = "b", 'x'
			c.wantKept(1, engine.Parked{Headers: map[string]string{"type": "a"}, Body: []byte("abc")})
		},
	}
}

func parkCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"WhatIsDueIsListedByTimeWithinItsBucket": func(c *recordsRig) {
			early, late := c.parkedAt("early", -2*time.Hour), c.parkedAt("late", -time.Hour)
			c.parkedAt("future", time.Hour)
			other := c.parkedIn("other", "7", -time.Hour)
			c.wantDue("3", 10, early, late)
			c.wantDue("3", 1, early)
			c.wantDue("7", 10, other)
			c.wantDue("5", 10)
		},
		"AnOperatorMovesWhatIsParked": func(c *recordsRig) {
			c.parkedAt("moved", time.Hour)
			c.id = "moved"
			moved := c.setDue(c.now.Add(-time.Minute))
			c.wantDue("3", 10, moved)
			c.setDue(c.now.Add(time.Minute * 60))
			c.wantDue("3", 10)
		},
		"UnparkTakesItOut": func(c *recordsRig) {
			want := c.parkedAt("out", -time.Hour)
			want.Bucket, want.State = "", engine.Queued
			c.same("unparked", c.unpark(want.Hop), want)
			c.wantDue("3", 10)
		},
		"UnparkLeavesRetrying": func(c *recordsRig) {
			change := c.parking("retry", "3", -time.Hour)
			change.State = engine.Retrying
			if rec := c.unpark(c.write(change).Hop); rec.State != engine.Retrying || rec.Bucket != "" {
				c.Errorf("unparked: %s in bucket %q; want retrying in none", rec.State, rec.Bucket)
			}
		},
		"UnparkIsGuarded": func(c *recordsRig) {
			rec := c.parkedAt("guarded", -time.Hour)
			c.refusesUnpark(rec.Hop - 1)
			c.refusesUnpark(rec.Hop + 1)
			c.unpark(rec.Hop)
			c.refusesUnpark(rec.Hop)
			c.id = "unknown"
			c.refusesUnpark(rec.Hop)
		},
		"AnyOtherWriteTakesItOut": func(c *recordsRig) {
			rec := c.parkedAt("claimed", -time.Hour)
			c.id = "claimed"
			c.claim(c.aClaim(rec.Hop, "a"))
			c.parkedAt("finished", -time.Hour)
			c.id = "finished"
			c.write(c.aChange(rec.Hop, engine.Done))
			c.wantDue("3", 10)
		},
		"AnOperatorsTimeToComeIsNotOverwritten": func(c *recordsRig) {
			due := c.now.Add(2 * time.Hour)
			c.setDue(due)
			change := c.aChange(0, engine.Retrying)
			change.Due, change.DueBy = c.now.Add(time.Hour), engine.ByRetry
			if rec := c.write(change); !rec.Due.Equal(due) || rec.DueBy != engine.ByOperator {
				c.Errorf("after a retry it is due %v by %q, want the operator's %v", rec.Due, rec.DueBy, due)
			}
		},
		"AnOperatorsTimeThatIsPastIsOver": func(c *recordsRig) {
			c.setDue(c.now.Add(-time.Hour))
			change := c.aChange(0, engine.Retrying)
			change.Due, change.DueBy = c.now.Add(time.Hour), engine.ByRetry
			if rec := c.write(change); !rec.Due.Equal(change.Due) || rec.DueBy != engine.ByRetry {
				c.Errorf("after a retry it is due %v by %q, want %v by retry", rec.Due, rec.DueBy, change.Due)
			}
		},
	}
}

func leaseCases() map[string]func(*recordsRig) {
	return map[string]func(*recordsRig){
		"NobodyAtFirst": func(c *recordsRig) {
			if l := c.leases(); l.Version != 0 || len(l.Owners)+len(l.Held) != 0 {
				c.Errorf("the leases of a new table are %+v, want none", l)
			}
		},
		"AreReplacedByVersion": func(c *recordsRig) {
			mine := c.leases().Share("a", c.now, c.now.Add(time.Minute))
			if err := c.r.SetLeases(c.Context(), mine); err != nil {
				c.Fatal(err)
			}
			got := c.leases()
			mine.Version++
			if !reflect.DeepEqual(got, mine) {
				c.Errorf("the leases are\n%+v, want\n%+v", got, mine)
			}
			stale := engine.Leases{Version: 0}.Share("b", c.now, c.now.Add(time.Minute))
			if err := c.r.SetLeases(c.Context(), stale); !errors.Is(err, engine.ErrGuarded) {
				c.Errorf("an older version was answered with %v, want ErrGuarded", err)
			}
			if err := c.r.SetLeases(c.Context(), got.Share("b", c.now, c.now.Add(time.Minute))); err != nil {
				c.Fatal(err)
			}
			if l := c.leases(); len(l.Of("a")) != engine.Buckets/2 || len(l.Of("b")) != engine.Buckets/2 {
				c.Errorf("the leases are %+v; want a and b to have half of them each", l)
			}
		},
	}
}

// parking is a write that parks the message at hop 2.
func (c *recordsRig) parking(id, bucket string, in time.Duration) engine.Change {
	c.id = id
	change := c.aChange(1, engine.Delayed)
	change.NextHop, change.Bucket, change.Due, change.DueBy = 2, bucket, c.now.Add(in), engine.ByRule
	return change
}

func (c *recordsRig) parkedIn(id, bucket string, in time.Duration) engine.Record {
	c.Helper()
	rec := c.write(c.parking(id, bucket, in))
	if rec.Bucket != bucket {
		c.Fatalf("%s is in bucket %q, want %q", id, rec.Bucket, bucket)
	}
	return rec
}

func (c *recordsRig) parkedAt(id string, in time.Duration) engine.Record {
	c.Helper()
	return c.parkedIn(id, "3", in)
}

func (c *recordsRig) wantDue(bucket string, limit int, want ...engine.Record) {
	c.Helper()
	c.eventually("DueIn bucket "+bucket, func() (any, bool) {
		got, err := c.r.DueIn(c.Context(), bucket, limit)
		if err != nil {
			c.Fatalf("DueIn: %v", err)
		}
		return got, slices.EqualFunc(got, want, equalRecords)
	})
}

func (c *recordsRig) unpark(hop int) engine.Record {
	c.Helper()
	rec, err := c.r.Unpark(c.Context(), engine.Unpark{ID: c.id, Hop: hop, Now: c.now})
	return c.must("Unpark", rec, err)
}

func (c *recordsRig) refusesUnpark(hop int) {
	c.Helper()
	before := c.record()
	rec, err := c.r.Unpark(c.Context(), engine.Unpark{ID: c.id, Hop: hop, Now: c.now})
	c.refused("Unpark", engine.ErrGuarded, before, rec, err)
}

func (c *recordsRig) keep(hop int, p engine.Parked) {
	c.Helper()
	if err := c.r.Keep(c.Context(), c.id, hop, p); err != nil {
		c.Fatalf("Keep: %v", err)
	}
}

func (c *recordsRig) drop(hop int) {
	c.Helper()
	if err := c.r.Drop(c.Context(), c.id, hop); err != nil {
		c.Fatalf("Drop: %v", err)
	}
}

func (c *recordsRig) wantKept(hop int, want engine.Parked) {
	c.Helper()
	got, err := c.r.Kept(c.Context(), c.id, hop)
	if err != nil {
		c.Fatalf("Kept: %v", err)
	}
	if !bytes.Equal(got.Body, want.Body) || !maps.Equal(got.Headers, want.Headers) {
		c.Errorf("hop %d: %d headers %v and %d bytes came back; want %v and %d", hop, len(got.Headers), got.Headers, len(got.Body), want.Headers, len(want.Body))
	}
}

func (c *recordsRig) wantNotKept(hop int) {
	c.Helper()
	if _, err := c.r.Kept(c.Context(), c.id, hop); !errors.Is(err, engine.ErrNotFound) {
		c.Errorf("hop %d: %v, want ErrNotFound", hop, err)
	}
}

func (c *recordsRig) leases() engine.Leases {
	c.Helper()
	l, err := c.r.Leases(c.Context())
	if err != nil {
		c.Fatalf("Leases: %v", err)
	}
	return l
}
