package engine_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/handlers"
)

// effects counts how often each message was handled; each takes the given time.
type effects struct {
	mu   sync.Mutex
	seen map[string]int
	took time.Duration
}

func newEffects(took time.Duration) *effects { return &effects{seen: map[string]int{}, took: took} }

func (x *effects) handle(ctx context.Context, m *handlers.Message) error {
	select {
	case <-time.After(x.took):
	case <-ctx.Done():
		return ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seen[m.ID]++
	return nil
}

func (x *effects) want(t *testing.T, id string, n int) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen[id] != n {
		t.Errorf("%s was handled %d times, want %d", id, x.seen[id], n)
	}
}

func TestALostSessionRunsNothingTwiceThatWasInHand(t *testing.T) {
	x := newEffects(3 * time.Second)
	run(t, x.handle, func(r *rig) {
		for i := range 20 {
			r.send(strconv.Itoa(i), "a")
		}
		r.after(time.Second) // four run, the rest are ready
		r.broker.Disconnect()
		r.after(time.Second)
		r.broker.Connect()
		r.after(time.Minute)
		for i := range 20 {
			x.want(t, strconv.Itoa(i), 1)
			r.wantState(strconv.Itoa(i), engine.Done)
		}
		r.wantEmpty()
	}, func(c *engine.Config) { c.Slots = 4 })
}

func TestAMessageThatEndsWhileThereIsNoSessionIsAckedWhenItComesBack(t *testing.T) {
	x := newEffects(3 * time.Second)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		r.broker.Disconnect()
		r.after(time.Minute)
		r.wantState("1", engine.Done)
		r.broker.Connect()
		r.after(time.Second)
		x.want(t, "1", 1)
		r.wantEmpty()
	})
}

func TestNothingIsAckedBeforeItsCopyIsPublished(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		if m.Type == "b" {
			return nil
		}
		return m.Emit("b", nil)
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.broker.FailAll(enginetest.CallPublish, enginetest.Before)
		r.after(time.Minute)
		if r.broker.InHand() != 1 {
			t.Fatalf("%d un-acked, want the one whose follow-on cannot be sent", r.broker.InHand())
		}
		r.wantState("1", engine.Processing)
		r.broker.Heal(enginetest.CallPublish)
		r.after(time.Minute)
		r.wantState("1", engine.Done)
		r.wantEmpty()
	})
}

func TestWhileTheRecordsAreDownNothingStartsAndThenAllOfItDoes(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.stop()
		r.faulty.FailAll(enginetest.CallLookUp, enginetest.Before)
		r.start()
		r.send("1", "a")
		r.after(time.Minute)
		x.want(t, "1", 0)
		if v, _ := r.engine.View(); !v.StoreDown {
			t.Error("the engine does not say that the store is down")
		}
		r.faulty.Heal(enginetest.CallLookUp)
		r.after(2 * time.Second)
		x.want(t, "1", 1)
		r.wantState("1", engine.Done)
		r.wantEmpty()
	})
}

func TestAWriteWhoseAnswerWasLostIsRecognised(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.faulty.FailNth(enginetest.CallWrite, 1, enginetest.After)
		r.send("1", "a")
		r.after(time.Minute)
		x.want(t, "1", 1)
		if got := r.board.settled("1"); !slices.Equal(got, []string{engine.OutcomeDone}) {
			t.Errorf("settled %v, want done: its own write is no other's", got)
		}
		r.wantEmpty()
	})
}

func TestALiveClaimOfTheSameDeliveryIsWaitedFor(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.stop()
		r.send("1", "a")
		r.claimFor("1", r.broker.Queue(engine.WorkQueue + ".p4")[0].Headers[engine.HeaderMessageID], time.Now().Add(10*time.Second))
		r.start()
		r.after(9 * time.Second)
		x.want(t, "1", 0)
		r.after(5 * time.Second)
		x.want(t, "1", 1)
		r.wantEmpty()
	})
}

func TestAClaimIsRenewedWhileItsMessageRuns(t *testing.T) {
	x := newEffects(time.Minute)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		for range 50 {
			r.after(time.Second)
			if rec := r.record("1"); !rec.Claim.Live(time.Now()) || rec.Claims != 1 {
				t.Fatalf("while it runs the claim is %+v, made %d times", rec.Claim, rec.Claims)
			}
		}
		r.after(time.Minute)
		x.want(t, "1", 1)
		r.wantState("1", engine.Done)
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour} })
}

// After kill -9 what had been claimed waited until its attempt could have
// ended, a minute by default.
func TestWhatADeadEngineHadClaimedRunsWithinTheLease(t *testing.T) {
	x := newEffects(time.Hour)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		claim := r.record("1").Claim
		if left := time.Until(claim.Until); left > 10*time.Second {
			t.Errorf("its claim holds for %v more", left)
		}
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: 2 * time.Hour} })
}

func TestAnAttemptIsStoppedWhenItsClaimCannotBeRenewed(t *testing.T) {
	x := newEffects(30 * time.Second)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		r.faulty.FailAll(enginetest.CallClaim, enginetest.Before)
		r.after(10 * time.Second)
		if v, _ := r.engine.View(); v.ByPlugin["test"] != 0 {
			t.Errorf("%d attempts run although nobody knows whose message it is", v.ByPlugin["test"])
		}
		r.faulty.Heal(enginetest.CallClaim)
		r.after(time.Minute)
		x.want(t, "1", 1)
		if rec := r.wantState("1", engine.Done); rec.Attempts != 1 {
			t.Errorf("%d attempts are counted, want 1", rec.Attempts)
		}
		r.wantEmpty()
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour} })
}

func TestALiveClaimOfAnotherDeliveryMakesThisOneATwin(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.stop()
		r.send("1", "a")
		r.claimFor("1", "another delivery", time.Now().Add(time.Hour))
		r.start()
		r.after(5 * time.Second)
		x.want(t, "1", 0)
		r.wantEmpty()
	})
}

// claimFor claims a message in another engine's name.
func (r *rig) claimFor(id, brokerID string, until time.Time) {
	r.t.Helper()
	_, err := r.records.Claim(context.Background(), engine.Claim{
		ID: id, Type: "a", Digest: engine.DigestOf([]byte(`{"id":"` + id + `"}`)), Priority: 4,
		Mark: engine.ClaimMark{Token: "elsewhere", BrokerID: brokerID, Until: until}, Now: time.Now(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestAStaleCopyHasNoEffect(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a", engine.HeaderHop, "3")
		r.after(time.Second)
		r.send("2", "a", engine.HeaderHop, "2", engine.HeaderDelay, "1h") // waits, as hop 3
		r.after(time.Second)
		r.send("2", "a", engine.HeaderHop, "1")
		r.after(time.Second)
		x.want(t, "1", 1)
		x.want(t, "2", 0)
		if got := r.board.settled("2"); !slices.Equal(got, []string{engine.OutcomeDelayed, engine.OutcomeStale}) {
			t.Errorf("settled %v", got)
		}
		r.wantEmptyHand()
	})
}

func TestARedrivenMessageRunsAgainWithFreshAttempts(t *testing.T) {
	var attempts []int
	h := func(_ context.Context, m *handlers.Message) error {
		if attempts = append(attempts, m.Attempt); len(attempts) <= 3 {
			return errors.New("boom")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(10 * time.Second)
		dead := r.wantDead("1", engine.ReasonExhausted)
		r.broker.Send(engine.Redriven(engine.Delivery{BrokerID: "x", Headers: dead.Headers, Body: dead.Body}, engine.WorkQueue, time.Now()))
		r.after(10 * time.Second)
		if !slices.Equal(attempts, []int{1, 2, 3, 1}) {
			t.Errorf("attempts %v, want 1 2 3 and, redriven, 1", attempts)
		}
		if rec := r.wantState("1", engine.Done); rec.Reason != "" {
			t.Errorf("it is done and still has the reason %q", rec.Reason)
		}
		r.wantEmpty()
	})
}

func TestStoppingLetsHandlersFinishAndLeavesTheRestAtTheBroker(t *testing.T) {
	x := newEffects(3 * time.Second)
	run(t, x.handle, func(r *rig) {
		for i := range 10 {
			r.send(strconv.Itoa(i), "a")
		}
		r.after(time.Second)
		r.stop()
		done := 0
		for i := range 10 {
			done += x.seen[strconv.Itoa(i)]
		}
		if done != 4 {
			t.Errorf("%d finished, want the 4 that ran", done)
		}
		if n := r.waiting(); n != 6 {
			t.Errorf("%d wait in the broker, want 6", n)
		}
	}, func(c *engine.Config) { c.Slots = 4 })
}

func TestAClaimIsTakenBackByAnOrderlyStop(t *testing.T) {
	x := newEffects(time.Hour)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		if rec := r.record("1"); rec.Claims != 1 || rec.Claim.Token == "" {
			t.Fatalf("record %+v; in the first window of a session it must be claimed", rec)
		}
		r.stop()
		rec := r.wantState("1", engine.Queued)
		if rec.Claims != 0 || rec.Claim.Token != "" || rec.Attempts != 0 {
			t.Errorf("record %+v, want no claim and no attempt", rec)
		}
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: 2 * time.Hour} })
}

func TestWatchersAreToldEachStepInOrder(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		m.Progress(0.5, "packing")
		pass(time.Second)
		if m.Attempt == 1 {
			return errors.New("again")
		}
		return nil
	}
	run(t, h, func(r *rig) {
		if _, err := r.records.Watch(context.Background(), "1", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		r.send("1", "a", engine.HeaderDelay, "5s")
		r.after(time.Minute)
		var got []string
		for i, s := range r.board.status {
			if i > 0 && !r.board.status[i-1].Seq.Less(s.Seq) {
				t.Errorf("status %d has seq %v after %v", i, s.Seq, r.board.status[i-1].Seq)
			}
			step := string(s.State)
			if s.Progress != nil {
				step += " " + s.Note
			}
			got = append(got, step)
		}
		want := []string{"delayed", "processing", "processing packing", "retrying", "processing", "processing packing", "done"}
		if !slices.Equal(got, want) {
			t.Errorf("told %v\nwant %v", got, want)
		}
	})
}

func TestAMessageWhosePluginComesBackRunsAtOnce(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.handler.credit = 0
		r.send("1", "a")
		r.after(time.Minute)
		x.want(t, "1", 0)
		r.handler.credit = 1
		r.handler.changed <- struct{}{}
		r.after(time.Second)
		x.want(t, "1", 1)
		r.wantEmpty()
	})
}
