package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// diedWith leaves what engines leave that die with a message in hand, one after the
// other: claims that nobody ends. The last of them was made alone, and all before it.
func (r *rig) diedWith(id, typ string, engines int, alone bool) {
	r.t.Helper()
	digest := engine.DigestOf([]byte(`{"id":"` + id + `"}`))
	for i := range engines {
		now := time.Now()
		_, err := r.records.Claim(context.Background(), engine.Claim{
			ID: id, Type: typ, Digest: digest, Priority: engine.DefaultLevel, Now: now,
			Mark: engine.ClaimMark{Token: fmt.Sprintf("dead%d-1", i), BrokerID: "before", Until: now.Add(time.Second), Alone: alone},
		})
		if err != nil {
			r.t.Fatal(err)
		}
		pass(2 * time.Second)
	}
}

// company notes beside how many others each message ran.
type company struct {
	*gauge
	beside map[string]int
}

func (c *company) handle(_ context.Context, m *handlers.Message) error {
	c.mu.Lock()
	c.now[m.Type]++
	c.mu.Unlock()
	for range 10 {
		c.mu.Lock()
		others := -1
		for _, n := range c.now {
			others += n
		}
		c.beside[m.ID] = max(c.beside[m.ID], others)
		c.mu.Unlock()
		pass(c.work / 10)
	}
	c.mu.Lock()
	c.now[m.Type]--
	c.ran[m.Type]++
	c.mu.Unlock()
	return nil
}

func newCompany(work time.Duration) *company { return &company{newGauge(work), map[string]int{}} }

func TestAMessageThatAnEngineDiedWithRunsAlone(t *testing.T) {
	c := newCompany(100 * time.Millisecond)
	run(t, c.handle, func(r *rig) {
		r.diedWith("suspect", "a", 1, false)
		for i := range 100 {
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.send("suspect", "a")
		for i := range 100 {
			r.send("c"+strconv.Itoa(i), "b")
		}
		r.after(20 * time.Second)
		if c.beside["suspect"] != 0 || c.count("a") != 1 {
			t.Errorf("it ran %d times, beside %d others; want once, alone", c.count("a"), c.beside["suspect"])
		}
		if c.count("b") != 200 || c.beside["b50"] == 0 {
			t.Errorf("%d of the others ran, one of them beside %d; want all 200, together", c.count("b"), c.beside["b50"])
		}
		if rec := r.wantState("suspect", engine.Done); rec.Deaths != 0 {
			t.Errorf("its record has %d deaths after it was done", rec.Deaths)
		}
		r.wantEmpty()
	})
}

func TestWhatRunsAloneKeepsTheOthersWaitingForAShortTimeOnly(t *testing.T) {
	c := newCompany(time.Minute)
	h := func(ctx context.Context, m *handlers.Message) error {
		if m.Type == "a" {
			return c.handle(ctx, m)
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.diedWith("suspect", "a", 1, false)
		r.send("suspect", "a")
		r.after(3 * time.Second)
		if rec := r.record("suspect"); !rec.Claim.Alone {
			t.Errorf("the claim of what runs alone is %+v", rec.Claim)
		}
		r.send("other", "b", engine.HeaderPriority, "9")
		r.after(time.Second)
		r.wantState("suspect", engine.Processing)
		if n := len(r.board.settled("other")); n != 0 {
			t.Error("another one ran beside it within its first seconds")
		}
		r.after(3 * time.Second)
		r.wantState("other", engine.Done)
		if rec := r.wantState("suspect", engine.Processing); rec.Claim.Alone {
			t.Errorf("the claim is %+v although others run; a death would be blamed on it", rec.Claim)
		}
		r.after(time.Minute)
		r.wantState("suspect", engine.Done)
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour} })
}

func TestWhatRunsForLongIsNotWaitedForByAllTheOthersForEver(t *testing.T) {
	c := newCompany(time.Minute)
	h := func(ctx context.Context, m *handlers.Message) error {
		if m.Type == "a" {
			return c.handle(ctx, m)
		}
		pass(10 * time.Millisecond)
		return nil
	}
	run(t, h, func(r *rig) {
		r.diedWith("suspect", "b", 1, false)
		r.send("long", "a")
		r.after(time.Second)
		r.send("suspect", "b")
		r.after(time.Second)
		r.send("other", "b")
		r.after(2 * time.Second)
		if n := len(r.board.settled("other")); n != 0 {
			t.Error("another one was started while it was to become quiet")
		}
		r.after(5 * time.Second)
		r.wantState("other", engine.Done)
		r.wantState("suspect", engine.Processing)
		r.after(2 * time.Minute)
		r.wantState("long", engine.Done)
		r.wantState("suspect", engine.Done)
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour} })
}

func TestThreeDeathsAloneArePoison(t *testing.T) {
	g := newGauge(time.Millisecond)
	run(t, g.handle, func(r *rig) {
		r.diedWith("two", "a", 2, true) // one death is counted, one is found
		r.diedWith("three", "b", 3, true)
		r.send("two", "a")
		r.send("three", "b")
		r.after(10 * time.Second)
		r.wantState("two", engine.Done)
		if letter := r.wantDead("three", engine.ReasonPoison); letter.Headers[engine.HeaderDeadDetail] != "3 engines died one after the other while they ran it alone" {
			t.Errorf("the letter says %q", letter.Headers[engine.HeaderDeadDetail])
		}
		if g.count("a") != 1 || g.count("b") != 0 {
			t.Errorf("they ran %d and %d times, want 1 and 0", g.count("a"), g.count("b"))
		}
		r.wantEmpty()
	})
}

func TestADrainIsNoDeath(t *testing.T) {
	stopped := false
	h := func(ctx context.Context, _ *handlers.Message) error {
		if stopped {
			return nil
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	run(t, h, func(r *rig) {
		r.diedWith("suspect", "a", 2, true)
		r.send("suspect", "a")
		r.after(time.Second)
		r.stop()
		if rec := r.wantState("suspect", engine.Queued); rec.Deaths != 2 || rec.Claim.Token != "" {
			t.Errorf("the record is %+v; want the two deaths before it, and no claim", rec)
		}
		stopped = true
		r.start()
		r.after(5 * time.Second)
		r.wantState("suspect", engine.Done)
		r.wantEmpty()
	})
}

// prober is a plugin with a process apart.
type prober struct {
	*inProcess
	away  atomic.Bool
	apart []string
	alone handlers.HandlerFunc
}

func (p *prober) Credit(plugin string) int {
	if p.away.Load() {
		return 0
	}
	return p.inProcess.Credit(plugin)
}

func (p *prober) HandleAlone(ctx context.Context, m *handlers.Message) error {
	p.apart = append(p.apart, m.ID)
	return p.alone(ctx, m)
}

func TestAMessageThatTwoCrashesHadInHandRunsApart(t *testing.T) {
	lost := fmt.Errorf("plugin shop: %w: it said: out of memory", engine.ErrPluginLost)
	var tries atomic.Int64
	h := func(_ context.Context, m *handlers.Message) error {
		pass(10 * time.Millisecond)
		if tries.Add(1) <= 4 { // two crashes, two in hand
			return lost
		}
		return nil
	}
	p := &prober{alone: func(_ context.Context, m *handlers.Message) error {
		pass(time.Second)
		if m.ID == "guilty" {
			return lost
		}
		return nil
	}}
	run(t, h, func(r *rig) {
		p.inProcess = r.handler
		r.stop()
		r.start(func(c *engine.Config) { c.Handler = p })
		r.send("innocent", "a")
		r.send("guilty", "a")
		r.after(500 * time.Millisecond)
		p.away.Store(true) // the plugin is away; its other process is not
		r.after(5 * time.Second)
		if len(p.apart) != 2 {
			t.Errorf("%v ran apart, want both", p.apart)
		}
		r.wantState("innocent", engine.Done)
		letter := r.wantDead("guilty", engine.ReasonCrashedPlugin)
		if letter.Headers[engine.HeaderDeadDetail] != lost.Error() || letter.Headers[engine.HeaderAttempts] != "0" {
			t.Errorf("the letter is %v; want the plugin's last words and no attempt", letter.Headers)
		}
		r.wantEmpty()
	})
}

func TestCrashesAreCountedOverAPause(t *testing.T) {
	h := func(context.Context, *handlers.Message) error {
		pass(2500 * time.Millisecond)
		return errors.Join(engine.ErrPluginLost)
	}
	run(t, h, func(r *rig) {
		r.send("m", "a")
		r.after(time.Second)
		r.pause("a")
		r.after(3 * time.Second)
		if rec := r.wantState("m", engine.Delayed); !rec.Held() || rec.Crashes != 1 {
			t.Errorf("the record is %+v; want it held, with one crash", rec)
		}
		r.resume("a")
		r.after(10 * time.Second)
		r.wantDead("m", engine.ReasonCrashedPlugin)
		if n := len(r.board.settled("m")); n != 2 {
			t.Errorf("it was settled %d times, want 2", n)
		}
	})
}
