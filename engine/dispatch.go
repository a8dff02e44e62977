package engine

import "time"

// dispatch starts messages, the highest level first, while there are slots:
// never one while a higher one is being looked up, or waits in a lane that is
// behind.
func (e *Engine) dispatch(now time.Time) {
	held := false
	if !e.draining && !e.storeDown && e.epoch > 0 && e.lanes.settled(now) {
		held = e.startReady(now)
	}
	if held && e.heldSince.IsZero() {
		e.heldSince = now
	}
	if !held && !e.heldSince.IsZero() {
		e.observe(Event{Kind: EventHeld, Wait: now.Sub(e.heldSince)})
		e.heldSince = time.Time{}
	}
}

// startReady says whether slots stay free although something is ready.
func (e *Engine) startReady(now time.Time) (held bool) {
	if e.runsAlone(now) {
		return false
	}
	floor := e.lanes.floor(now)
	may := func(k kind) bool { return e.mayStart(k, now) }
	for level := Levels - 1; level >= floor; level-- {
		if e.startsAlone(level, now) {
			return false
		}
		for e.hasSlot(level) {
			it := e.next(level, may)
			if it == nil {
				break
			}
			e.start(it, now)
		}
		if !e.hasSlot(level) || e.isComing(level, may) {
			return false
		}
	}
	return e.readyBelow(floor)
}

// next takes what is to start of a level, or of those below it when they have a
// start coming by their share.
func (e *Engine) next(level int, may func(kind) bool) *item {
	share := e.cfg.Share
	if e.owed >= 1 && e.ready.counts[level] > 0 && e.hasSlot(0) {
		if it := e.ready.popBelow(level, may); it != nil {
			e.owed--
			return it
		}
	}
	it := e.ready.pop(level, may)
	if it != nil && share > 0 && e.readyBelow(level) {
		e.owed = min(e.owed+share/(1-share), 2)
	}
	return it
}

func (e *Engine) readyBelow(level int) bool {
	for l := range level {
		if e.ready.counts[l] > 0 {
			return true
		}
	}
	return false
}

// mayStart says whether there is a process for one more of the kind and the type is
// within its limits.
func (e *Engine) mayStart(k kind, now time.Time) bool {
	return k.company != nobodyBeside && e.couldStart(k, now)
}

func (e *Engine) couldStart(k kind, now time.Time) bool {
	there := e.cfg.Handler.Credit(k.plugin) > e.byPlugin[k.plugin]
	if k.company == ownProcess {
		there = !e.apart[k.plugin]
	}
	return there && e.limits.may(k.typ, e.cfg.Types[k.typ], now)
}

// hasSlot says whether a message of the level can have a slot: some are kept for
// the top levels.
func (e *Engine) hasSlot(level int) bool {
	if e.busy >= e.cfg.Slots {
		return false
	}
	if e.cfg.Reserved == 0 || level >= e.cfg.ReservedFrom {
		return true
	}
	below := 0
	for l := range e.cfg.ReservedFrom {
		below += e.byLevel[l]
	}
	return below < e.cfg.Slots-e.cfg.Reserved
}

func (e *Engine) takeSlot(it *item, now time.Time) {
	e.busy++
	switch it.kind().company {
	case ownProcess:
		e.apart[it.plugin] = true
	case nobodyBeside:
		e.alone = alone{it: it, until: now.Add(aloneFor)}
		e.byPlugin[it.plugin]++
	case anybody, probing:
		e.byPlugin[it.plugin]++
	}
	e.byLevel[it.level]++
	e.limits.started(it.msg.typ, it.typ, now)
}

func (e *Engine) freeSlot(it *item) {
	e.busy--
	if it.kind().company == ownProcess {
		delete(e.apart, it.plugin)
	} else {
		e.byPlugin[it.plugin]--
	}
	e.wasTried(it)
	if e.alone.it == it {
		e.alone = alone{}
	}
	e.byLevel[it.level]--
	e.limits.freed(it.msg.typ)
}

// untilRate is how long until a type's rate lets one of its messages start that
// is ready; at most most.
func (e *Engine) untilRate(now time.Time, most time.Duration) time.Duration {
	for level, n := range e.ready.counts {
		if n == 0 {
			continue
		}
		for k, f := range e.ready.levels[level] {
			if wait := e.limits.wait(k.typ, e.cfg.Types[k.typ], now); wait > 0 && len(f.items) > 0 {
				most = min(most, wait)
			}
		}
	}
	return most
}

// shed lets go of what types beyond their limits, and plugins that are away, keep
// of the windows: nothing has more than half a lane's window unstarted while the
// broker has more for that lane. It is parked until its turn comes, each message
// in its own place, as fast as the type is run.
func (e *Engine) shed(now time.Time) {
	e.limits.measure(now)
	if e.draining || e.storeDown {
		return
	}
	e.parkHeld()
	stays := func(k kind) bool {
		return k.company != anybody || e.mayStart(k, now) || !e.limits.speeds[k.typ].known()
	}
	for level := range e.ready.levels {
		if !e.lanes.crowded(level) {
			continue
		}
		keep := max(e.cfg.Window/2, 1)
		for _, it := range e.ready.overfull(level, keep, stays) {
			wait := e.limits.turn(it.msg.typ, keep, e.cfg.ParkAfter, now)
			e.settle(it, decision{action: actDefer, wait: wait, outcome: OutcomeLimited})
		}
	}
	e.handOn(now)
}

// handOn sends back what has had no slot here for a while, for another engine, if
// there is one and the broker has nothing else for it in that lane. As many as there
// are slots stay: they are next.
func (e *Engine) handOn(now time.Time) {
	if e.engines.Load() < 2 {
		return
	}
	for level := range e.ready.levels {
		if e.ready.counts[level] <= e.cfg.Slots || !e.lanes.empty(level, now) {
			continue
		}
		for _, it := range e.ready.stale(level, e.cfg.Slots, now.Add(-handOnAfter)) {
			e.settle(it, decision{action: actDefer, outcome: OutcomeHandedOn})
		}
	}
}
