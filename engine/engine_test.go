package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/handlers"
)

// rig is an engine on fakes, inside a synctest bubble: its time passes only
// when everything waits.
type rig struct {
	t       *testing.T
	broker  *enginetest.FakeBroker
	records *enginetest.Memory
	faulty  *enginetest.FaultyRecords
	handler *inProcess
	board   *events
	engine  *engine.Engine
	stop    func()
}

// inProcess serves every type with one function, as one plugin.
type inProcess struct {
	handlers.Handler
	credit  int
	changed chan struct{}
	unknown map[string]bool
}

func (h *inProcess) Plugin(typ string) (string, bool) { return "test", !h.unknown[typ] }
func (h *inProcess) Credit(string) int                { return h.credit }
func (h *inProcess) Changed() <-chan struct{}         { return h.changed }

// events keeps what an engine told its observer and its watchers.
type events struct {
	mu     sync.Mutex
	all    []engine.Event
	status []engine.Status
}

func (e *events) Observe(ev engine.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) Notify(_ []engine.Watcher, s engine.Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = append(e.status, s)
}

// settled gives the outcomes of an id, in order.
func (e *events) settled(id string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var outcomes []string
	for _, ev := range e.all {
		if ev.Kind == engine.EventSettled && ev.ID == id {
			outcomes = append(outcomes, ev.Outcome)
		}
	}
	return outcomes
}

type option func(*engine.Config)

// run runs test against an engine whose handler is h.
func run(t *testing.T, h handlers.HandlerFunc, test func(r *rig), options ...option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{
			t: t, broker: enginetest.NewFakeBroker(), records: enginetest.NewMemory(), board: &events{},
			handler: &inProcess{Handler: h, credit: 1000, changed: make(chan struct{}, 1), unknown: map[string]bool{}},
		}
		r.faulty = &enginetest.FaultyRecords{Records: r.records}
		r.start(options...)
		test(r)
		r.stop()
		if err := r.broker.Close(); err != nil {
			t.Error(err)
		}
	})
}

// start starts an engine in a new session.
func (r *rig) start(options ...option) {
	r.broker.Connect()
	cfg := engine.Config{
		Broker: r.broker, Records: r.faulty, Bodies: r.records, Index: r.records, Holds: r.records, Handler: r.handler, Notifier: r.board, Observer: r.board, Log: zerolog.Nop(),
		Types: map[string]engine.Type{
			"a": {}, "b": {}, "late": {Delay: 10 * time.Second}, "quick": {Timeout: time.Second},
		},
	}
	for _, o := range options {
		o(&cfg)
	}
	e, err := engine.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.engine = e
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				r.t.Errorf("Run: %v", err)
			}
			r.broker.Disconnect() // as the end of the process would
		})
	}
}

// send sends one message; headers are name, value, name, value.
func (r *rig) send(id, typ string, headers ...string) {
	r.t.Helper()
	h := map[string]string{engine.HeaderID: id, engine.HeaderType: typ}
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	r.broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Headers: h, Body: []byte(`{"id":"` + id + `"}`)})
}

// pass lets the bubble's time pass.
func pass(d time.Duration) { <-time.After(d) }

// after lets time pass, and everything that can happen in it.
func (r *rig) after(d time.Duration) {
	pass(d)
	synctest.Wait()
}

func (r *rig) record(id string) engine.Record {
	r.t.Helper()
	rec, err := r.records.Record(context.Background(), id)
	if err != nil {
		r.t.Fatalf("record of %s: %v", id, err)
	}
	return rec
}

func (r *rig) wantState(id string, want engine.State) engine.Record {
	r.t.Helper()
	rec := r.record(id)
	if rec.State != want {
		r.t.Errorf("%s is %s, want %s", id, rec.State, want)
	}
	return rec
}

// wantEmpty checks that the broker has nothing left for the engine.
func (r *rig) wantEmpty() {
	r.t.Helper()
	r.wantEmptyHand()
	if n := r.waiting(); n != 0 {
		r.t.Errorf("%d messages wait in the broker, want 0", n)
	}
}

func (r *rig) wantEmptyHand() {
	r.t.Helper()
	if n := r.broker.InHand(); n != 0 {
		r.t.Errorf("%d deliveries are un-acked, want 0", n)
	}
}

// waiting counts what is in the broker and in nobody's hand.
func (r *rig) waiting() int {
	n := r.broker.Scheduled() + len(r.broker.Queue(engine.WorkQueue))
	for level := range engine.Levels {
		n += len(r.broker.Queue(engine.WorkQueue + ".p" + strconv.Itoa(level)))
	}
	return n
}

// wantDead checks that there is one dead letter of the id, with the reason.
func (r *rig) wantDead(id, reason string) engine.Outgoing {
	r.t.Helper()
	var found []engine.Outgoing
	for _, out := range r.broker.Queue(engine.DeadQueue) {
		if out.Headers[engine.HeaderID] == id {
			found = append(found, out)
		}
	}
	if len(found) != 1 {
		r.t.Fatalf("%d dead letters of %s, want 1", len(found), id)
	}
	if got := found[0].Headers[engine.HeaderDeadReason]; got != reason {
		r.t.Errorf("%s is dead for %q, want %q", id, got, reason)
	}
	return found[0]
}

func ok(context.Context, *handlers.Message) error { return nil }

func TestAMessageIsHandledOnceAndDone(t *testing.T) {
	var got []*handlers.Message
	run(t, func(_ context.Context, m *handlers.Message) error { got = append(got, m); return nil }, func(r *rig) {
		r.send("1", "a", engine.HeaderPriority, "7", "customer", "42")
		r.after(time.Second)
		if len(got) != 1 {
			t.Fatalf("handled %d times, want 1", len(got))
		}
		m := got[0]
		if m.ID != "1" || m.Type != "a" || m.Priority != 7 || m.Attempt != 1 || m.IdempotencyKey != "1" || string(m.Body) != `{"id":"1"}` || m.Headers["customer"] != "42" {
			t.Errorf("the handler got %+v", m)
		}
		if m.Headers[engine.HeaderID] != "" || m.Headers["destination"] != "" {
			t.Errorf("the handler sees headers that are not the producer's: %v", m.Headers)
		}
		rec := r.wantState("1", engine.Done)
		if rec.Attempts != 1 || rec.ExpiresAt.IsZero() {
			t.Errorf("record %+v", rec)
		}
		r.wantEmpty()
	})
}

func TestHighestLevelFirst(t *testing.T) {
	var order []int
	h := func(_ context.Context, m *handlers.Message) error {
		order = append(order, m.Priority)
		pass(time.Millisecond)
		return nil
	}
	run(t, h, func(r *rig) {
		r.stop() // fill the broker first
		for i := range 500 {
			r.send(strconv.Itoa(i), "a", engine.HeaderPriority, strconv.Itoa(rand.IntN(10)))
		}
		r.after(time.Second)
		r.start(func(c *engine.Config) { c.Slots = 1 })
		r.after(10 * time.Second)
		if len(order) != 500 {
			t.Fatalf("%d handled, want 500", len(order))
		}
		if !slices.IsSortedFunc(order, func(a, b int) int { return b - a }) {
			t.Errorf("levels were started in this order: %v", order)
		}
		r.wantEmpty()
	})
}

func TestATypesPriorityReplacesTheMessages(t *testing.T) {
	var order []string
	h := func(_ context.Context, m *handlers.Message) error {
		order = append(order, m.Type)
		pass(time.Millisecond)
		return nil
	}
	nine := 9
	run(t, h, func(r *rig) {
		r.stop()
		for i := range 20 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "5")
			r.send("b"+strconv.Itoa(i), "b", engine.HeaderPriority, "5")
		}
		r.start(func(c *engine.Config) { c.Slots = 1; c.Types["b"] = engine.Type{MinLevel: &nine, MaxLevel: &nine} })
		r.after(10 * time.Second)
		want := slices.Concat(slices.Repeat([]string{"b"}, 20), slices.Repeat([]string{"a"}, 20))
		if !slices.Equal(order, want) {
			t.Errorf("order %v", order)
		}
	})
}

func TestFailuresAreTriedAgainUntilExhausted(t *testing.T) {
	var attempts []int
	h := func(_ context.Context, m *handlers.Message) error {
		attempts = append(attempts, m.Attempt)
		return errors.New("boom\nwith a second line")
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(10 * time.Second)
		if !slices.Equal(attempts, []int{1, 2, 3}) {
			t.Errorf("attempts %v, want 1 2 3", attempts)
		}
		out := r.wantDead("1", engine.ReasonExhausted)
		want := map[string]string{
			engine.HeaderDeadDetail: "attempt 3 of 3: boom with a second line", engine.HeaderAttempts: "3",
			engine.HeaderOrigin: engine.WorkQueue, engine.HeaderHop: "1", engine.HeaderType: "a",
		}
		for name, value := range want {
			if out.Headers[name] != value {
				t.Errorf("dead letter header %s is %q, want %q", name, out.Headers[name], value)
			}
		}
		rec := r.wantState("1", engine.Dead)
		if rec.Reason != engine.ReasonExhausted || rec.Hop != 1 || rec.Attempts != 3 {
			t.Errorf("record %+v", rec)
		}
		r.wantEmpty()
	})
}

func TestALongRetryWaitsOutsideAndKeepsItsAttempts(t *testing.T) {
	var at []time.Time
	var attempts []int
	h := func(_ context.Context, m *handlers.Message) error {
		at, attempts = append(at, time.Now()), append(attempts, m.Attempt)
		if len(at) == 1 {
			return handlers.RetryAfter(time.Minute, errors.New("busy"))
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a", engine.HeaderPriority, "8")
		r.after(10 * time.Second)
		rec := r.wantState("1", engine.Retrying)
		if rec.DueBy != engine.ByRetry || r.broker.InHand() != 0 {
			t.Errorf("record %+v with %d un-acked; it must wait outside", rec, r.broker.InHand())
		}
		r.after(time.Minute)
		if len(at) != 2 || !slices.Equal(attempts, []int{1, 2}) {
			t.Fatalf("attempts %v", attempts)
		}
		if wait := at[1].Sub(at[0]); wait < time.Minute || wait > time.Minute+time.Second {
			t.Errorf("it waited %v, want a minute", wait)
		}
		r.wantState("1", engine.Done)
		r.wantEmpty()
	})
}

func TestDeferCountsNoAttempt(t *testing.T) {
	var attempts []int
	h := func(_ context.Context, m *handlers.Message) error {
		if attempts = append(attempts, m.Attempt); len(attempts) < 6 {
			return handlers.Defer(5 * time.Second)
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(time.Minute)
		if !slices.Equal(attempts, []int{1, 1, 1, 1, 1, 1}) {
			t.Errorf("attempts %v, want six times the first", attempts)
		}
		r.wantState("1", engine.Done)
	})
}

func TestDeferEndsByAge(t *testing.T) {
	h := func(context.Context, *handlers.Message) error { return handlers.Defer(10 * time.Minute) }
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(2 * time.Hour)
		r.wantDead("1", engine.ReasonExhausted)
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{MaxAge: time.Hour} })
}

func TestOutcomesThatEndAMessage(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		switch m.ID {
		case "permanent":
			return handlers.Permanent(errors.New("no"), "no_such_street")
		case "drop":
			return handlers.Drop()
		}
		return fmt.Errorf("plugin shop: %w", engine.ErrPluginLost)
	}
	run(t, h, func(r *rig) {
		for _, id := range []string{"permanent", "drop", "crash"} {
			r.send(id, "a")
		}
		r.after(20 * time.Second)
		r.wantDead("permanent", "permanent:no_such_street")
		r.wantDead("crash", engine.ReasonCrashedPlugin)
		r.wantState("drop", engine.Cancelled)
		r.wantEmpty()
	})
}

func TestAHandlerThatIgnoresItsTimeIsNotRunBesideItself(t *testing.T) {
	running, most := 0, 0
	h := func(context.Context, *handlers.Message) error {
		running++
		most = max(most, running)
		pass(5 * time.Second) // its time is one second
		running--
		return errors.New("late")
	}
	run(t, h, func(r *rig) {
		r.send("1", "quick")
		r.after(time.Minute)
		if most != 1 {
			t.Errorf("it ran %d times at once", most)
		}
		r.wantDead("1", engine.ReasonTimeout)
	})
}

func TestBadInputIsDeadLetteredOnceWithItsReason(t *testing.T) {
	tests := []struct {
		id, typ, reason string
		headers         []string
	}{
		{"no-type", "", engine.ReasonNoType, nil},
		{"unknown", "zebra", engine.ReasonUnknownType, nil},
		{"not-before", "a", engine.ReasonBadHeader, []string{engine.HeaderNotBefore, "tomorrow"}},
		{"never", "a", engine.ReasonBadHeader, []string{engine.HeaderNotBefore, "9999-12-31T23:59:59Z"}},
		{"delay", "a", engine.ReasonBadHeader, []string{engine.HeaderDelay, "soon"}},
		{"expired", "a", engine.ReasonExpired, []string{engine.HeaderExpiresAt, "1"}},
		{"large", "a", engine.ReasonTooLarge, []string{engine.HeaderTooLarge, "99999999"}},
	}
	for _, tt := range tests {
		t.Run(tt.reason+" "+tt.id, func(t *testing.T) {
			run(t, func(context.Context, *handlers.Message) error { t.Error("it ran"); return nil }, func(r *rig) {
				r.handler.unknown["zebra"] = true
				r.send(tt.id, tt.typ, tt.headers...)
				r.after(5 * time.Second)
				r.wantDead(tt.id, tt.reason)
				if rec := r.wantState(tt.id, engine.Dead); rec.Reason != tt.reason {
					t.Errorf("the record's reason is %q", rec.Reason)
				}
				r.wantEmpty()
			})
		})
	}
	t.Run("bad_id", func(t *testing.T) {
		run(t, func(context.Context, *handlers.Message) error { t.Error("it ran"); return nil }, func(r *rig) {
			r.send(strings.Repeat("x", 600), "a")
			r.after(5 * time.Second)
			dead := r.broker.Queue(engine.DeadQueue)
			if len(dead) != 1 || dead[0].Headers[engine.HeaderDeadReason] != engine.ReasonBadID {
				t.Fatalf("dead letters %v", dead)
			}
			r.wantEmpty()
		})
	})
}

func TestTheSameIDWithAnotherBodyIsAConflict(t *testing.T) {
	for _, wait := range []time.Duration{0, 5 * time.Second} {
		t.Run(wait.String()+" apart", func(t *testing.T) {
			var bodies []string
			h := func(_ context.Context, m *handlers.Message) error {
				bodies = append(bodies, string(m.Body))
				pass(time.Second)
				return nil
			}
			run(t, h, func(r *rig) {
				for _, body := range []string{"one", "two"} {
					r.broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderID: "1", engine.HeaderType: "a"}, Body: []byte(body)})
					r.after(wait)
				}
				r.after(10 * time.Second)
				if !slices.Equal(bodies, []string{"one"}) {
					t.Errorf("handled %v, want the first alone", bodies)
				}
				if dead := r.wantDead("1", engine.ReasonIDConflict); string(dead.Body) != "two" {
					t.Errorf("the dead letter's body is %q", dead.Body)
				}
				r.wantState("1", engine.Done)
				r.wantEmpty()
			})
		})
	}
}

func TestTheSameMessageTwiceHasOneEffect(t *testing.T) {
	for _, wait := range []time.Duration{0, 5 * time.Second} {
		t.Run(wait.String()+" apart", func(t *testing.T) {
			effects := 0
			h := func(context.Context, *handlers.Message) error { effects++; pass(time.Second); return nil }
			run(t, h, func(r *rig) {
				r.send("1", "a")
				r.after(wait)
				r.send("1", "a")
				r.after(10 * time.Second)
				if effects != 1 {
					t.Errorf("%d effects, want 1", effects)
				}
				if got := r.board.settled("1"); !slices.Equal(got, []string{engine.OutcomeDone, engine.OutcomeDuplicate}) {
					t.Errorf("settled %v", got)
				}
				r.wantEmpty()
			})
		})
	}
}

func TestFollowOnsAreSentOnlyByADoneMessage(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		if m.Type == "b" {
			return nil
		}
		if err := m.Emit("b", []byte(`{"from":"`+m.ID+`"}`)); err != nil {
			return err
		}
		if m.Attempt == 1 {
			return errors.New("not yet")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a", engine.HeaderPriority, "8")
		r.after(10 * time.Second)
		if p := r.broker.Published(); len(p) != 1 || p[0].Headers[engine.HeaderParent] != "1" || p[0].Headers[engine.HeaderPriority] != "8" {
			t.Errorf("published %v", p)
		}
		var done []string
		for _, ev := range r.board.all {
			if ev.Kind == engine.EventSettled {
				done = append(done, ev.Type+" "+ev.Outcome)
			}
		}
		slices.Sort(done) // the follow-on is sent first, and may be done first
		if !slices.Equal(done, []string{"a done", "b done"}) {
			t.Errorf("settled %v, want one of each", done)
		}
		r.wantEmpty()
	})
}

func TestAFollowOnThatMayNotBeSentDeadLettersItsMessage(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		return m.EmitFollowOn(handlers.FollowOn{Type: "b", Headers: map[string]string{"usher_hop": "7"}})
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(5 * time.Second)
		r.wantDead("1", engine.ReasonBadFollowOn)
	})
}
