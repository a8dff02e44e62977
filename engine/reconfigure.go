package engine

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// Reconfigure changes the configuration while messages flow. change is given a copy
// of it; when what it made is valid, with, if it is not nil, changes what goes with
// it, such as the plugins; then the new one holds. An error of either leaves all as
// it was. Both are called in the engine's loop and must not block. Types, slots and
// what is said of waiting and draining can be changed, the rest not. What runs goes
// on as it began; what is ready is ordered anew; a type that is gone is held, so
// that its messages wait for it to come back. Before Run and after it, Reconfigure
// is an error.
func (e *Engine) Reconfigure(change func(*Config), with func() error) error {
	err := errors.New("engine: it does not run")
	e.ask(func() { err = e.reconfigure(change, with) })
	return err
}

func (e *Engine) reconfigure(change func(*Config), with func() error) error {
	next := e.cfg
	change(&next)
	next = next.withDefaults()
	if next.Queue != e.cfg.Queue || next.Window != e.cfg.Window || next.MaxBody != e.cfg.MaxBody {
		return errors.New("engine: Queue, Window and MaxBody cannot be changed while it runs")
	}
	if err := next.validate(); err != nil {
		return err
	}
	if with != nil {
		if err := with(); err != nil {
			return err
		}
	}
	now := time.Now()
	for typ := range e.cfg.Types {
		if _, stays := next.Types[typ]; !stays {
			e.removed[typ] = now
		}
	}
	for typ := range next.Types {
		delete(e.removed, typ)
	}
	e.takeOver(next)
	again := e.ready.takeIf(func(kind) bool { return true })
	slices.SortFunc(again, func(a, b *item) int { return cmp.Compare(a.readySeq, b.readySeq) })
	e.held(e.holds)
	for _, it := range again {
		e.makeReady(it)
	}
	return nil
}

// takeOver changes what may change while the engine runs. The other fields are read
// beside the loop.
func (e *Engine) takeOver(next Config) {
	c := &e.cfg
	c.Slots, c.Reserved, c.ReservedFrom, c.Share = next.Slots, next.Reserved, next.ReservedFrom, next.Share
	c.Drain, c.ParkAfter, c.UnknownTypeWait, c.Types = next.Drain, next.ParkAfter, next.UnknownTypeWait, next.Types
}

// follow brings what is known of an item's type up to date.
func (e *Engine) follow(it *item) {
	it.typ = e.cfg.Types[it.msg.typ]
	it.plugin = ""
	if plugin, served := e.cfg.Handler.Plugin(it.msg.typ); served {
		it.plugin = plugin
	}
	it.level = e.levelOf(it.msg)
}
