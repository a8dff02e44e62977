package enginetest

import (
	"fmt"
	"strings"

	"usher/engine"
	"usher/engine/stomp"
)

// probing opens a Broker that looks where messages of each level come out.
func (r *brokerRig) probing(window int) *engineSide {
	r.Helper()
	return r.open(func(c *stomp.Config) { c.Probe, c.Window = true, window })
}

// findings waits until the probe is over and gives what it has found, by name.
func (e *engineSide) findings() map[string]stomp.Finding {
	e.r.Helper()
	e.r.eventually("the probe", func() (bool, string) {
		err := e.Probed()
		return err == nil && e.Health().Connected, fmt.Sprint(err)
	})
	found := map[string]stomp.Finding{}
	for _, f := range e.Findings() {
		found[f.Name] = f
	}
	return found
}

// wantAllWell waits until all is as it should be.
func (e *engineSide) wantAllWell() {
	e.r.Helper()
	e.r.eventually("all is well", func() (bool, string) {
		found := e.Findings()
		for _, f := range found {
			if f.State != stomp.OK {
				return false, fmt.Sprintf("%+v", f)
			}
		}
		return len(found) > 0, "nothing was found"
	})
}

// A probe is seen, tells all there is to know, and is no delivery.
func probeFindsAllWell(r *brokerRig) {
	e := r.probing(100)
	if e.session() != 1 {
		r.Fatal("there is no session")
	}
	if f := e.findings()[stomp.FindingLanes]; f.State != stomp.OK {
		r.Errorf("lanes: %+v", f)
	}
	if _, err := e.Depths(r.ctx); err != nil {
		r.Errorf("Depths: %v", err)
	}
	e.wantAllWell()
	e.quiet()
	r.eventually("every probe is acked", func() (bool, string) {
		d, err := e.Depths(r.ctx)
		if err != nil {
			r.Fatal(err)
		}
		for lane, depth := range d.Lanes {
			if depth.Size > 0 || e.InHand()[lane] > 0 {
				return false, fmt.Sprintf("%d in lane %d", depth.Size, lane)
			}
		}
		return true, ""
	})
}

// With four engines most probes come out at another than the one that waits for
// them.
func probesComeOutElsewhere(r *brokerRig) {
	var others []*engineSide
	for range 3 {
		o := r.open(nil)
		if o.session() != 1 {
			r.Fatal("there is no session")
		}
		others = append(others, o)
	}
	e := r.probing(100)
	if _, err := e.Receive(r.ctx); err != nil {
		r.Fatal(err)
	}
	if _, err := e.Depths(r.ctx); err != nil {
		r.Errorf("Depths: %v", err)
	}
	e.wantAllWell()
	for _, o := range others {
		o.quiet()
	}
}

// A probe behind a backlog comes late; until then what came out of the lane
// speaks for it.
func probeStandsBehindABacklog(r *brokerRig) {
	const window, n = 5, 50
	first := r.open(nil)
	first.publishMany(n, 2)
	first.stop()
	e := r.probing(window)
	got := e.receive(window)
	f := e.findings()[stomp.FindingLanes]
	if f.State != stomp.OK || !strings.Contains(f.Detail, "level 2 is behind a backlog") {
		r.Errorf("with a backlog: %+v", f)
	}
	for taken := len(got); ; taken += len(got) {
		e.ack(got...)
		if taken == n {
			break
		}
		batch, err := e.Receive(r.ctx)
		if err != nil {
			r.Fatal(err)
		}
		got = batch.Deliveries
	}
	r.eventually("the late probe counts", func() (bool, string) {
		f := e.findings()[stomp.FindingLanes]
		return f.State == stomp.OK && !strings.Contains(f.Detail, "backlog"), f.Detail
	})
}

// Dead letters are counted about once a second; a queue that is not there has none.
func depthsCountDeadLetters(r *brokerRig) {
	e := r.open(nil)
	if e.session() != 1 {
		r.Fatal("there is no session")
	}
	dead := func(n int) {
		r.Helper()
		r.eventually(fmt.Sprintf("%d dead letters", n), func() (bool, string) {
			d, err := e.Depths(r.ctx)
			if err != nil || d.Dead == nil {
				return false, fmt.Sprint(err)
			}
			return d.Dead.Size == n, fmt.Sprintf("%+v", *d.Dead)
		})
	}
	dead(0)
	if err := e.Publish(r.ctx, engine.Outgoing{Queue: engine.DeadQueue, Headers: map[string]string{engine.HeaderType: "test"}}); err != nil {
		r.Fatal(err)
	}
	dead(1)
}
