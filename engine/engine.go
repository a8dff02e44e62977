package engine

import (
	"container/heap"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Engine takes messages from a broker and runs them. New makes one; Run works
// until its context ends. The methods other than Run are safe for concurrent use.
type Engine struct {
	cfg      Config
	instance string // begins every token of this engine
	tokens   atomic.Uint64

	handling context.Context // of handlers; ends when the time to drain is over
	storing  context.Context // of records and broker; ends a grace later

	started chan struct{} // closed when Run has begun
	calls   chan func()   // for the loop to do
	stopped chan struct{} // closed when the loop has ended
	work    sync.WaitGroup

	// The rest is the loop's.
	epoch    uint64
	lanes    lanes
	hand     map[string]*item // by id
	unseen   []*item
	lookUps  int                  // under way
	coming   [Levels]map[kind]int // of a backlog, being looked up
	waiting  waitHeap
	ready    readyQueue
	busy     int             // slots taken
	byLevel  [Levels]int     // of them, by level
	byPlugin map[string]int  // of them, in its process
	apart    map[string]bool // plugins of which one has a message in a process of its own
	alone    alone
	limits   limits
	shedAt   time.Time
	owed     float64 // starts that lower levels have coming by their share
	settling int
	tried    map[string]tries // by id
	share    map[shareKey]int // items that wait here
	draining bool

	holds    Holds                          // as they were last read
	removed  map[string]time.Time           // types that a new configuration removed, until that is written
	engines  atomic.Int64                   // that are there, this one included, as the releaser has seen last
	probes   map[string]*item               // by plugin: what it is tried with
	breakers map[string]*breaker            // by type, of those whose attempts fail
	free     atomic.Pointer[map[string]int] // how many of a type that was held may start, for the releaser

	storeDown  bool
	retryStore time.Time
	depthAsked time.Time
	asking     bool
	heldSince  time.Time
}

// shareKey counts what waits in memory of one type and lane.
type shareKey struct {
	lane int
	typ  string
}

// ErrStopping is the cause with which handlers are cancelled when the time to
// drain is over.
var ErrStopping = errors.New("the engine stops")

// New checks the configuration and makes an engine of it. The error names all
// that is wrong.
func New(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, instance: rand.Text()[:12],
		started: make(chan struct{}), calls: make(chan func()), stopped: make(chan struct{}),
		hand: map[string]*item{}, byPlugin: map[string]int{}, apart: map[string]bool{}, probes: map[string]*item{}, breakers: map[string]*breaker{}, share: map[shareKey]int{}, tried: map[string]tries{}, removed: map[string]time.Time{},
		lanes: newLanes(cfg.Window), limits: newLimits(),
	}
	for i := range e.coming {
		e.coming[i] = map[kind]int{}
	}
	return e, nil
}

// Run works until ctx ends. Then it starts nothing new, lets what runs finish
// for at most Config.Drain, gives back what it has claimed, and returns nil.
// An error means that the broker is closed for good. Run is called once.
func (e *Engine) Run(ctx context.Context) error {
	var stopHandling, stopStoring context.CancelCauseFunc
	e.handling, stopHandling = context.WithCancelCause(context.WithoutCancel(ctx))
	e.storing, stopStoring = context.WithCancelCause(context.WithoutCancel(ctx))
	close(e.started)
	intake, stopIntake := context.WithCancel(ctx)
	defer stopIntake()

	e.spawn(func() { e.newReleaser().run(intake) })
	e.spawn(func() { e.followHolds(intake) })
	e.spawn(func() { e.followNudges(intake) })
	received := make(chan error, 1)
	e.spawn(func() { received <- e.receiveAll(intake) })

	err := e.loop(ctx, received)
	stopIntake()
	e.drain(stopHandling)
	close(e.stopped)
	stopHandling(ErrStopping)
	stopStoring(ErrStopping)
	e.work.Wait()
	return err
}

func (e *Engine) newReleaser() *releaser {
	return &releaser{
		owner: e.instance, queue: e.cfg.Queue, broker: e.cfg.Broker, bodies: e.cfg.Bodies, index: e.cfg.Index,
		free: &e.free, engines: &e.engines, log: e.cfg.Log, observe: e.observe,
	}
}

// loop does what it is given, one thing after another, until ctx ends.
func (e *Engine) loop(ctx context.Context, received <-chan error) error {
	tick := time.NewTimer(depthEvery)
	defer tick.Stop()
	for {
		select {
		case f := <-e.calls:
			f()
			e.doWaitingCalls()
		case <-e.cfg.Handler.Changed():
		case <-tick.C:
		case err := <-received:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("engine: the broker gives no more messages: %w", err)
		case <-ctx.Done():
			return nil
		}
		now := time.Now()
		e.wake(now)
		e.dispatch(now)
		if now.Sub(e.shedAt) >= shedEvery {
			e.shedAt = now
			e.shed(now)
		}
		e.lookUp()
		tick.Reset(e.pause(now))
	}
}

// doWaitingCalls does what else is there, so that dispatch sees it all; bounded,
// so that dispatch is not put off.
func (e *Engine) doWaitingCalls() {
	for range 256 {
		select {
		case f := <-e.calls:
			f()
		default:
			return
		}
	}
}

// pause is how long the loop may sleep; it also keeps the depths fresh.
func (e *Engine) pause(now time.Time) time.Duration {
	every := depthEvery
	held := !e.heldSince.IsZero()
	if held {
		every = depthHurry // slots idle for order's sake: find out whether they must
	}
	if !e.asking && e.epoch > 0 && now.Sub(e.depthAsked) >= every {
		e.askDepths(now)
	}
	wait := depthEvery
	if held || !e.lanes.settled(now) {
		wait = depthHurry
	}
	if len(e.waiting) > 0 {
		wait = min(wait, e.waiting[0].wakeAt.Sub(now))
	}
	wait = e.untilRate(now, wait)
	if e.storeDown && len(e.unseen) > 0 && e.lookUps == 0 {
		wait = min(wait, e.retryStore.Sub(now))
	}
	return max(wait, 0)
}

// askDepths asks the broker how much waits. An answer about another session than
// the one that is here when it comes says nothing.
func (e *Engine) askDepths(now time.Time) {
	e.asking, e.lanes.asking, e.depthAsked = true, true, now
	asked := e.epoch
	e.spawn(func() {
		ctx, cancel := context.WithTimeout(e.storing, depthTimeout)
		defer cancel()
		depths, err := e.cfg.Broker.Depths(ctx)
		e.do(func() {
			e.asking = false
			if e.epoch == asked && (err != nil || depths.Epoch == asked) {
				e.lanes.told(depths, err)
			}
		})
	})
}

// do has the loop call f and returns at once, or when the loop has taken it.
// After the loop has ended it does nothing.
func (e *Engine) do(f func()) {
	select {
	case e.calls <- f:
	case <-e.stopped:
	}
}

// ask has the loop call f and waits for it; false if the loop has not begun or
// has ended.
func (e *Engine) ask(f func()) bool {
	select {
	case <-e.started:
	default:
		return false
	}
	done := make(chan struct{})
	e.do(func() { f(); close(done) })
	select {
	case <-done:
		return true
	case <-e.stopped:
		return false
	}
}

// spawn runs f beside the loop; Run does not return before it has ended.
func (e *Engine) spawn(f func()) {
	e.work.Go(f)
}

// drain lets what runs finish, gives claims back, and returns when nothing of
// ours is under way any more, or the grace after the drain is over.
func (e *Engine) drain(stopHandling context.CancelCauseFunc) {
	e.draining = true
	for _, it := range e.hand {
		if it.stage != running && it.stage != settling && it.token != "" {
			e.handBack(it)
		}
	}
	handlers := time.NewTimer(e.cfg.Drain)
	defer handlers.Stop()
	settle := time.NewTimer(e.cfg.Drain + settleGrace)
	defer settle.Stop()
	for e.busy > 0 || e.settling > 0 {
		select {
		case f := <-e.calls:
			f()
		case <-handlers.C:
			e.cfg.Log.Warn().Int("running", e.busy).Msg("the time to drain is over: handlers are cancelled, their messages will be delivered again")
			stopHandling(ErrStopping)
		case <-settle.C:
			if e.busy == 0 {
				return // what is not written is un-acked, and comes again
			}
			settle.Reset(settleGrace) // a handler does not obey: its host ends it
		}
	}
}

// token is unique to one write or claim.
func (e *Engine) token() string {
	return e.instance + "-" + strconv.FormatUint(e.tokens.Add(1), 10)
}

// wake lets what has waited here go on: to its next attempt, or, if it waited for
// something else, to be looked at again.
func (e *Engine) wake(now time.Time) {
	for len(e.waiting) > 0 && !e.waiting[0].wakeAt.After(now) {
		it := e.waiting[0]
		e.stopWaiting(it)
		if !it.again {
			e.enqueueLookUp(it)
			continue
		}
		it.again = false
		e.makeReady(it)
	}
}

func (e *Engine) startWaiting(it *item, until time.Time) {
	it.stage, it.wakeAt = waiting, until
	heap.Push(&e.waiting, it)
	e.share[shareKey{it.delivery.Lane, it.msg.typ}]++
}

func (e *Engine) stopWaiting(it *item) {
	e.waiting.remove(it)
	key := shareKey{it.delivery.Lane, it.msg.typ}
	if e.share[key]--; e.share[key] <= 0 {
		delete(e.share, key)
	}
}

// mayWait says whether one more message like it may wait here: no type holds
// more than a tenth of a lane's window.
func (e *Engine) mayWait(it *item) bool {
	return e.share[shareKey{it.delivery.Lane, it.msg.typ}] < max(e.cfg.Window/10, 1)
}

// View is a look at the engine as it is now.
type View struct {
	Epoch     uint64         // of the session; 0: none
	Ready     [Levels]int    // messages that may run, by level
	Running   [Levels]int    // messages that have a slot, by level
	ByPlugin  map[string]int // the same, by plugin
	InHand    int            // messages delivered and not settled
	ByType    map[string]TypeView
	Floor     int // the lowest level that may be taken now
	StoreDown bool
	Draining  bool
}

// TypeView is a look at one type that the engine runs.
type TypeView struct {
	Plugin         string
	Ready, Running int
	// Held says that its messages wait until something ends: see [Hold], [Holder] and
	// Type.Breaker.
	Held bool
	// Failing is since when its breaker is open, zero if it is not, and Detail is why
	// the last attempt failed.
	Failing time.Time
	Detail  string
}

// View looks at the engine; false if it does not run.
func (e *Engine) View() (View, bool) {
	var v View
	ok := e.ask(func() {
		v = View{
			Epoch: e.epoch, Ready: e.ready.counts, InHand: len(e.hand), Running: e.byLevel, ByPlugin: map[string]int{},
			Floor: e.lanes.floor(time.Now()), StoreDown: e.storeDown, Draining: e.draining,
		}
		v.ByType = e.byType()
		for plugin, n := range e.byPlugin {
			if n > 0 {
				v.ByPlugin[plugin] = n
			}
		}
	})
	return v, ok
}

// InHand gives the last status of a message that this engine has in hand;
// false if it has not.
func (e *Engine) InHand(id string) (Status, bool) {
	var s Status
	var found bool
	e.ask(func() {
		if it := e.hand[id]; it != nil {
			found = true
			if s = it.last; s.ID == "" {
				s = it.status(Queued, time.Now())
			}
		}
	})
	return s, found
}
