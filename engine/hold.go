package engine

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"
)

// Hold is why messages of a type do not run although they are due: they are
// parked, each under its type, until nothing holds it any more. Zero times are
// "not held for that".
type Hold struct {
	// Paused is when an operator paused the type.
	Paused time.Time
	// Removed is when a new configuration had no entry for it. Engines that do have
	// one run it.
	Removed time.Time
}

// Holds are the types that are held, by name, for all engines, and whether or not
// any runs.
type Holds struct {
	Version int
	Types   map[string]Hold
}

// HoldStore keeps the holds. The same rules hold as for [Bodies].
type HoldStore interface {
	// Holds reads them, never stale; the zero Holds if there never were any. What
	// it returns is the caller's.
	Holds(ctx context.Context) (Holds, error)
	// SetHolds replaces them if they still have the Version given, and adds one to
	// it. ErrGuarded if somebody else was first.
	SetHolds(ctx context.Context, h Holds) error
}

// with is the holds after a change of one; the receiver is left as it is.
func (h Holds) with(typ string, change func(*Hold)) Holds {
	next := Holds{Version: h.Version, Types: maps.Clone(h.Types)}
	if next.Types == nil {
		next.Types = map[string]Hold{}
	}
	hold := next.Types[typ]
	change(&hold)
	next.Types[typ] = hold
	if hold == (Hold{}) {
		delete(next.Types, typ)
	}
	return next
}

// Pause holds a type in an operator's name. Engines follow within [BindsWithin].
func Pause(ctx context.Context, s HoldStore, typ string, now time.Time) error {
	return changeHolds(ctx, s, func(h Holds) Holds {
		return h.with(typ, func(hold *Hold) { hold.Paused = orTime(hold.Paused, toMillis(now)) })
	})
}

// Resume ends what Pause began.
func Resume(ctx context.Context, s HoldStore, typ string) error {
	return changeHolds(ctx, s, func(h Holds) Holds {
		return h.with(typ, func(hold *Hold) { hold.Paused = time.Time{} })
	})
}

// changeHolds tries until nobody else was first.
func changeHolds(ctx context.Context, s HoldStore, change func(Holds) Holds) error {
	for {
		h, err := s.Holds(ctx)
		if err != nil {
			return err
		}
		next := change(h)
		if maps.Equal(next.Types, h.Types) {
			return nil
		}
		if err := s.SetHolds(ctx, next); !errors.Is(err, ErrGuarded) {
			return err
		}
	}
}

// heldPrefix begins the buckets of what is held; the type follows.
const heldPrefix = "held/"

// HeldBucket is where messages of a type are parked while it is held.
func HeldBucket(typ string) string { return heldPrefix + typ }

// Held says whether the message is parked until its type is held no more,
// whenever it is due.
func (r Record) Held() bool { return strings.HasPrefix(r.Bucket, heldPrefix) }

// onHold says whether messages of the kind may not start here. Those that try their
// plugin, or run in a process of their own, do not wait for it.
func (e *Engine) onHold(k kind) bool {
	if e.isHeld(k.typ) {
		return true
	}
	hold, _ := e.heldToBeTried(k.typ)
	return hold && k.company != ownProcess && k.company != probing
}

// isHeld says whether an operator, or a configuration, has the type wait.
func (e *Engine) isHeld(typ string) bool {
	hold := e.holds.Types[typ]
	_, known := e.cfg.Types[typ]
	return !hold.Paused.IsZero() || !known && !hold.Removed.IsZero()
}

// heldByPlugin says whether the type's plugin has it wait, and if so whether it takes
// one message to be tried with.
func (e *Engine) heldByPlugin(typ string) (hold, probe bool) {
	h, can := e.cfg.Handler.(Holder)
	if !can {
		return false, false
	}
	hold, probe = h.Holds(typ)
	plugin, _ := e.cfg.Handler.Plugin(typ)
	return hold, hold && probe && e.probes[plugin] == nil
}

// heldToBeTried says whether the type's plugin, or its breaker, has it wait, and if so
// whether one message is to be tried.
func (e *Engine) heldToBeTried(typ string) (hold, probe bool) {
	hold, probe = e.heldByPlugin(typ)
	if b := e.breakers[typ]; b.open() {
		return true, b.mayTry(time.Now()) && (probe || !hold)
	}
	return hold, probe
}

// waits says whether a message is on hold, unless its plugin or its type is to be tried
// with it.
func (e *Engine) waits(it *item) bool {
	if !e.onHold(it.kind()) {
		return false
	}
	if _, probe := e.heldToBeTried(it.msg.typ); !probe || e.isHeld(it.msg.typ) {
		return true
	}
	it.probe = true
	if hold, _ := e.heldByPlugin(it.msg.typ); hold {
		e.probes[it.plugin] = it
	}
	if b := e.breakers[it.msg.typ]; b.open() {
		b.tried = it
	}
	return false
}

// wasTried notes that a message that its plugin, or its type, was tried with has run,
// or never will.
func (e *Engine) wasTried(it *item) {
	if !it.probe {
		return
	}
	it.probe = false
	if e.probes[it.plugin] == it {
		delete(e.probes, it.plugin)
	}
	if b := e.breakers[it.msg.typ]; b != nil && b.tried == it {
		b.tried = nil
	}
}

// held follows the holds as they are kept.
func (e *Engine) held(holds Holds) {
	for typ, hold := range e.removed { // what is not written yet
		holds = holds.with(typ, func(h *Hold) { h.Removed = hold })
	}
	e.holds = holds
	e.parkHeld()
}

// parkHeld parks what is ready and may not start, and tells the releaser what may.
func (e *Engine) parkHeld() {
	if e.draining || e.storeDown {
		return
	}
	for _, it := range e.ready.takeIf(e.onHold) {
		e.park(it)
	}
	free := map[string]int{}
	for typ := range e.cfg.Types {
		_, probe := e.heldToBeTried(typ)
		switch {
		case !e.onHold(kind{typ: typ}):
			free[typ] = heldRate
		case probe && !e.isHeld(typ):
			free[typ] = 1
		}
	}
	e.free.Store(&free)
}

// park has a message wait until its type is held no more.
func (e *Engine) park(it *item) {
	e.settle(it, decision{action: actDefer, wait: MaxStep, outcome: OutcomeHeld})
}

// holdsEvery is how often the holds are read.
const holdsEvery = time.Second

// followHolds reads the holds until ctx ends, writes what a new configuration
// removed, and ends what it has again.
func (e *Engine) followHolds(ctx context.Context) {
	tick := time.NewTicker(holdsEvery)
	defer tick.Stop()
	for failing := false; ; {
		holds, err := e.syncHolds(ctx)
		switch {
		case err == nil:
			failing = false
			e.do(func() { e.held(holds) })
		case !failing && ctx.Err() == nil:
			failing = true
			e.cfg.Log.Error().Err(err).Msg("which types are held cannot be read; it is tried again, until then it is as it was")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// syncHolds reads the holds, after bringing them up to date with the types that
// are there and those that were.
func (e *Engine) syncHolds(ctx context.Context) (holds Holds, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var removed map[string]time.Time
	var types map[string]Type
	e.ask(func() { removed, types = maps.Clone(e.removed), e.cfg.Types })
	holds, err = e.cfg.Holds.Holds(ctx)
	if err != nil {
		return holds, err
	}
	next := holds
	for typ, since := range removed {
		next = next.with(typ, func(h *Hold) { h.Removed = orTime(h.Removed, toMillis(since)) })
	}
	for typ := range holds.Types {
		if _, there := types[typ]; there {
			next = next.with(typ, func(h *Hold) { h.Removed = time.Time{} })
		}
	}
	if !maps.Equal(next.Types, holds.Types) {
		if err = e.cfg.Holds.SetHolds(ctx, next); errors.Is(err, ErrGuarded) {
			return holds, nil // somebody else was first; the next time
		}
	}
	if err == nil && len(removed) > 0 {
		e.ask(func() {
			for typ := range removed {
				delete(e.removed, typ)
			}
		})
	}
	return next, err
}

// byType looks at all types.
func (e *Engine) byType() map[string]TypeView {
	all := make(map[string]TypeView, len(e.cfg.Types))
	for typ := range e.cfg.Types {
		plugin, _ := e.cfg.Handler.Plugin(typ)
		v := TypeView{Plugin: plugin, Running: e.limits.running[typ], Held: e.onHold(kind{typ: typ})}
		if b := e.breakers[typ]; b.open() {
			v.Failing, v.Detail = b.since, b.detail
		}
		all[typ] = v
	}
	for _, level := range e.ready.levels {
		for k, f := range level {
			if v, known := all[k.typ]; known {
				v.Ready += len(f.items)
				all[k.typ] = v
			}
		}
	}
	return all
}
