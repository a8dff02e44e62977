package enginetest

import (
	"context"
	"errors"
	"sync"

	"usher/engine"
)

// ErrInjected is what a call fails with on demand.
var ErrInjected = errors.New("enginetest: this call was told to fail")

var errClosed = errors.New("enginetest: closed")

// Call names a method that can be told to fail.
type Call string

// The calls of FaultyRecords and FaultyArchive, and Publish of a FakeBroker.
const (
	CallLookUp  Call = "LookUp"
	CallGate    Call = "Gate"
	CallClaim   Call = "Claim"
	CallWrite   Call = "Write"
	CallPublish Call = "Publish"
	CallPut     Call = "Put"
)

// When says on which side of its effect a call fails.
type When int

// The sides.
const (
	Before When = iota // nothing was done
	After              // it was done, and the answer was lost
)

// Faults says which calls fail. The zero Faults lets all through. It is safe
// for concurrent use.
type Faults struct {
	mu    sync.Mutex
	calls map[Call]*fault // guarded by mu
}

// fault is what happens to the calls of one method.
type fault struct {
	made int // calls until now
	nth  map[int]When
	all  *When
	held chan struct{} // closed when the calls may go on
}

// FailNth makes the nth call from now on fail; 1 is the next one.
func (f *Faults) FailNth(c Call, n int, when When) {
	f.with(c, func(f *fault) { f.nth[f.made+n] = when })
}

// FailAll makes every call fail until Heal.
func (f *Faults) FailAll(c Call, when When) {
	f.with(c, func(f *fault) { f.all = &when })
}

// Heal lets every later call of the method through.
func (f *Faults) Heal(c Call) {
	f.with(c, func(f *fault) { f.all, f.nth = nil, map[int]When{} })
}

// Hold makes calls wait before they do anything, until release is called or
// their context ends. release is idempotent.
func (f *Faults) Hold(c Call) (release func()) {
	held := make(chan struct{})
	f.with(c, func(f *fault) { f.held = held })
	return sync.OnceFunc(func() {
		close(held)
		f.with(c, func(f *fault) {
			if f.held == held {
				f.held = nil
			}
		})
	})
}

// Made is how often the method was called.
func (f *Faults) Made(c Call) (n int) {
	f.with(c, func(f *fault) { n = f.made })
	return n
}

func (f *Faults) with(c Call, do func(*fault)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = map[Call]*fault{}
	}
	if f.calls[c] == nil {
		f.calls[c] = &fault{nth: map[int]When{}}
	}
	do(f.calls[c])
}

// around makes one call of the method, with what was asked to go wrong.
func (f *Faults) around(ctx context.Context, c Call, call func() error) error {
	var held chan struct{}
	var when *When
	f.with(c, func(f *fault) {
		f.made++
		held, when = f.held, f.all
		if nth, ok := f.nth[f.made]; ok {
			when = &nth
		}
	})
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if when != nil && *when == Before {
		return ErrInjected
	}
	err := call()
	if when != nil {
		return ErrInjected
	}
	return err
}

// FaultyRecords is a record table whose calls fail on demand: see Faults. It is
// safe for concurrent use if Records is.
type FaultyRecords struct {
	Records engine.Records
	Faults
}

var _ engine.Records = (*FaultyRecords)(nil)

// LookUp calls Records.LookUp.
func (f *FaultyRecords) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	return aroundValue(ctx, f, CallLookUp, func() (engine.Found, error) { return f.Records.LookUp(ctx, ids) })
}

// Gate calls Records.Gate.
func (f *FaultyRecords) Gate(ctx context.Context, g engine.Gate) (engine.Record, error) {
	return aroundValue(ctx, f, CallGate, func() (engine.Record, error) { return f.Records.Gate(ctx, g) })
}

// Claim calls Records.Claim.
func (f *FaultyRecords) Claim(ctx context.Context, c engine.Claim) (engine.Record, error) {
	return aroundValue(ctx, f, CallClaim, func() (engine.Record, error) { return f.Records.Claim(ctx, c) })
}

// Write calls Records.Write.
func (f *FaultyRecords) Write(ctx context.Context, c engine.Change) (engine.Record, error) {
	return aroundValue(ctx, f, CallWrite, func() (engine.Record, error) { return f.Records.Write(ctx, c) })
}

// FaultyArchive is an archive whose Put fails on demand: see Faults. It is safe for
// concurrent use if Archive is.
type FaultyArchive struct {
	engine.Archive
	Faults
}

// Put calls Archive.Put.
func (f *FaultyArchive) Put(ctx context.Context, l engine.DeadLetter, c engine.Content) (kept engine.DeadLetter, added bool, err error) {
	err = f.around(ctx, CallPut, func() (err error) {
		kept, added, err = f.Archive.Put(ctx, l, c)
		return err
	})
	if errors.Is(err, ErrInjected) {
		return engine.DeadLetter{}, false, err
	}
	return kept, added, err
}

// aroundValue gives no value with an injected error: the answer was lost.
func aroundValue[T any](ctx context.Context, f *FaultyRecords, c Call, call func() (T, error)) (T, error) {
	var v T
	err := f.around(ctx, c, func() (err error) {
		v, err = call()
		return err
	})
	if errors.Is(err, ErrInjected) {
		var none T
		return none, err
	}
	return v, err
}
