package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"
)

// Config is what an Engine is built from. Broker, Records, Bodies, Index, Holds
// and Handler are required; the rest has defaults.
type Config struct {
	Broker   Broker
	Records  Records
	Bodies   Bodies   // of what is parked
	Index    DueIndex // of what is parked
	Holds    HoldStore
	Handler  Handler
	Notifier Notifier // nil: nobody is told
	Observer Observer // nil: nobody observes
	Control  Control  // nil: other engines are not told, and tell nothing
	Log      zerolog.Logger

	// Queue is where copies go back to. Default WorkQueue.
	Queue string
	// Slots is how many messages run at once, in all plugins together. Default 32.
	Slots int
	// Reserved is how many of the slots only levels from ReservedFrom up may have.
	// Default 0.
	Reserved, ReservedFrom int
	// Share is the part of all starts, 0 to 0.5, that levels below the highest get
	// although higher ones wait. Default 0: strictly by level.
	Share float64
	// Window is how many un-acked messages the broker gives us of each lane; it
	// must be the Broker's own. Default 100.
	Window int
	// MaxBody is the longest body that is run, in bytes. Default 1 MiB.
	MaxBody int
	// Drain is how long Run lets handlers finish after its context ended. Default 10 s.
	Drain time.Duration
	// Types says how each type is run. A type without an entry is unknown.
	Types map[string]Type
	// ParkAfter is the longest wait that is left to the broker's scheduler; what
	// waits longer is parked. Default 5 s.
	ParkAfter time.Duration
	// UnknownTypeWait is how long a message of an unknown type waits before it
	// is dead-lettered. Default 0: it is at once.
	UnknownTypeWait time.Duration
}

// Type is how messages of one type are run.
type Type struct {
	// MinLevel and MaxLevel bound the level by which a message is ordered, whatever
	// its priority; nil: there is no bound. Equal ones fix it.
	MinLevel, MaxLevel *int
	// Concurrency is how many messages of the type run at once in this engine.
	// Default 0: as many as there are slots.
	Concurrency int
	// Rate is how many are started a second in this engine, evenly. Default 0: as
	// many as there are.
	Rate float64
	// Timeout is how long one attempt may take. Default 30 s.
	Timeout time.Duration
	// Attempts is how often it is tried in one round. Default 3.
	Attempts int
	// Redeliveries are the waits before further rounds, each of as many attempts:
	// the second tier. Up to a tenth is added to each, at random. Default none.
	Redeliveries []time.Duration
	// Backoff is the bound of the first wait between attempts; it doubles, to
	// at most MaxShortWait. Default 200 ms.
	Backoff time.Duration
	// Delay is how long each message waits before its first attempt. Default 0.
	Delay time.Duration
	// Bypass is the lowest level whose messages do not wait for Delay; nil: all do.
	Bypass *int
	// MaxAge is how old a message may get by being deferred. Default 24 h.
	MaxAge time.Duration
	// Breaker is how many attempts in a row, of whatever messages, must fail for its
	// messages to wait while one at a time is tried. Default 0: they never do.
	Breaker int
	// Dedupe is what becomes of a message that is sent again. Default DedupeDone.
	Dedupe Dedupe
}

// Dedupe is what becomes of a message that has the id, type and body of another one.
type Dedupe string

const (
	// DedupeDone acks it once the other one is finished. Two engines that get both
	// at once may run both, with the same idempotency key.
	DedupeDone Dedupe = "done"
	// DedupeClaim does the same, and every message is claimed before it starts, which
	// costs a record write: of two engines that get both at once one runs it.
	DedupeClaim Dedupe = "claim"
	// DedupeOff runs it: every message that a producer sends is known by the id that
	// the broker gave it, also to its handler, whatever the producer called it.
	DedupeOff Dedupe = "off"
)

// Defaults of Config and Type.
const (
	DefaultSlots    = 32
	DefaultWindow   = 100
	DefaultMaxBody  = 1 << 20
	DefaultDrain    = 10 * time.Second
	DefaultPark     = 5 * time.Second
	DefaultTimeout  = 30 * time.Second
	DefaultAttempts = 3
	DefaultBackoff  = 200 * time.Millisecond
	DefaultMaxAge   = 24 * time.Hour
)

// Times that are part of the design, not settings.
const (
	// MaxShortWait is the longest time a message waits in memory, un-acked.
	MaxShortWait = 2 * time.Second
	// MaxStep is the longest time a copy spends in the broker's scheduler that is
	// too large to be parked; a longer wait takes several steps, and an operator's
	// change binds with the next.
	MaxStep = 5 * time.Minute
	// lookUpAge is how old a look-up may be when its message is picked.
	lookUpAge = 5 * time.Second
	// firstLease is how long a claim holds unless it is renewed, which is done
	// until its message is settled. Each renewal doubles it, up to claimLease: what
	// a dead engine had claimed waits in proportion to how long it had run, and what
	// runs for long does not cost a write every moment.
	firstLease = 1500 * time.Millisecond
	claimLease = 10 * time.Second
	// FinalTTL is how long the store remembers a finished message.
	FinalTTL = 7 * 24 * time.Hour
	// handOnAfter is how long a message is ready without a slot before it is sent back
	// for another engine.
	handOnAfter = 5 * time.Second
	// awayWait is how long a message waits that found no plugin process.
	awayWait = 100 * time.Millisecond
	// storeTimeout is how long one call of the record table may take.
	storeTimeout = 5 * time.Second
	// depthTimeout is how long the broker may take to tell how much waits.
	depthTimeout = 10 * time.Second
	// maxTried is of how many messages the attempts are remembered that a lost
	// session took out of our hands.
	maxTried = 10_000
	// maxCrashes is how many plugin crashes a message may be in hand at: before the
	// last it runs in a process of its own, so that no other is to blame.
	maxCrashes = 3
	// maxDeaths is how many engines may die in a row while they run a message alone.
	maxDeaths = 3
	// aloneFor is how long a message that runs alone keeps all others waiting, and for
	// how long at first they wait so that it can begin; quietMost is how long at the most.
	aloneFor  = 5 * time.Second
	quietMost = 5 * time.Minute
	// aloneLease bounds the lease of what runs alone, so that the last renewal before
	// it does so no more comes late.
	aloneLease = 4 * time.Second
	// lookUpBatch is how many ids one look-up asks for at the most.
	lookUpBatch = 100
	// lookUpsAtOnce is how many look-ups are under way at the most.
	lookUpsAtOnce = 4
	// settleGrace is how long, after the drain, records and broker may still
	// take for what has run.
	settleGrace = 5 * time.Second
)

func (c Config) withDefaults() Config {
	c.Queue = orDefault(c.Queue, WorkQueue)
	c.Slots = orDefault(c.Slots, DefaultSlots)
	c.Window = orDefault(c.Window, DefaultWindow)
	c.MaxBody = orDefault(c.MaxBody, DefaultMaxBody)
	c.Drain = orDefault(c.Drain, DefaultDrain)
	c.ParkAfter = orDefault(c.ParkAfter, DefaultPark)
	types := make(map[string]Type, len(c.Types))
	for name, t := range c.Types {
		t.Timeout = orDefault(t.Timeout, DefaultTimeout)
		t.Attempts = orDefault(t.Attempts, DefaultAttempts)
		t.Backoff = orDefault(t.Backoff, DefaultBackoff)
		t.MaxAge = orDefault(t.MaxAge, DefaultMaxAge)
		t.Dedupe = orDefault(t.Dedupe, DedupeDone)
		types[name] = t
	}
	c.Types = types
	if c.Notifier == nil {
		c.Notifier = nobody{}
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	return c
}

// validate reports all that is wrong at once.
func (c Config) validate() error {
	var errs []error
	if c.Broker == nil || c.Records == nil || c.Bodies == nil || c.Index == nil || c.Holds == nil || c.Handler == nil {
		errs = append(errs, errors.New("engine: Broker, Records, Bodies, Index, Holds and Handler are required"))
	}
	if min(c.Slots, c.Window, c.MaxBody) < 1 || min(c.Drain, c.ParkAfter, c.UnknownTypeWait) < 0 {
		errs = append(errs, errors.New("engine: Slots, Window and MaxBody must be positive, Drain, ParkAfter and UnknownTypeWait not negative"))
	}
	if c.Reserved < 0 || c.Reserved >= c.Slots && c.Reserved > 0 || c.ReservedFrom < 0 || c.ReservedFrom >= Levels || c.Share < 0 || c.Share > 0.5 {
		errs = append(errs, errors.New("engine: Reserved must be less than Slots, ReservedFrom a level, and Share 0 to 0.5"))
	}
	for name, t := range c.Types {
		if err := t.validate(); err != nil {
			errs = append(errs, fmt.Errorf("engine: type %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (t Type) validate() error {
	var errs []error
	low, high, bypass := level(t.MinLevel, 0), level(t.MaxLevel, Levels-1), level(t.Bypass, 0)
	if low < 0 || high >= Levels || low > high || bypass < 0 || bypass >= Levels {
		errs = append(errs, fmt.Errorf("levels %d to %d, bypass from %d: they must be within 0 to 9", low, high, bypass))
	}
	if slices.Min([]time.Duration{t.Timeout, t.Backoff, t.Delay, t.MaxAge}) < 0 || t.Attempts < 0 || t.Concurrency < 0 || t.Rate < 0 {
		errs = append(errs, errors.New("times and counts must not be negative"))
	}
	if slices.ContainsFunc(t.Redeliveries, func(d time.Duration) bool { return d <= 0 }) {
		errs = append(errs, errors.New("the waits before redeliveries must be positive"))
	}
	if !slices.Contains([]Dedupe{"", DedupeDone, DedupeClaim, DedupeOff}, t.Dedupe) {
		errs = append(errs, fmt.Errorf("Dedupe %q: it must be done, claim or off", t.Dedupe))
	}
	return errors.Join(errs...)
}

func level(bound *int, none int) int {
	if bound == nil {
		return none
	}
	return *bound
}

// delayAt is how long a message of the level waits by the type's rule.
func (t Type) delayAt(level int) time.Duration {
	if t.Bypass != nil && level >= *t.Bypass {
		return 0
	}
	return t.Delay
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// nobody is told and observes nothing.
type nobody struct{}

func (nobody) Notify([]Watcher, Status) {}
func (nobody) Observe(Event)            {}
