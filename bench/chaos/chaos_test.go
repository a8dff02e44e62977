package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/enginetest/dynafault"
	"usher/engine/enginetest/faultproxy"
	"usher/engine/enginetest/ledger"
)

var (
	rounds = flag.Int("rounds", 20, "how many blows are struck; all kinds come before one comes again")
	seed   = flag.Uint64("seed", 0, "what decides which blow is struck where and when; 0: any, which is printed")
	outage = flag.Duration("outage", 2*time.Second, "for how long the broker is stopped, and tables are gone")
)

// blow is one thing that happens to a working system.
type blow struct {
	name   string
	strike func(r *rig, random *rand.Rand)
}

// blows are all that may happen to it: to its engines, to the broker, on the way there,
// and to the tables.
func (r *rig) blows() []blow {
	all := ofEngines()
	if r.broker != nil {
		all = append(all, ofBrokers()...)
	}
	if r.tables != nil {
		all = append(all, ofTables()...)
	}
	return all
}

func ofEngines() []blow {
	return []blow{
		{"kill -9 of an engine", func(r *rig, random *rand.Rand) {
			e := r.oneOf(random)
			e.kill()
			pause(time.Duration(random.Int64N(int64(500 * time.Millisecond))))
			e.start()
		}},
		{"kill -9 of each engine in turn", func(r *rig, _ *rand.Rand) {
			for _, e := range r.mortal {
				e.kill()
				e.start()
				e.ready()
			}
		}},
		{"an engine ends in an orderly way", func(r *rig, random *rand.Rand) {
			e := r.oneOf(random)
			e.stop()
			e.start()
		}},
		{"an engine is told to end, and killed before it has", func(r *rig, random *rand.Rand) {
			e := r.oneOf(random)
			e.signal(syscall.SIGTERM)
			pause(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
			e.killIfThere()
			e.start()
		}},
		{"an engine hangs for a while", func(r *rig, random *rand.Rand) {
			e := r.oneOf(random)
			e.signal(syscall.SIGSTOP)
			pause(4 * time.Second) // longer than the broker waits for a sign of life
			e.signal(syscall.SIGCONT)
		}},
		{"kill -9 of a plugin", func(r *rig, random *rand.Rand) {
			r.oneOf(random).killPlugin()
		}},
	}
}

func ofBrokers() []blow {
	all := []blow{
		{"the broker hangs for a while", func(r *rig, _ *rand.Rand) {
			for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
				if err := syscall.Kill(r.broker.PID(), s); err != nil {
					r.t.Fatal(err)
				}
				pause(4 * time.Second)
			}
		}},
		{"kill -9 of the broker", func(r *rig, _ *rand.Rand) {
			r.broker.Kill(r.t)
			r.broker.Run(r.t)
		}},
		{"the broker is stopped for a while", func(r *rig, _ *rand.Rand) {
			r.broker.Stop(r.t)
			pause(*outage)
			r.broker.Run(r.t)
		}},
		{"the network is lost for a while", func(r *rig, random *rand.Rand) {
			p := r.proxies[random.IntN(len(r.proxies))]
			p.Hold()
			pause(3 * time.Second) // longer than either side waits for a sign of life
			p.Release()
		}},
		{"connections are cut, and new ones refused for a while", func(r *rig, random *rand.Rand) {
			p := r.proxies[random.IntN(len(r.proxies))]
			p.Refuse(true)
			p.Cut(random.IntN(2) == 0)
			pause(time.Second)
			p.Refuse(false)
		}},
	}
	for _, command := range []string{frame.SEND, frame.RECEIPT, frame.MESSAGE, frame.ACK} {
		all = append(all, blow{"a connection is cut at " + command, func(r *rig, random *rand.Rand) { r.cut(random, command) }})
	}
	return all
}

func ofTables() []blow {
	const aWhile = 3 * time.Second
	fault := func(name string, f dynafault.Faults, long time.Duration) blow {
		return blow{name, func(r *rig, _ *rand.Rand) {
			r.tables.Set(f)
			pause(long)
			r.tables.Set(dynafault.Faults{})
		}}
	}
	return []blow{
		fault("the tables are gone for a while", dynafault.Faults{Gone: true}, *outage),
		fault("the tables refuse half of all requests for a while", dynafault.Faults{Throttle: 0.5}, aWhile),
		fault("each third answer of the tables is lost for a while", dynafault.Faults{LoseEach: 3}, aWhile),
		fault("the tables are slow for a while", dynafault.Faults{Delay: 500 * time.Millisecond}, aWhile),
	}
}

// deal gives one blow after the other: all come before one comes again.
func (r *rig) deal(random *rand.Rand) func() blow {
	var deck []blow
	return func() blow {
		if len(deck) == 0 {
			deck = r.blows()
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		top := deck[0]
		deck = deck[1:]
		return top
	}
}

// suffers strikes a blow after a moment of work, and waits until all is well again.
func (r *rig) suffers(round int, b blow, random *rand.Rand) {
	r.t.Helper()
	pause(200*time.Millisecond + time.Duration(random.Int64N(int64(500*time.Millisecond))))
	began := time.Now()
	b.strike(r, random)
	struck := time.Since(began)
	r.ready()
	r.t.Logf("round %d: %s; struck in %v, ready after %v more", round, b.name, struck.Round(time.Millisecond), (time.Since(began) - struck).Round(time.Millisecond))
}

// oneOf is one of the engines that blows may hit.
func (r *rig) oneOf(random *rand.Rand) *process { return r.mortal[random.IntN(len(r.mortal))] }

// actions are how a connection may be cut.
var actions = map[faultproxy.Action]string{
	faultproxy.CutBefore: "before the frame", faultproxy.CutInside: "inside the frame",
	faultproxy.CutAfter: "after the frame", faultproxy.HoldBack: "a while after it was held back",
}

// cut ends a connection of an engine at the nth frame of a kind.
func (r *rig) cut(random *rand.Rand, command string) {
	r.t.Helper()
	f := faultproxy.Fault{
		Command: command, Nth: 1 + random.IntN(20), Action: faultproxy.Action(random.IntN(len(actions))), Reset: random.IntN(2) == 0,
	}
	engine := random.IntN(len(r.proxies))
	r.t.Logf("at %s number %d of engine %s: %s; reset %t", command, f.Nth, r.engines[engine].name, actions[f.Action], f.Reset)
	p := r.proxies[engine]
	defer p.Release()
	armed := p.Arm(f)
	select {
	case <-armed.Struck():
	case <-time.After(20 * time.Second):
		r.t.Errorf("no such frame came")
		p.Disarm()
	}
	if f.Action == faultproxy.HoldBack {
		pause(time.Second)
		p.Cut(f.Reset)
	}
}

// TestNothingIsLostWhateverIsKilled strikes blows under load, and closes the books: on
// ActiveMQ, with two engines that share a file.
func TestNothingIsLostWhateverIsKilled(t *testing.T) { strike(t, newRig(t)) }

// TestNothingIsLostOnTablesWhateverIsKilled is the same for engines that share tables.
func TestNothingIsLostOnTablesWhateverIsKilled(t *testing.T) { strike(t, newRigOnTables(t)) }

// TestNothingIsLostInOneProcessWhateverIsKilled is the same for the engine that has
// broker and table inside.
func TestNothingIsLostInOneProcessWhateverIsKilled(t *testing.T) { strike(t, newPair(t)) }

func strike(t *testing.T, r *rig) {
	t.Helper()
	if *seed == 0 {
		*seed = rand.Uint64N(1_000_000) + 1
	}
	t.Logf("%d rounds, -seed %d", *rounds, *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	r.start()
	table := r.openRecords()
	l, stop := r.load(ledger.Config{Kinds: ledger.Shop(), Every: r.pace, Seed: *seed}, 4)
	next := r.deal(random)
	for n := range *rounds {
		r.suffers(n+1, next(), random)
	}
	stop()
	r.settled(l, table)
	a := closed(t, r, l, table, fmt.Sprintf("%d blows", *rounds))
	if a.Acknowledged < 10**rounds {
		t.Errorf("acknowledged %d, want at least %d", a.Acknowledged, 10**rounds)
	}
	// What runs in all engines when the blow falls may run again, and what was
	// sent without an answer may be there twice.
	if most := *rounds*slots*len(r.engines) + a.Unanswered; a.Duplicated > most {
		t.Errorf("%d came twice, want at most the %d that were in flight", a.Duplicated, most)
	}
}
