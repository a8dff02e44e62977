package engine_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/handlers"
)

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

// What had been tried before was started without being admitted, and so with no
// time at all: dead, "attempt 2 of 0: stopped after 0s".
func TestWhatWaitsForALiveClaimIsAdmittedAlthoughItWasTriedBefore(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.stop()
		r.send("1", "a", engine.HeaderAttempts, "1")
		r.claimFor("1", r.broker.Queue(engine.WorkQueue + ".p4")[0].Headers[engine.HeaderMessageID], time.Now().Add(5*time.Second))
		r.start()
		r.after(10 * time.Second)
		x.want(t, "1", 1)
		if rec := r.wantState("1", engine.Done); rec.Attempts != 2 {
			t.Errorf("%d attempts are counted, want 2", rec.Attempts)
		}
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

// While the follow-on of a finished message could not be published, its claim ran
// out after 10 s, and another engine was free to run it again.
func TestAClaimIsKeptUntilItsMessageIsSettled(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		if m.Type == "b" {
			return nil
		}
		return m.Emit("b", nil)
	}
	run(t, h, func(r *rig) {
		r.broker.FailAll(enginetest.CallPublish, enginetest.Before)
		r.send("1", "a")
		for range 50 {
			r.after(time.Second)
			if rec := r.record("1"); !rec.Claim.Live(time.Now()) || rec.Claims != 1 {
				t.Fatalf("while it is settled the claim is %+v, made %d times", rec.Claim, rec.Claims)
			}
		}
		r.broker.Heal(enginetest.CallPublish)
		r.after(time.Minute)
		if rec := r.wantState("1", engine.Done); rec.Claim.Token != "" {
			t.Errorf("when it is settled the claim is %+v", rec.Claim)
		}
		r.wantEmpty()
	})
}

// What was not claimed to be run, as first deliveries are not, was not claimed while the
// broker did not take its dead letter either: another engine ran it, handed it on, and so
// it died twice, with two letters.
func TestWhatWaitsToBeSettledIsClaimed(t *testing.T) {
	run(t, permanent, func(r *rig) {
		r.broker.SetWindow(1)
		r.send("first of its session", "a")
		r.after(time.Second)
		r.broker.FailAll(enginetest.CallPublish, enginetest.Before)
		r.send("1", "a")
		r.after(time.Second)
		for range 50 {
			r.after(time.Second)
			if rec := r.record("1"); !rec.Claim.Live(time.Now()) || rec.Claims != 1 {
				t.Fatalf("while it is settled the claim is %+v, made %d times", rec.Claim, rec.Claims)
			}
		}
		r.broker.Heal(enginetest.CallPublish)
		r.after(time.Minute)
		r.wantDead("1", "permanent:no_such_order")
		if rec := r.wantState("1", engine.Dead); rec.Claim.Token != "" {
			t.Errorf("when it is settled the claim is %+v", rec.Claim)
		}
		r.wantEmpty()
	}, func(c *engine.Config) { c.Window = 1 })
}

func permanent(context.Context, *handlers.Message) error {
	return handlers.Permanent(errors.New("no such order"), "no_such_order")
}

// While it waits to be settled somebody else has taken it, and then died, or sent it on.
func TestWhatIsTakenWhileItWaitsToBeSettledIsSettledByWhoHasIt(t *testing.T) {
	tests := map[string]struct {
		sentOn bool
		want   int // dead letters
	}{
		"who dies":       {false, 1},
		"who sent it on": {true, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			taken := func() {}
			h := func(ctx context.Context, m *handlers.Message) error {
				if m.ID == "1" {
					taken()
				}
				return permanent(ctx, m)
			}
			run(t, h, func(r *rig) {
				r.stop()
				r.broker.SetWindow(1)
				r.send("first of its session", "a")
				r.send("1", "a")
				brokerID := r.broker.Queue(engine.WorkQueue + ".p4")[1].Headers[engine.HeaderMessageID]
				taken = sync.OnceFunc(func() {
					r.claimFor("1", brokerID, time.Now().Add(10*time.Second))
					r.broker.FailAll(enginetest.CallPublish, enginetest.Before)
				})
				r.start(func(c *engine.Config) { c.Window = 1 })
				r.after(3 * time.Second)
				r.broker.Heal(enginetest.CallPublish)
				if tt.sentOn {
					sent := engine.Change{ID: "1", Type: "a", Digest: r.record("1").Digest, State: engine.Queued, NextHop: 1, Token: "w", Now: time.Now()}
					if _, err := r.records.Write(t.Context(), sent); err != nil {
						t.Fatal(err)
					}
				}
				r.after(time.Minute)
				letters := slices.DeleteFunc(r.broker.Queue(engine.DeadQueue), func(out engine.Outgoing) bool { return out.Headers[engine.HeaderID] != "1" })
				if len(letters) != tt.want {
					t.Errorf("%d dead letters, want %d", len(letters), tt.want)
				}
				r.wantEmpty()
			}, func(c *engine.Config) { c.Window = 1 })
		})
	}
}

// A copy with a later hop than the claim, as an engine leaves it that dies after
// it has published, was tried again and again until the claim had run out.
func TestACopyOfWhatADeadEngineHadClaimedWaitsForItsLease(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.claimFor("1", "another delivery", time.Now().Add(8*time.Second))
		r.send("1", "a", engine.HeaderHop, "1")
		r.after(7 * time.Second)
		x.want(t, "1", 0)
		if n := r.faulty.Made(enginetest.CallClaim); n > 10 {
			t.Errorf("it was claimed %d times in 7 s", n)
		}
		r.after(5 * time.Second)
		x.want(t, "1", 1)
		r.wantState("1", engine.Done)
		r.wantEmpty()
	})
}

// After kill -9 what had been claimed waited until its attempt could have
// ended, a minute by default; then, for 10 s, however short it had run.
func TestWhatADeadEngineHadClaimedWaitsInProportionToHowLongItRan(t *testing.T) {
	x := newEffects(time.Hour)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		r.after(400 * time.Millisecond) // by then it has started
		began, longest := time.Now(), time.Duration(0)
		for range 300 {
			r.after(100 * time.Millisecond)
			ran, left := time.Since(began), time.Until(r.record("1").Claim.Until)
			if most := min(2*time.Second+4*ran, 10*time.Second); left > most || left <= 0 {
				t.Errorf("after %v its claim holds for %v more, want at most %v", ran, left, most)
			}
			longest = max(longest, left)
		}
		if longest < 9*time.Second {
			t.Errorf("the longest that it held is %v, so it is renewed too often", longest)
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

func TestAnAttemptWhoseClaimIsLostIsNotToldThatItTookTooLong(t *testing.T) {
	var causes []error
	h := func(ctx context.Context, _ *handlers.Message) error {
		select {
		case <-time.After(30 * time.Second):
			return nil
		case <-ctx.Done():
			causes = append(causes, context.Cause(ctx))
			return ctx.Err()
		}
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		release := r.faulty.Hold(enginetest.CallClaim) // until a deadline of the engine's own
		r.after(10 * time.Second)
		release()
		r.after(time.Minute)
		if len(causes) == 0 || slices.ContainsFunc(causes, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }) {
			t.Errorf("attempts were stopped because of %v, want some, and none that is a deadline", causes)
		}
		r.wantState("1", engine.Done)
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour} })
}

// A store that took longer for each claim than its first lease would have stopped
// every attempt.
func TestOnASlowStoreClaimedMessagesAreDone(t *testing.T) {
	x := newEffects(3 * time.Second)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		for range 60 {
			release := r.faulty.Hold(enginetest.CallClaim)
			r.after(1400 * time.Millisecond)
			release()
			synctest.Wait()
		}
		x.want(t, "1", 1)
		r.wantState("1", engine.Done)
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

// What a lost session had taken out of our hands, with its claim, was tried again
// and again when another delivery of the same message came first.
func TestAnotherDeliveryOfWhatWasClaimedBeforeTheSessionWasLostIsATwin(t *testing.T) {
	h := func(context.Context, *handlers.Message) error {
		return handlers.RetryAfter(2*time.Second, errors.New("boom"))
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second) // it waits for its second attempt, claimed
		r.broker.Disconnect()
		r.send("1", "a", engine.HeaderPriority, "9")
		r.broker.Connect()
		r.after(time.Minute)
		if n := r.faulty.Made(enginetest.CallClaim); n > 10 {
			t.Errorf("it was claimed %d times", n)
		}
		r.wantState("1", engine.Dead)
		r.wantEmptyHand()
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
