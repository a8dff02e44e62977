package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/handlers"
)

var (
	seeds     = flag.Uint64("seeds", 2000, "how many schedules are simulated, from -seed on")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first schedule that is simulated")
)

// TestSimulation runs engines on fakes whose calls fail before or after their effect,
// take long, or are the last that a process makes, each where its seed says. In the end
// nothing goes wrong any more, and every message has to have come to its end. A seed is
// run again with -seed N -seeds 1, and -count 20: its fates are the same, not the order
// in which goroutines meet them.
func TestSimulation(t *testing.T) {
	var kills, losses, again int
	for seed := *firstSeed; seed < *firstSeed+*seeds && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			w.run()
			w.check()
			kills, losses, again = kills+w.kills, losses+w.losses, again+w.again()
		})
	}
	t.Attr("measured", fmt.Sprintf("%d schedules, %d deaths of an engine, %d lost sessions; 0 lost, %d effects came again", *seeds, kills, losses, again))
}

// How often something goes wrong at each place, and how many engines may die less one:
// of three deaths the message that was there each time is poison.
const (
	diesAt  = 1.0 / 60
	failsAt = 1.0 / 20
	slowAt  = 1.0 / 20
	deaths  = 3
	badTime = time.Minute
)

// world is what outlives an engine.
type world struct {
	t      *testing.T
	seed   uint64
	calm   atomic.Bool // nothing goes wrong any more
	broker *enginetest.FakeBroker
	memory *enginetest.Memory
	ended  sync.WaitGroup // of all engines
	losses int            // of sessions

	mu      sync.Mutex
	nth     map[string]int    // how often a place was come to; guarded by mu, as the rest
	sent    map[string]string // types by id
	tries   map[string]int    // by id
	effects map[string]int    // by id
	kills   int
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, seed: seed, broker: enginetest.NewFakeBroker(), memory: enginetest.NewMemory(),
		nth: map[string]int{}, sent: map[string]string{}, tries: map[string]int{}, effects: map[string]int{},
	}
}

// simulatedType is a type, and how a message of it has to end.
type simulatedType struct {
	name string
	typ  engine.Type
	ends engine.State
}

// simulatedTypes are all of them.
func simulatedTypes() []simulatedType {
	return []simulatedType{
		{"ok", engine.Type{}, engine.Done},
		{"flaky", engine.Type{Attempts: 2, Backoff: time.Second, Redeliveries: []time.Duration{2 * time.Second, 8 * time.Second}}, engine.Done},
		{"bad", engine.Type{Attempts: 2, Backoff: time.Second, Redeliveries: []time.Duration{7 * time.Second}}, engine.Dead},
		{"late", engine.Type{Delay: 12 * time.Second}, engine.Done},
		{"parent", engine.Type{}, engine.Done},
		{"child", engine.Type{}, engine.Done},
		{"crashes", engine.Type{Backoff: time.Second}, engine.Done},
	}
}

const (
	flakyFails  = 3 // attempts of a flaky message
	badAttempts = 4
	badRound    = 2 // attempts, which an engine that dies forgets
)

// draw is a number from 0 to 1 that the seed decides for each time a place is come
// to, whatever else goes on.
func (w *world) draw(place string) float64 {
	w.mu.Lock()
	w.nth[place]++
	n := w.nth[place]
	w.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprint(h, w.seed, place, n)
	return rand.New(rand.NewPCG(h.Sum64(), w.seed)).Float64()
}

// drawTime is a time from 0 to most.
func (w *world) drawTime(place string, most time.Duration) time.Duration {
	return time.Duration(w.draw(place) * float64(most))
}

// run sends messages, lets engines live and die for a while, and then live until
// all is at its end.
func (w *world) run() {
	var producer sync.WaitGroup
	producer.Go(w.produce)
	bad := time.After(badTime)
	l := w.begin()
	lost := time.After(w.drawTime("lost", 2*badTime))
	for over := false; !over; {
		select {
		case <-l.dead.Done():
			l = w.succeed(l)
		case <-lost:
			w.losses++
			w.broker.Disconnect()
			pass(w.drawTime("away", 5*time.Second))
			if l.dead.Err() == nil {
				w.broker.Connect()
			}
			lost = time.After(w.drawTime("lost", 2*badTime))
		case <-bad:
			w.calm.Store(true)
			over = true
		}
	}
	if l.dead.Err() != nil {
		l = w.succeed(l)
	}
	producer.Wait()
	for range 360 {
		pass(10 * time.Second)
		synctest.Wait()
		if w.quiet() {
			break
		}
	}
	l.stop()
	w.ended.Wait()
	if err := w.broker.Close(); err != nil {
		w.t.Error(err)
	}
}

// produce sends one or two messages of each type, some of them twice.
func (w *world) produce() {
	for _, s := range simulatedTypes() {
		if s.name == "child" {
			continue
		}
		for n := range 2 {
			id := fmt.Sprintf("%s-%d", s.name, n)
			pass(w.drawTime("send", 4*time.Second))
			h := map[string]string{engine.HeaderID: id, engine.HeaderType: s.name, engine.HeaderPriority: fmt.Sprint(int(10 * w.draw("priority")))}
			if w.draw("delay") < 0.3 {
				h[engine.HeaderDelay] = fmt.Sprint(w.drawTime("delay", 20*time.Second).Milliseconds())
			}
			w.mu.Lock()
			w.sent[id] = s.name
			w.mu.Unlock()
			out := engine.Outgoing{Queue: engine.WorkQueue, Headers: h, Body: []byte(id)}
			w.broker.Send(out)
			if w.draw("twice") < 0.2 {
				pass(w.drawTime("twice", 2*time.Second))
				w.broker.Send(out)
			}
		}
	}
}

// quiet says whether nothing waits anywhere.
func (w *world) quiet() bool {
	if n := (&rig{broker: w.broker}).waiting(); n > 0 {
		return false
	}
	waits, err := w.memory.Waiting(context.Background(), engine.Waits{Limit: 1})
	return err == nil && len(waits) == 0 && w.broker.InHand() == 0
}

// check looks how each message ended, and what it did.
func (w *world) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	fail := func(format string, args ...any) { w.t.Errorf("seed %d: "+format, append([]any{w.seed}, args...)...) }
	types := simulatedTypes()
	dead := map[string][]string{}
	for _, out := range w.broker.Queue(engine.DeadQueue) {
		id := out.Headers[engine.HeaderID]
		dead[id] = append(dead[id], out.Headers[engine.HeaderDeadReason])
	}
	if len(w.sent) != 2*len(types) {
		fail("%d messages, follow-ons included; want %d: %v", len(w.sent), 2*len(types), w.sent)
	}
	for id, typ := range w.sent {
		want := types[slices.IndexFunc(types, func(s simulatedType) bool { return s.name == typ })].ends
		rec, err := w.memory.Record(context.Background(), id)
		if err != nil || rec.State != want {
			fail("%s is %q (%s), want %s: %v", id, rec.State, rec.Reason, want, err)
		}
		effects, tries := w.effects[id], w.tries[id]
		switch {
		case want == engine.Done && (effects < 1 || effects > 1+w.kills || len(dead[id]) > 0):
			fail("%s had %d effects and the dead letters %v; %d engines died", id, effects, dead[id], w.kills)
		case want == engine.Dead && (effects > 0 || tries < badAttempts || tries > badAttempts+badRound*w.kills || len(dead[id]) < 1 || slices.ContainsFunc(dead[id], func(r string) bool { return r != engine.ReasonExhausted })):
			fail("%s had %d effects, %d attempts and the dead letters %v; %d engines died", id, effects, tries, dead[id], w.kills)
		}
	}
	for id := range dead {
		if w.sent[id] == "" {
			fail("%s is dead, and nobody sent it", id)
		}
	}
	if !w.quiet() {
		fail("something waits still: %d in hand, %d scheduled, %d bodies", w.broker.InHand(), w.broker.Scheduled(), w.memory.Bodies())
	}
}

// again is how many effects came more than once.
func (w *world) again() (n int) {
	for _, effects := range w.effects {
		n += max(effects-1, 0)
	}
	return n
}

// life is one engine, from its start to its death, and all that it sees of the world.
type life struct {
	*world

	dead context.Context //nolint:containedctx // ends when the process dies
	die  context.CancelFunc
	stop context.CancelFunc // in an orderly way

	receiving sync.Mutex // held while the broker is asked for deliveries
}

// begin starts an engine with a session.
func (w *world) begin() *life {
	l := &life{world: w}
	l.dead, l.die = context.WithCancel(context.Background())
	cfg := engine.Config{
		Broker: l, Records: l, Bodies: l, Index: l, Holds: l, Handler: &inProcess{Handler: handlers.HandlerFunc(l.handle), credit: 1000, changed: make(chan struct{}, 1)},
		Log: zerolog.Nop(), Types: map[string]engine.Type{},
	}
	for _, s := range simulatedTypes() {
		cfg.Types[s.name] = s.typ
	}
	e, err := engine.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	var running context.Context
	running, l.stop = context.WithCancel(context.Background())
	w.broker.Connect()
	w.ended.Go(func() {
		if err := e.Run(running); err != nil {
			w.t.Errorf("seed %d: Run: %v", w.seed, err)
		}
		l.die()
	})
	return l
}

// succeed starts an engine after one that has died.
func (w *world) succeed(l *life) *life {
	l.received()
	w.broker.Disconnect()
	l.stop()
	pass(w.drawTime("restart", 3*time.Second))
	return w.begin()
}

var errDead = errors.New("the process is dead")

// at is a place between two steps: a process may die there, and a call may fail, or
// take long.
func (l *life) at(ctx context.Context, place string) error {
	if l.dead.Err() == nil && !l.calm.Load() {
		switch x := l.draw(place); {
		case x < diesAt && l.mayDie():
			l.die()
		case x < diesAt+failsAt:
			return enginetest.ErrInjected
		case x < diesAt+failsAt+slowAt:
			select {
			case <-time.After(l.drawTime("slow", 8*time.Second)):
			case <-ctx.Done():
				return ctx.Err()
			case <-l.dead.Done():
			}
		}
	}
	return l.alive(ctx)
}

// alive does not return in a process that is dead, until its engine has given up.
func (l *life) alive(ctx context.Context) error {
	if l.dead.Err() == nil {
		return nil
	}
	<-ctx.Done()
	return errDead
}

func (l *life) mayDie() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kills >= int(l.seed%deaths) {
		return false
	}
	l.kills++
	return true
}

// step makes a call, with a place before and one after it.
func (l *life) step(ctx context.Context, call, id string, f func() error) error {
	if err := l.at(ctx, call+" "+id); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return l.at(ctx, call+" "+id+", done")
}

// handle does what the type says.
func (l *life) handle(ctx context.Context, m *handlers.Message) error {
	select {
	case <-time.After(l.drawTime("handle "+m.ID, 3*time.Second)):
	case <-ctx.Done():
		return ctx.Err()
	case <-l.dead.Done():
		return l.alive(ctx)
	}
	l.mu.Lock()
	l.sent[m.ID] = m.Type
	l.tries[m.ID]++
	tries := l.tries[m.ID]
	fails := m.Type == "bad" || m.Type == "flaky" && tries <= flakyFails
	crashes := m.Type == "crashes" && tries == 1
	if !fails && !crashes {
		l.effects[m.ID]++
	}
	l.mu.Unlock()
	if l.draw("handled "+m.ID) < diesAt && !l.calm.Load() && l.mayDie() {
		l.die()
		return l.alive(ctx)
	}
	switch {
	case fails:
		return errors.New("it fails")
	case crashes:
		return fmt.Errorf("with it: %w", engine.ErrPluginLost)
	case m.Type == "parent":
		return m.Emit("child", m.Body)
	}
	return nil
}
