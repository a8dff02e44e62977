package enginetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"usher/engine"
	"usher/engine/enginetest"
)

// TestMemoryInABubble: the table's clock is the bubble's.
func TestMemoryInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := enginetest.NewMemory()
		now := time.Now()
		mark := engine.ClaimMark{Token: "a", BrokerID: "d", Until: now.Add(time.Minute)}
		if _, err := m.Claim(t.Context(), engine.Claim{ID: "x", Mark: mark, Now: now}); err != nil {
			t.Fatal(err)
		}
		done := engine.Change{ID: "x", State: engine.Done, Now: now, ExpiresAt: now.Add(time.Hour)}
		if _, err := m.Write(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour - time.Millisecond)
		if _, err := m.Record(t.Context(), "x"); err != nil {
			t.Errorf("Record before it expires: %v", err)
		}
		<-time.After(time.Millisecond)
		if _, err := m.Record(t.Context(), "x"); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Record after it expired: %v; want ErrNotFound", err)
		}
		if found, err := m.LookUp(t.Context(), []string{"x"}); err != nil || !found.Now.Equal(time.Now()) {
			t.Errorf("LookUp: the clock is %v, %v; want the bubble's", found.Now, err)
		}
	})
}

func change(id string) engine.Change {
	return engine.Change{ID: id, State: engine.Done, Token: "t-" + id, Now: time.Now()}
}

func TestFaultyRecords(t *testing.T) {
	t.Run("BeforeNothingIsDone", func(t *testing.T) {
		f := &enginetest.FaultyRecords{Records: enginetest.NewMemory()}
		f.FailNth(enginetest.CallWrite, 2, enginetest.Before)
		for i, want := range []error{nil, enginetest.ErrInjected, nil} {
			if _, err := f.Write(t.Context(), change(fmt.Sprint(i))); !errors.Is(err, want) {
				t.Errorf("write %d: %v; want %v", i, err, want)
			}
		}
		found, err := f.LookUp(t.Context(), []string{"0", "1", "2"})
		if err != nil || len(found.Records) != 2 || found.Records["1"].ID != "" {
			t.Errorf("after: %v, %v; want 0 and 2", found.Records, err)
		}
	})
	t.Run("AfterItLandedAndTheAnswerIsLost", func(t *testing.T) {
		f := &enginetest.FaultyRecords{Records: enginetest.NewMemory()}
		f.FailNth(enginetest.CallWrite, 1, enginetest.After)
		if rec, err := f.Write(t.Context(), change("0")); !errors.Is(err, enginetest.ErrInjected) || rec.ID != "" {
			t.Errorf("write: %+v, %v; want nothing, ErrInjected", rec, err)
		}
		if rec, err := f.Write(t.Context(), change("0")); !errors.Is(err, engine.ErrGuarded) || rec.Token != "t-0" {
			t.Errorf("again: %+v, %v; want ErrGuarded with the token", rec, err)
		}
	})
	t.Run("AllUntilHealed", func(t *testing.T) {
		f := &enginetest.FaultyRecords{Records: enginetest.NewMemory()}
		calls := map[enginetest.Call]func() error{
			enginetest.CallLookUp: func() error { _, err := f.LookUp(t.Context(), nil); return err },
			enginetest.CallGate:   func() error { _, err := f.Gate(t.Context(), engine.Gate{ID: "g"}); return err },
			enginetest.CallClaim: func() error {
				_, err := f.Claim(t.Context(), engine.Claim{ID: "c", Mark: engine.ClaimMark{Token: "t"}})
				return err
			},
			enginetest.CallWrite: func() error {
				_, err := f.Write(t.Context(), engine.Change{ID: "w", State: engine.Queued})
				return err
			},
		}
		for name, call := range calls {
			f.FailAll(name, enginetest.Before)
			for range 2 {
				if err := call(); !errors.Is(err, enginetest.ErrInjected) {
					t.Errorf("%s: %v; want ErrInjected", name, err)
				}
			}
			f.Heal(name)
			if err := call(); err != nil {
				t.Errorf("%s healed: %v", name, err)
			}
			if n := f.Made(name); n != 3 {
				t.Errorf("%s was called %d times; want 3", name, n)
			}
		}
	})
}

func TestHeldCallsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &enginetest.FaultyRecords{Records: enginetest.NewMemory()}
		release := f.Hold(enginetest.CallWrite)
		ctx, cancel := context.WithCancel(t.Context())
		answers := make(chan error, 2)
		for _, ctx := range []context.Context{ctx, t.Context()} {
			go func() {
				_, err := f.Write(ctx, change("0"))
				answers <- err
			}()
		}
		synctest.Wait()
		if len(answers) != 0 {
			t.Fatal("a held call has come back")
		}
		cancel()
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		release()
		release()
		if err := <-answers; err != nil {
			t.Errorf("released: %v", err)
		}
		if _, err := f.Write(t.Context(), change("1")); err != nil {
			t.Errorf("after the release: %v", err)
		}
	})
}

// fakeSide receives from a FakeBroker as the engine does.
type fakeSide struct {
	*enginetest.FakeBroker
	t *testing.T
}

func onFake(t *testing.T, run func(*testing.T, fakeSide)) {
	synctest.Test(t, func(t *testing.T) { run(t, fakeSide{enginetest.NewFakeBroker(), t}) })
}

func work(typ, priority string) engine.Outgoing {
	return engine.Outgoing{
		Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderType: typ, engine.HeaderPriority: priority}, Body: []byte(typ),
	}
}

// receive wants a batch now.
func (f fakeSide) receive() engine.Batch {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Millisecond)
	defer cancel()
	batch, err := f.Receive(ctx)
	if err != nil {
		f.t.Fatalf("Receive: %v", err)
	}
	return batch
}

// quiet wants none.
func (f fakeSide) quiet() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Millisecond)
	defer cancel()
	if batch, err := f.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		f.t.Fatalf("Receive: %+v, %v; want nothing", batch, err)
	}
}

func (f fakeSide) ack(d engine.Delivery) {
	f.t.Helper()
	if err := f.Ack(d); err != nil {
		f.t.Fatalf("Ack: %v", err)
	}
}

func types(batch engine.Batch) []string {
	var out []string
	for _, d := range batch.Deliveries {
		out = append(out, d.Headers[engine.HeaderType])
	}
	return out
}

func TestFakeBrokerSortsIntoLanes(t *testing.T) {
	onFake(t, func(t *testing.T, f fakeSide) {
		for i := range engine.Levels {
			f.Send(work(fmt.Sprint("t", i), fmt.Sprint(i)))
		}
		f.Send(work("none", ""))
		f.Send(work("over", "99"))
		batch := f.receive()
		want := []string{"t9", "t8", "t7", "t6", "t5", "t4", "t3", "t2", "t1", "t0", "over", "none"}
		if got := types(batch); !slices.Equal(got, want) {
			t.Errorf("delivered %v; want %v", got, want)
		}
		for _, d := range batch.Deliveries {
			if fmt.Sprint(d.Lane) != d.Headers[engine.HeaderPriority] || d.Epoch != 1 || d.Redelivered ||
				d.BrokerID != d.Headers[engine.HeaderMessageID] || d.Headers[engine.HeaderTimestamp] != fmt.Sprint(time.Now().UnixMilli()) {
				t.Errorf("delivered %+v", d)
			}
		}
		f.SetSorted(false)
		f.Send(work("low", "1"))
		f.Send(work("high", "8"))
		batch = f.receive()
		if got := types(batch); !slices.Equal(got, []string{"high", "low"}) || batch.Deliveries[0].Lane != engine.Unsorted {
			t.Errorf("unsorted: %v; want high, low", got)
		}
	})
}

func TestFakeBrokerKeepsWindows(t *testing.T) {
	onFake(t, func(t *testing.T, f fakeSide) {
		f.SetWindow(2)
		for i := range 5 {
			f.Send(work(fmt.Sprint(i), "4"))
		}
		batch := f.receive()
		if got := types(batch); !slices.Equal(got, []string{"0", "1"}) {
			t.Errorf("delivered %v; want 0, 1", got)
		}
		f.quiet()
		if waiting := f.Queue("usher.work.p4"); len(waiting) != 3 || f.InHand() != 2 {
			t.Errorf("%d wait, %d in hand; want 3, 2", len(waiting), f.InHand())
		}
		depths, err := f.Depths(t.Context())
		if err != nil || depths.Lanes[4] != (engine.Depth{Size: 5, InFlight: 2}) || len(depths.Lanes) != engine.Levels+1 {
			t.Errorf("depths: %+v, %v", depths, err)
		}
		f.ack(batch.Deliveries[1])
		if got := types(f.receive()); !slices.Equal(got, []string{"2"}) {
			t.Errorf("delivered %v; want 2", got)
		}
		if err := f.Ack(batch.Deliveries[1]); err == nil {
			t.Error("a second ack was accepted")
		}
		f.SetStatistics(false)
		if _, err := f.Depths(t.Context()); !errors.Is(err, engine.ErrNoStatistics) {
			t.Errorf("depths: %v; want ErrNoStatistics", err)
		}
	})
}

func TestFakeBrokerDeliversAgain(t *testing.T) {
	onFake(t, func(t *testing.T, f fakeSide) {
		for i := range 3 {
			f.Send(work(fmt.Sprint(i), "4"))
		}
		first := f.receive()
		f.ack(first.Deliveries[1])
		f.Disconnect()
		if batch := f.receive(); batch.Epoch != 0 || len(batch.Deliveries) != 0 {
			t.Errorf("disconnected: %+v; want epoch 0", batch)
		}
		f.quiet()
		if err := f.Publish(t.Context(), work("x", "4")); !errors.Is(err, enginetest.ErrDisconnected) {
			t.Errorf("Publish: %v; want ErrDisconnected", err)
		}
		f.Send(work("3", "4"))
		f.Connect()
		second := f.receive()
		if got := types(second); second.Epoch != 2 || !slices.Equal(got, []string{"0", "2", "3"}) {
			t.Fatalf("connected: epoch %d, %v; want 2, [0 2 3]", second.Epoch, got)
		}
		for i, d := range second.Deliveries {
			if again := i < 2; d.Redelivered != again || (d.Headers[engine.HeaderRedelivered] == "true") != again {
				t.Errorf("delivery of %s: redelivered %v; want %v", d.Body, d.Redelivered, again)
			}
		}
		f.ack(first.Deliveries[0]) // of the old session: nothing happens
		if f.InHand() != 3 || !slices.Equal(f.Acked(), []string{first.Deliveries[1].BrokerID}) {
			t.Errorf("%d in hand, acked %v; want 3, one", f.InHand(), f.Acked())
		}
	})
}

func TestFakeBrokerSchedules(t *testing.T) {
	onFake(t, func(t *testing.T, f fakeSide) {
		if batch := f.receive(); batch.Epoch != 1 {
			t.Errorf("at first: %+v; want the session", batch)
		}
		out := work("later", "7")
		out.Headers[engine.HeaderScheduledDelay] = "5000"
		sent := time.Now()
		id := f.Send(out)
		if f.Scheduled() != 1 {
			t.Errorf("%d scheduled; want 1", f.Scheduled())
		}
		f.quiet()
		batch, err := f.Receive(t.Context())
		if err != nil || len(batch.Deliveries) != 1 {
			t.Fatalf("Receive: %+v, %v", batch, err)
		}
		d := batch.Deliveries[0]
		if _, ok := d.Headers[engine.HeaderScheduledDelay]; ok || time.Since(sent) != 5*time.Second || d.BrokerID != id || d.Lane != 7 || d.Headers[engine.HeaderScheduledJob] == "" {
			t.Errorf("after %v: %+v; want it after 5s, in lane 7", time.Since(sent), d)
		}
	})
}

func TestFakeBrokerFailsPublishes(t *testing.T) {
	onFake(t, func(t *testing.T, f fakeSide) {
		f.FailNth(enginetest.CallPublish, 1, enginetest.Before)
		f.FailNth(enginetest.CallPublish, 2, enginetest.After)
		for i, want := range []error{enginetest.ErrInjected, enginetest.ErrInjected, nil} {
			out := engine.Outgoing{Queue: engine.DeadQueue, Body: []byte{byte('0' + i)}}
			if err := f.Publish(t.Context(), out); !errors.Is(err, want) {
				t.Errorf("publish %d: %v; want %v", i, err, want)
			}
			out.Body[0] = 'x' // the broker has its own
		}
		dead := f.Queue(engine.DeadQueue)
		if len(dead) != 2 || string(dead[0].Body) != "1" || string(dead[1].Body) != "2" || len(f.Published()) != 2 {
			t.Errorf("dead letters: %+v; want 1 and 2", dead)
		}
	})
}

func TestFakeBrokerCloses(t *testing.T) {
	onFake(t, func(t *testing.T, f fakeSide) {
		f.receive()
		answer := make(chan error)
		go func() {
			_, err := f.Receive(t.Context())
			answer <- err
		}()
		synctest.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := <-answer; err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("Receive of a closed broker: %v", err)
		}
	})
}
