// Package crash has a process die, as of kill -9, before or after one call of its stores
// or its broker: at the boundaries between the steps that last. Only a binary that is
// built with the tag crashpoints has it, for tests.
package crash

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"usher/engine"
)

// Calls are those that a process can die at.
func Calls() []string {
	return []string{"LookUp", "Gate", "Claim", "Write", "Keep", "Kept", "Drop", "Unpark", "SetLeases", "Publish", "Ack", "Put", "Settle"}
}

// Point is where a process dies: before or after the nth call. The nil Point is
// nowhere. Its methods are safe for concurrent use.
type Point struct {
	call  string
	after bool
	nth   int64
	made  atomic.Int64
}

// Parse reads a point: Write,after,3 is after the third write. "" is nowhere.
func Parse(text string) (*Point, error) {
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) == 3 && (parts[1] == "before" || parts[1] == "after") {
		if nth, err := strconv.ParseInt(parts[2], 10, 64); err == nil && nth > 0 {
			return &Point{call: parts[0], after: parts[1] == "after", nth: nth}, nil
		}
	}
	return nil, fmt.Errorf("%q is no point to die at: want one such as Write,after,3", text)
}

// around makes a call, if the process does not die before it, or else after it.
func (p *Point) around(call string, f func() error) error {
	dies := p != nil && p.call == call && p.made.Add(1) == p.nth
	if dies && !p.after {
		die()
	}
	err := f()
	if dies {
		die()
	}
	return err
}

// die does not return.
func die() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// Broker is one whose Publish and Ack the process may die at.
type Broker struct {
	engine.Broker

	Point *Point
}

// Publish may be the last that the process does.
func (b Broker) Publish(ctx context.Context, out engine.Outgoing) error {
	return b.Point.around("Publish", func() error { return b.Broker.Publish(ctx, out) })
}

// Ack may be the last that the process does.
func (b Broker) Ack(d engine.Delivery) error {
	return b.Point.around("Ack", func() error { return b.Broker.Ack(d) })
}

// Store is all that a process keeps.
type Store interface {
	table
	parking
	engine.Archive
	io.Closer
}

type table interface {
	engine.Records
	engine.Table
	engine.Schedule
}

type parking interface {
	engine.Bodies
	engine.DueIndex
	engine.HoldStore
}

// Stores are those at whose calls a process may die, each of which may be the last that
// it does.
type Stores struct {
	Store

	Point *Point
}

// LookUp is that of [engine.Records].
func (s Stores) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	return one(s.Point, "LookUp", func() (engine.Found, error) { return s.Store.LookUp(ctx, ids) })
}

// Gate is that of [engine.Records].
func (s Stores) Gate(ctx context.Context, g engine.Gate) (engine.Record, error) {
	return one(s.Point, "Gate", func() (engine.Record, error) { return s.Store.Gate(ctx, g) })
}

// Claim is that of [engine.Records].
func (s Stores) Claim(ctx context.Context, c engine.Claim) (engine.Record, error) {
	return one(s.Point, "Claim", func() (engine.Record, error) { return s.Store.Claim(ctx, c) })
}

// Write is that of [engine.Records].
func (s Stores) Write(ctx context.Context, c engine.Change) (engine.Record, error) {
	return one(s.Point, "Write", func() (engine.Record, error) { return s.Store.Write(ctx, c) })
}

// Kept is that of [engine.Bodies].
func (s Stores) Kept(ctx context.Context, id string, hop int) (engine.Parked, error) {
	return one(s.Point, "Kept", func() (engine.Parked, error) { return s.Store.Kept(ctx, id, hop) })
}

// Unpark is that of [engine.DueIndex].
func (s Stores) Unpark(ctx context.Context, u engine.Unpark) (engine.Record, error) {
	return one(s.Point, "Unpark", func() (engine.Record, error) { return s.Store.Unpark(ctx, u) })
}

// Settle is that of [engine.Archive].
func (s Stores) Settle(ctx context.Context, c engine.LetterChange) (engine.DeadLetter, error) {
	return one(s.Point, "Settle", func() (engine.DeadLetter, error) { return s.Store.Settle(ctx, c) })
}

// Keep is that of [engine.Bodies].
func (s Stores) Keep(ctx context.Context, id string, hop int, p engine.Parked) error {
	return s.Point.around("Keep", func() error { return s.Store.Keep(ctx, id, hop, p) })
}

// Drop is that of [engine.Bodies].
func (s Stores) Drop(ctx context.Context, id string, hop int) error {
	return s.Point.around("Drop", func() error { return s.Store.Drop(ctx, id, hop) })
}

// SetLeases is that of [engine.DueIndex].
func (s Stores) SetLeases(ctx context.Context, l engine.Leases) error {
	return s.Point.around("SetLeases", func() error { return s.Store.SetLeases(ctx, l) })
}

// Put is that of [engine.Archive].
func (s Stores) Put(ctx context.Context, l engine.DeadLetter, c engine.Content) (kept engine.DeadLetter, added bool, err error) {
	err = s.Point.around("Put", func() (err error) {
		kept, added, err = s.Store.Put(ctx, l, c)
		return err
	})
	return kept, added, err
}

// one makes a call that answers with something.
func one[T any](p *Point, call string, f func() (T, error)) (answer T, err error) {
	err = p.around(call, func() (err error) {
		answer, err = f()
		return err
	})
	return answer, err
}
