package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
		letter, content := engine.DeadLetterOf(engine.Delivery{BrokerID: "x", Headers: dead.Headers, Body: dead.Body}, engine.DeadQueue, time.Now())
		if letter.Why.Attempts != 3 || letter.Why.Handler != "test" {
			t.Errorf("the dead letter says %+v, want 3 attempts of the plugin test", letter.Why)
		}
		r.broker.Send(engine.Redriven(letter, content, engine.WorkQueue, time.Now()))
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

// The tests below are named for what a review found.

func TestWhatIsReadyForLongKeepsItsPlace(t *testing.T) {
	var order []string
	h := func(_ context.Context, m *handlers.Message) error {
		order = append(order, m.ID)
		pass(6 * time.Second) // longer than a look-up holds
		return nil
	}
	run(t, h, func(r *rig) {
		r.after(time.Second)
		r.send("first", "a")
		r.after(100 * time.Millisecond)
		r.send("nine", "a", engine.HeaderPriority, "9")
		r.after(5 * time.Second)
		r.send("one", "a", engine.HeaderPriority, "1")
		r.send("fresh", "a", engine.HeaderPriority, "9")
		r.after(time.Minute)
		if want := []string{"first", "nine", "fresh", "one"}; !slices.Equal(order, want) {
			t.Errorf("started %v, want %v", order, want)
		}
		r.wantEmpty()
	}, func(c *engine.Config) { c.Slots = 1 })
}

func TestALookUpThatIsTooOldIsRepeatedBeforeItsMessageRuns(t *testing.T) {
	x := newEffects(6 * time.Second)
	run(t, x.handle, func(r *rig) {
		r.after(time.Second)
		for i := range 100 { // the first window, which is claimed
			r.send("w"+strconv.Itoa(i), "zebra")
		}
		r.after(time.Minute)
		r.send("first", "a")
		r.after(100 * time.Millisecond)
		r.send("second", "a")
		r.after(2 * time.Second)
		if _, err := r.records.SetDue(context.Background(), "second", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		r.after(time.Minute)
		x.want(t, "first", 1)
		x.want(t, "second", 0)
		r.wantState("second", engine.Delayed)
	}, func(c *engine.Config) { c.Slots = 1 })
}

func TestMovingAMessageToALaterTimeDoesNotStopItsAttempt(t *testing.T) {
	x := newEffects(20 * time.Second)
	run(t, x.handle, func(r *rig) {
		r.send("1", "a")
		r.after(4 * time.Second)
		if _, err := r.records.SetDue(context.Background(), "1", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		r.after(time.Minute)
		x.want(t, "1", 1)
		r.wantState("1", engine.Done)
	})
}

func TestAnAttemptIsStoppedWhenTheRecordsHang(t *testing.T) {
	x := newEffects(time.Minute)
	var running atomic.Int32
	h := func(ctx context.Context, m *handlers.Message) error {
		running.Add(1)
		defer running.Add(-1)
		return x.handle(ctx, m)
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		release := r.faulty.Hold(enginetest.CallClaim)
		r.after(9 * time.Second)
		if running.Load() != 0 {
			t.Error("it runs on although its claim could not be renewed")
		}
		release()
		r.after(2 * time.Minute)
		x.want(t, "1", 1)
		r.wantEmpty()
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour} })
}

func TestAnErrorOfAnOldSessionDoesNotStopTheEngine(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		release := r.faulty.Hold(enginetest.CallLookUp)
		r.send("1", "a")
		r.after(time.Second)
		r.broker.Disconnect()
		r.after(time.Second)
		r.faulty.FailNth(enginetest.CallLookUp, 1, enginetest.Before)
		release()
		r.broker.Connect()
		r.after(10 * time.Second)
		x.want(t, "1", 1)
		if v, _ := r.engine.View(); v.StoreDown {
			t.Error("the store is said to be down")
		}
		r.wantEmpty()
	})
}

func TestADrainEndsAlthoughNothingCanBeWritten(t *testing.T) {
	h := func(context.Context, *handlers.Message) error { pass(20 * time.Second); return nil }
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(time.Second)
		r.faulty.FailAll(enginetest.CallWrite, enginetest.Before)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v to stop", took)
		}
	})
}

func TestAFollowOnThatNoFrameCanCarryIsRefused(t *testing.T) {
	for name, f := range map[string]handlers.FollowOn{
		"NUL in a value":  {Type: "b", Headers: map[string]string{"note": "a\x00b"}},
		"NUL in the type": {Type: "b\x00"},
		"content type":    {Type: "b", ContentType: "a\nb"},
		"long value":      {Type: "b", Headers: map[string]string{"note": strings.Repeat("x", 5000)}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(_ context.Context, m *handlers.Message) error { return m.EmitFollowOn(f) }, func(r *rig) {
				r.send("1", "a")
				r.after(5 * time.Second)
				r.wantDead("1", engine.ReasonBadFollowOn)
				r.wantEmpty()
			})
		})
	}
}

func TestStatusesGoOnGrowingOverARestart(t *testing.T) {
	h := func(ctx context.Context, m *handlers.Message) error {
		for range 12_000 {
			m.Progress(0.5, "on the way")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	run(t, h, func(r *rig) {
		if _, err := r.records.Watch(context.Background(), "1", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		r.send("1", "a")
		r.after(time.Second)
		r.stop()
		r.start(func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Minute, Attempts: 1} })
		r.after(2 * time.Minute)
		for i, s := range r.board.status[1:] {
			if !r.board.status[i].Seq.Less(s.Seq) {
				t.Errorf("status %d (%s) has seq %v after %v", i+1, s.State, s.Seq, r.board.status[i].Seq)
				break
			}
		}
		if last := r.board.status[len(r.board.status)-1]; last.State != engine.Dead {
			t.Errorf("the last status is %s", last.State)
		}
	})
}

func TestTheAgeOfADeferredMessageBeginsWhenItIsDue(t *testing.T) {
	deferred := 0
	h := func(context.Context, *handlers.Message) error {
		if deferred++; deferred == 1 {
			return handlers.Defer(5 * time.Second)
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a", engine.HeaderDelay, "25h")
		r.after(26 * time.Hour)
		r.wantState("1", engine.Done)
	})
}

func TestWhatAnotherEngineRunsIsNotDeadLetteredBesideIt(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.stop()
		r.send("1", "a", engine.HeaderExpiresAt, strconv.FormatInt(time.Now().Add(-time.Second).UnixMilli(), 10))
		r.claimFor("1", r.broker.Queue(engine.WorkQueue + ".p4")[0].Headers[engine.HeaderMessageID], time.Now().Add(10*time.Second))
		r.start()
		r.after(5 * time.Second)
		if dead := r.broker.Queue(engine.DeadQueue); len(dead) != 0 {
			t.Errorf("it is in the dead-letter queue while it runs elsewhere: %v", dead)
		}
	})
}

func TestAHandBackLeavesTheClaimOfAnother(t *testing.T) {
	tests := []struct {
		token string
		want  error
	}{{"ours", nil}, {"elsewhere", engine.ErrGuarded}}
	for _, tt := range tests {
		m := enginetest.NewMemory()
		c := engine.Claim{ID: "1", Mark: engine.ClaimMark{Token: tt.token, Until: time.Now().Add(time.Hour)}, Now: time.Now()}
		if _, err := m.Claim(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		_, err := m.Write(t.Context(), engine.Change{ID: "1", State: engine.Queued, Token: "w", TakeBack: "ours", Now: time.Now()})
		if !errors.Is(err, tt.want) {
			t.Errorf("taking ours back from %s: %v, want %v", tt.token, err, tt.want)
		}
	}
}

func TestAttemptsAreRememberedOverALostSession(t *testing.T) {
	attempts := 0
	h := func(context.Context, *handlers.Message) error { attempts++; return errors.New("boom") }
	run(t, h, func(r *rig) {
		r.send("1", "a")
		for range 20 {
			r.after(700 * time.Millisecond)
			r.broker.Disconnect()
			r.after(time.Millisecond)
			r.broker.Connect()
		}
		r.after(10 * time.Second)
		r.wantDead("1", engine.ReasonExhausted)
		if attempts != 3 {
			t.Errorf("%d attempts, want 3", attempts)
		}
	}, func(c *engine.Config) { c.Types["a"] = engine.Type{Backoff: 2 * time.Second} })
}

// Found by the simulation: what lost its claim when its session was gone, or was being
// looked up when it went, began anew.
func TestAttemptsAreRememberedOverALostClaimAndALostSession(t *testing.T) {
	for _, gone := range []string{"before the claim", "after the claim"} {
		t.Run(gone, func(t *testing.T) {
			var attempts []int
			h := func(ctx context.Context, m *handlers.Message) error {
				attempts = append(attempts, m.Attempt)
				if len(attempts) == 2 {
					<-ctx.Done()
				}
				return errors.New("boom")
			}
			run(t, h, func(r *rig) {
				r.send("1", "a")
				r.after(3 * time.Second) // the second attempt runs
				for _, c := range []enginetest.Call{enginetest.CallClaim, enginetest.CallLookUp} {
					r.faulty.FailAll(c, enginetest.Before)
				}
				if gone == "after the claim" {
					r.after(20 * time.Second)
				}
				r.broker.Disconnect()
				r.after(20 * time.Second)
				r.faulty.Heal(enginetest.CallClaim)
				r.faulty.Heal(enginetest.CallLookUp)
				r.broker.Connect()
				r.after(time.Minute)
				r.wantDead("1", engine.ReasonExhausted)
				if want := []int{1, 2, 2, 3}; !slices.Equal(attempts, want) {
					t.Errorf("the attempts were %v, want %v", attempts, want)
				}
			}, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: time.Hour, Backoff: time.Second} })
		})
	}
}

func TestAPluginThatIsAwayIsNotAskedInAHotLoop(t *testing.T) {
	asked := 0
	h := func(context.Context, *handlers.Message) error { asked++; return engine.ErrPluginAway }
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(10 * time.Second)
		if asked == 0 || asked > 101 {
			t.Errorf("asked %d times in 10 s, want at most every 100 ms", asked)
		}
	})
}

func TestAHandlerCannotChangeTheBodyOfTheNextAttempt(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		m.Body[0] = 'X'
		return errors.New("boom")
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(10 * time.Second)
		if dead := r.wantDead("1", engine.ReasonExhausted); string(dead.Body) != `{"id":"1"}` {
			t.Errorf("the dead letter's body is %s", dead.Body)
		}
	})
}

func TestAnUnknownTypeWaitsWhateverItsProducerSaid(t *testing.T) {
	run(t, ok, func(r *rig) {
		r.send("1", "zebra", engine.HeaderDelay, "0")
		r.after(30 * time.Second)
		r.wantState("1", engine.Delayed)
	}, func(c *engine.Config) { c.UnknownTypeWait = time.Hour })
}

func TestFirstFailedIsTheFirstTimeOfAllCopies(t *testing.T) {
	h := func(context.Context, *handlers.Message) error {
		return handlers.RetryAfter(time.Hour, errors.New("busy"))
	}
	run(t, h, func(r *rig) {
		began := time.Now().UTC().Truncate(time.Second)
		r.send("1", "a")
		r.after(5 * time.Hour)
		dead := r.wantDead("1", engine.ReasonExhausted)
		if got := dead.Headers[engine.HeaderFirstFailedAt]; got != began.Format(time.RFC3339) {
			t.Errorf("it first failed at %s, want %s", got, began.Format(time.RFC3339))
		}
	})
}

func TestAHopThatCannotBeReadLosesNothing(t *testing.T) {
	for _, hop := range []string{"1073741824", "-1", "junk", "99999999999999999999"} {
		t.Run(hop, func(t *testing.T) {
			run(t, ok, func(r *rig) {
				r.send("1", "a", engine.HeaderHop, hop, engine.HeaderDelay, "10s")
				r.after(time.Minute)
				r.wantDead("1", engine.ReasonBadHeader)
				r.wantEmpty()
			})
		})
	}
}

func TestManyTwinsOfALargeMessageDoNotStopTheLoop(t *testing.T) {
	x := newEffects(time.Millisecond)
	run(t, x.handle, func(r *rig) {
		r.broker.SetWindow(1000)
		body := []byte(strings.Repeat("x", 100<<10))
		for range 1000 {
			r.broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderID: "1", engine.HeaderType: "a"}, Body: body})
		}
		r.after(time.Minute)
		x.want(t, "1", 1)
		r.wantEmpty()
	}, func(c *engine.Config) { c.Window = 1000 })
}

func TestRedeliveriesAreFurtherRoundsOfAttemptsOnTheSameLevel(t *testing.T) {
	var tried []string
	var at []time.Duration
	began := newTimes().began
	h := func(_ context.Context, m *handlers.Message) error {
		tried, at = append(tried, fmt.Sprintf("%d p%d", m.Attempt, m.Priority)), append(at, time.Since(began))
		return errors.New("down")
	}
	run(t, h, func(r *rig) {
		r.send("1", "two", engine.HeaderPriority, "8")
		r.after(15 * time.Second)
		if rec := r.wantState("1", engine.Retrying); rec.Redeliveries != 1 || rec.Attempts != 0 || rec.DueBy != engine.ByRetry {
			t.Errorf("after the first round: %+v", rec)
		}
		r.after(time.Hour)
		if got, want := strings.Join(tried, ", "), "1 p8, 2 p8, 1 p8, 2 p8, 1 p8, 2 p8"; got != want {
			t.Fatalf("tried %s, want %s", got, want)
		}
		// Each wait is up to a tenth longer, and what is parked is found within a second.
		for i, wait := range map[int]time.Duration{2: 30 * time.Second, 4: 5 * time.Minute} {
			if got := at[i] - at[i-1]; got < wait || got > wait+wait/10+2*time.Second {
				t.Errorf("attempt %d came after %v, want %v and a tenth at most", i+1, got, wait)
			}
		}
		out := r.wantDead("1", engine.ReasonExhausted)
		if out.Headers[engine.HeaderRedeliveries] != "2" || out.Headers[engine.HeaderAttempts] != "2" || !strings.Contains(out.Headers[engine.HeaderDeadDetail], "redelivery 2 of 2") {
			t.Errorf("the dead letter has %v", out.Headers)
		}
	}, func(c *engine.Config) {
		c.Types["two"] = engine.Type{Attempts: 2, Redeliveries: []time.Duration{30 * time.Second, 5 * time.Minute}}
	})
}
