package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/engine/stompframe"
	"usher/handlers"
)

func (r *rig) startedIDs() (ids []string) {
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	for _, ev := range r.board.all {
		if ev.Kind == engine.EventStarted {
			ids = append(ids, ev.ID)
		}
	}
	return ids
}

func TestScratch01Starvation(t *testing.T) {
	h := func(context.Context, *handlers.Message) error { pass(6 * time.Second); return nil }
	run(t, h, func(r *rig) {
		r.after(time.Second)
		r.send("first", "a")
		r.after(100 * time.Millisecond)
		r.send("old", "a") // waits from now on
		for i := range 50 { // one fresh message each 6 s, 1 s before the slot is free
			r.after(4900 * time.Millisecond)
			r.send("fresh"+strconv.Itoa(i), "a")
			r.after(1100 * time.Millisecond)
		}
		ids := r.startedIDs()
		at := -1
		for i, id := range ids {
			if id == "old" {
				at = i
			}
		}
		t.Logf("started %v; old at %d; look-ups %d", ids, at, r.faulty.Made(enginetest.CallLookUp))
	}, func(c *engine.Config) { c.Slots = 1; c.Drain = time.Second })
}

func TestScratch02Order(t *testing.T) {
	h := func(context.Context, *handlers.Message) error { pass(6 * time.Second); return nil }
	run(t, h, func(r *rig) {
		r.after(time.Second)
		r.send("first", "a")
		r.after(100 * time.Millisecond)
		r.send("nine", "a", engine.HeaderPriority, "9")
		r.after(5 * time.Second)
		r.send("one", "a", engine.HeaderPriority, "1")
		r.after(20 * time.Second)
		t.Logf("started %v, want first nine one", r.startedIDs())
	}, func(c *engine.Config) { c.Slots = 1 })
}

// look-ups made a message when the ready queue is full of old ones
type counting struct {
	engine.Records
	ids atomic.Int64
}

func (c *counting) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	c.ids.Add(int64(len(ids)))
	return c.Records.LookUp(ctx, ids)
}

func TestScratch02bReads(t *testing.T) {
	h := func(context.Context, *handlers.Message) error { pass(6 * time.Second); return nil }
	var c *counting
	run(t, h, func(r *rig) {
		r.after(time.Second)
		for i := range 100 {
			r.send(strconv.Itoa(i), "a")
		}
		r.after(650 * time.Second)
		t.Logf("%d messages started, %d ids looked up", len(r.startedIDs()), c.ids.Load())
		r.wantEmpty()
	}, func(cfg *engine.Config) { c = &counting{Records: cfg.Records}; cfg.Records = c; cfg.Slots = 1 })
}

func TestScratch03Drain(t *testing.T) {
	h := func(context.Context, *handlers.Message) error { pass(20 * time.Second); return nil }
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, broker: enginetest.NewFakeBroker(), records: enginetest.NewMemory(), board: &events{},
			handler: &inProcess{Handler: handlers.HandlerFunc(h), credit: 1000, changed: make(chan struct{}, 1), unknown: map[string]bool{}}}
		r.faulty = &enginetest.FaultyRecords{Records: r.records}
		r.start()
		r.send("1", "a")
		r.after(time.Second)
		r.faulty.FailAll(enginetest.CallWrite, enginetest.Before)
		ended := make(chan struct{})
		go func() { r.stop(); close(ended) }()
		select {
		case <-ended:
			t.Log("ended")
		case <-time.After(24 * time.Hour):
			t.Log("DEFECT: Run has not ended 24 h after its context did")
		}
		r.faulty.Heal(enginetest.CallWrite)
		<-ended
		_ = r.broker.Close()
	})
}

type countChanged struct {
	*inProcess
	n atomic.Int64
}

func (c *countChanged) Changed() <-chan struct{} { c.n.Add(1); return c.changed }

type hooked struct {
	engine.Records
	n      atomic.Int64
	lookUp func(n int64, ctx context.Context) error
	claim  func(ctx context.Context)
}

func (h *hooked) LookUp(ctx context.Context, ids []string) (engine.Found, error) {
	if h.lookUp != nil {
		if err := h.lookUp(h.n.Add(1), ctx); err != nil {
			return engine.Found{}, err
		}
	}
	return h.Records.LookUp(ctx, ids)
}

func (h *hooked) Claim(ctx context.Context, c engine.Claim) (engine.Record, error) {
	if h.claim != nil {
		h.claim(ctx)
	}
	return h.Records.Claim(ctx, c)
}

func TestScratch04Spin(t *testing.T) { // real time
	broker := enginetest.NewFakeBroker()
	h := &countChanged{inProcess: &inProcess{Handler: handlers.HandlerFunc(ok), credit: 1, changed: make(chan struct{}, 1)}}
	rec := &hooked{Records: enginetest.NewMemory(), lookUp: func(n int64, ctx context.Context) error {
		if n == 1 {
			return errors.New("down")
		}
		select {
		case <-time.After(3 * time.Second):
		case <-ctx.Done():
		}
		return errors.New("down")
	}}
	e, err := engine.New(engine.Config{Broker: broker, Records: rec, Handler: h, Types: map[string]engine.Type{"a": {}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{"type": "a"}})
	time.Sleep(1500 * time.Millisecond)
	t.Logf("loop turns in 1.5 s with a slow store: %d", h.n.Load())
	cancel()
	<-ended
}

func TestScratch05StoreDownStall(t *testing.T) {
	var rec *hooked
	run(t, ok, func(r *rig) {
		r.after(time.Second)
		r.send("1", "a")
		r.after(time.Second) // its look-up hangs
		r.broker.Disconnect()
		r.after(time.Second)
		r.broker.Connect()
		r.after(100 * time.Millisecond) // looked up again, ready; lanes settle at 300 ms
		r.after(200 * time.Hour)
		v, _ := r.engine.View()
		t.Logf("after 200 h: store down %v, in hand %d, un-acked %d, ready %v, look-ups %d", v.StoreDown, v.InHand, r.broker.InHand(), v.Ready, rec.n.Load())
	}, func(c *engine.Config) {
		rec = &hooked{Records: c.Records, lookUp: func(n int64, ctx context.Context) error {
			if n == 1 {
				pass(2200 * time.Millisecond)
				return errors.New("connection reset")
			}
			return nil
		}}
		c.Records = rec
	})
}

type strictBroker struct{ *enginetest.FakeBroker }

func (b strictBroker) Publish(ctx context.Context, out engine.Outgoing) error {
	f := frame.New("SEND")
	for k, v := range out.Headers {
		f.Header.Add(k, v)
	}
	f.Body = out.Body
	if _, err := stompframe.Append(nil, stompframe.V12, f); err != nil {
		return err
	}
	return b.FakeBroker.Publish(ctx, out)
}

func TestScratch06FollowOnNUL(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		return m.EmitFollowOn(handlers.FollowOn{Type: "b", Headers: map[string]string{"note": "a\x00b"}})
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(time.Hour)
		t.Logf("after 1 h: un-acked %d, state %s, settled %v", r.broker.InHand(), r.record("1").State, r.board.settled("1"))
	}, func(c *engine.Config) { c.Broker = strictBroker{c.Broker.(*enginetest.FakeBroker)} })
}

func TestScratch07SeqTakeBack(t *testing.T) {
	h := func(ctx context.Context, m *handlers.Message) error {
		for i := range 20 {
			m.Progress(float64(i)/20, "x")
		}
		select {
		case <-time.After(30 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	run(t, h, func(r *rig) {
		_, _ = r.records.Watch(context.Background(), "1", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)})
		r.send("1", "a")
		r.after(time.Second)
		r.stop()
		first := r.board.status[len(r.board.status)-1]
		n := len(r.board.status)
		r.start()
		h2 := r.board
		r.after(time.Second)
		t.Logf("before the stop %v; after it %v", first.Seq, h2.status[n].Seq)
		r.after(40 * time.Second)
		last := r.board.status[len(r.board.status)-1]
		t.Logf("done is %v %v", last.State, last.Seq)
	}, func(c *engine.Config) { c.Drain = time.Second })
}

func TestScratch07bSeqCap(t *testing.T) {
	h := func(ctx context.Context, m *handlers.Message) error {
		for i := range 10_000 {
			m.Progress(float64(i)/10_000, "x")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		_, _ = r.records.Watch(context.Background(), "1", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)})
		r.send("1", "a")
		r.after(5 * time.Second)
		n := len(r.board.status)
		t.Logf("last two: %v %v, %v %v", r.board.status[n-2].State, r.board.status[n-2].Seq, r.board.status[n-1].State, r.board.status[n-1].Seq)
	})
}

func TestScratch08MaxAge(t *testing.T) {
	n := 0
	h := func(context.Context, *handlers.Message) error {
		if n++; n == 1 {
			return handlers.Defer(5 * time.Second)
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a", engine.HeaderDelay, "25h")
		r.after(26 * time.Hour)
		t.Logf("ran %d; record %+v", n, r.record("1"))
	})
}

func TestScratch08bMaxAgeBacklog(t *testing.T) {
	n := 0
	h := func(context.Context, *handlers.Message) error {
		if n++; n == 1 {
			return handlers.Defer(5 * time.Second)
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.stop()
		r.send("1", "a")
		r.after(25 * time.Hour) // the engine is off over a weekend
		r.start()
		r.after(time.Hour)
		t.Logf("ran %d; state %v %v", n, r.record("1").State, r.record("1").Reason)
	})
}

func TestScratch09OperatorDue(t *testing.T) {
	var at []time.Duration
	began := time.Time{}
	h := func(context.Context, *handlers.Message) error {
		at = append(at, time.Since(began))
		pass(10 * time.Second)
		if len(at) == 1 {
			return errors.New("x")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		began = time.Now()
		r.send("1", "a")
		r.after(2 * time.Second)
		rec, err := r.records.SetDue(context.Background(), "1", time.Now().Add(time.Hour))
		t.Log(rec.Claim, rec.Due, err)
		r.after(2 * time.Hour)
		t.Logf("ran at %v; want the second an hour later", at)
	})
}

func TestScratch10Watch(t *testing.T) {
	run(t, func(context.Context, *handlers.Message) error { pass(time.Hour); return nil }, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		r.engine.Watch("1", engine.Watcher{Connection: "c"})
		synctest.Wait()
		t.Logf("told %+v", r.board.status)
		r.after(10 * time.Second)
		for range 1000 {
			r.engine.Watch("1", engine.Watcher{Connection: "c"})
		}
	}, func(c *engine.Config) {
		c.Records = &hooked{Records: c.Records, claim: func(ctx context.Context) { pass(5 * time.Second) }}
	})
}

func TestScratch11Away(t *testing.T) {
	n := 0
	began := time.Time{}
	h := func(context.Context, *handlers.Message) error {
		if n++; n <= 5000 {
			return fmt.Errorf("x: %w", engine.ErrPluginAway)
		}
		t.Logf("5000 starts in %v of virtual time", time.Since(began))
		return nil
	}
	run(t, h, func(r *rig) {
		r.after(time.Second)
		began = time.Now()
		r.send("1", "a")
		r.after(time.Hour)
		t.Logf("look-ups %d claims %d", r.faulty.Made(enginetest.CallLookUp), r.faulty.Made(enginetest.CallClaim))
	})
}

func TestScratch12Unknown(t *testing.T) {
	run(t, ok, func(r *rig) {
		r.send("1", "zebra", engine.HeaderDelay, "0")
		r.after(10 * time.Second)
		t.Logf("%v", r.record("1").State)
	}, func(c *engine.Config) { c.UnknownTypeWait = time.Hour })
}

func TestScratch13Body(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error { m.Body[0] = 'X'; return errors.New("x") }
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(10 * time.Second)
		out := r.wantDead("1", engine.ReasonExhausted)
		t.Logf("body %s", out.Body)
		r.broker.Send(engine.Redriven(engine.Delivery{BrokerID: "x", Headers: out.Headers, Body: out.Body}, engine.WorkQueue, time.Now()))
		r.after(10 * time.Second)
		t.Logf("redriven: %v", r.board.settled("1"))
		for _, o := range r.broker.Queue(engine.DeadQueue) {
			t.Log(o.Headers[engine.HeaderDeadReason])
		}
	})
}

func TestScratch14FirstFailed(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error { return handlers.RetryAfter(time.Hour, errors.New("x")) }
	run(t, h, func(r *rig) {
		t.Log("sent", time.Now())
		r.send("1", "a")
		r.after(3 * time.Hour)
		t.Log("first failed", r.wantDead("1", engine.ReasonExhausted).Headers[engine.HeaderFirstFailedAt])
	})
}

func TestScratch16KillBesideClaim(t *testing.T) {
	run(t, ok, func(r *rig) {
		r.stop()
		r.send("1", "a", engine.HeaderExpiresAt, strconv.FormatInt(time.Now().Add(5*time.Second).UnixMilli(), 10))
		r.claimFor("1", r.broker.Queue(engine.WorkQueue + ".p4")[0].Headers[engine.HeaderMessageID], time.Now().Add(time.Minute))
		r.after(6 * time.Second)
		r.start()
		r.after(2 * time.Second)
		t.Logf("beside a live claim: state %v, dead letters %d", r.record("1").State, len(r.broker.Queue(engine.DeadQueue)))
		_, err := r.records.Write(context.Background(), engine.Change{ID: "1", State: engine.Done, Token: "elsewhere-2", Now: time.Now()})
		t.Log("the one that runs it writes done:", err)
	})
}

func TestScratch17Year(t *testing.T) {
	run(t, ok, func(r *rig) {
		r.send("1", "late", engine.HeaderQueuedAt, "9223372036854775807")
		r.after(2 * time.Second)
		_, err := json.Marshal(r.record("1").Snapshot(time.Now()))
		t.Log(r.record("1").Due, err)
	})
}

func TestScratch18Twins(t *testing.T) {
	began := time.Now
	_ = began
	run(t, func(context.Context, *handlers.Message) error { pass(time.Second); return nil }, func(r *rig) {
		r.broker.SetWindow(1000)
		body := []byte(strings.Repeat("x", 100<<10))
		r.after(time.Second)
		for range 1000 {
			r.broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderID: "1", "type": "a"}, Body: body})
		}
		r.after(time.Minute)
		t.Logf("%d settled", len(r.board.settled("1")))
		r.wantEmpty()
	}, func(c *engine.Config) { c.Window = 1000 })
}

func TestScratch20Hop(t *testing.T) {
	run(t, func(context.Context, *handlers.Message) error { t.Error("ran"); return nil }, func(r *rig) {
		r.send("1", "a", engine.HeaderHop, strconv.Itoa(1<<30), engine.HeaderDelay, "10s")
		r.after(time.Minute)
		rec := r.record("1")
		t.Logf("%v; record %v hop %d; dead letters %d; in broker %d", r.board.settled("1"), rec.State, rec.Hop, len(r.broker.Queue(engine.DeadQueue)), r.waiting())
	})
}

func TestScratch21Takeover(t *testing.T) { // claimed, waits for attempt 2, session lost: attempts begin anew
	n := 0
	run(t, func(_ context.Context, m *handlers.Message) error { n++; return errors.New("x") }, func(r *rig) {
		r.after(time.Second)
		for range 20 {
			if n == 0 {
				r.send("1", "a")
			}
			r.after(150 * time.Millisecond)
			r.broker.Disconnect()
			r.after(10 * time.Millisecond)
			r.broker.Connect()
			r.after(500 * time.Millisecond)
		}
		t.Logf("attempts made %d of 3; settled %v", n, r.board.settled("1"))
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Backoff: 2 * time.Second} })
}

var _ = runtime.NumGoroutine
