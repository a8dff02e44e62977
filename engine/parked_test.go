package engine_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

func TestWhatWaitsLongIsParkedAndCostsTheBrokerNothing(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		for i := range 100 {
			r.send(strconv.Itoa(i), "a", engine.HeaderDelay, "1h", "customer", "42")
		}
		r.after(5 * time.Second)
		r.wantEmpty()
		if n := r.records.Bodies(); n != 100 {
			t.Errorf("%d bodies are kept, want 100", n)
		}
		if rec := r.wantState("7", engine.Delayed); rec.Bucket != engine.BucketOf("7") || rec.Hop != 1 {
			t.Errorf("parked in bucket %q at hop %d, want %q and 1", rec.Bucket, rec.Hop, engine.BucketOf("7"))
		}
		published := len(r.broker.Published())
		r.after(time.Hour - 10*time.Second)
		if n := len(r.broker.Published()); n != published {
			t.Errorf("%d messages were sent while all waited, want 0", n-published)
		}
		r.after(10 * time.Second)
		for i := range 100 {
			ran.want(t, strconv.Itoa(i), time.Hour, time.Hour+time.Second)
		}
		r.wantEmpty()
		if n := r.records.Bodies(); n != 0 {
			t.Errorf("%d bodies are kept in the end, want 0", n)
		}
	})
}

func TestAParkedMessageComesBackAsItWas(t *testing.T) {
	var got *handlers.Message
	h := func(_ context.Context, m *handlers.Message) error { got = m; return nil }
	run(t, h, func(r *rig) {
		r.send("1", "a", engine.HeaderDelay, "1m", engine.HeaderPriority, "8", "customer", "42", "traceparent", "00-abc", engine.HeaderContentType, "text/plain")
		r.after(2 * time.Minute)
		if got == nil {
			t.Fatal("it has not run")
		}
		if got.ID != "1" || got.Priority != 8 || got.Headers["customer"] != "42" || got.Headers["traceparent"] != "00-abc" ||
			got.ContentType != "text/plain" || string(got.Body) != `{"id":"1"}` || got.Attempt != 1 {
			t.Errorf("it came back as %+v", got)
		}
	})
}

func TestAReleaseBindsWithinTwoSeconds(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		r.send("1", "a", engine.HeaderDelay, "24h")
		r.after(time.Hour)
		if _, err := r.records.SetDue(context.Background(), "1", time.Now()); err != nil {
			t.Fatal(err)
		}
		r.after(3 * time.Second)
		ran.want(t, "1", time.Hour, time.Hour+2*time.Second)
	})
}

func TestATooLargeMessageWaitsInTheBrokersScheduler(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		r.broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(strings.Repeat("x", engine.MaxParked)), Headers: map[string]string{
			engine.HeaderID: "big", engine.HeaderType: "a", engine.HeaderDelay: "20m",
		}})
		r.after(5 * time.Second)
		if n := r.broker.Scheduled(); n != 1 || r.records.Bodies() != 0 {
			t.Errorf("%d are scheduled and %d kept, want 1 and 0", n, r.records.Bodies())
		}
		r.after(30 * time.Minute)
		ran.want(t, "big", 20*time.Minute, 20*time.Minute+2*time.Second)
	})
}

// refusing is a broker that never takes the message "refused" back.
type refusing struct{ engine.Broker }

func (r refusing) Publish(ctx context.Context, out engine.Outgoing) error {
	if out.Headers[engine.HeaderID] == "refused" {
		return errors.New("refused")
	}
	return r.Broker.Publish(ctx, out)
}

// One message that the broker did not take stopped all that were released with it.
func TestAMessageThatCannotBeReleasedKeepsNoOther(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		r.stop()
		r.start(func(c *engine.Config) { c.Broker = refusing{c.Broker} })
		r.send("refused", "a", engine.HeaderDelay, "1m", engine.HeaderPriority, "9")
		for i := range 400 {
			r.send(strconv.Itoa(i), "a", engine.HeaderDelay, "1m")
		}
		r.after(2 * time.Minute)
		for i := range 400 {
			ran.want(t, strconv.Itoa(i), time.Minute, time.Minute+2*time.Second)
		}
		if rec := r.wantState("refused", engine.Delayed); rec.Bucket == "" {
			t.Error("the one that was refused is not parked any more")
		}
	})
}

// faultyIndex loses the answer of the first Unpark, and does it or not.
type faultyIndex struct {
	engine.DueIndex
	lost  atomic.Bool
	apply bool
}

func (f *faultyIndex) Unpark(ctx context.Context, u engine.Unpark) (engine.Record, error) {
	if f.lost.CompareAndSwap(false, true) {
		if f.apply {
			if _, err := f.DueIndex.Unpark(ctx, u); err != nil {
				return engine.Record{}, err
			}
		}
		return engine.Record{}, errors.New("the answer was lost")
	}
	return f.DueIndex.Unpark(ctx, u)
}

// A copy is sent and the engine dies, or loses the answer, before the record
// says so: it may be sent again, and has one effect.
func TestACopyThatIsReleasedTwiceHasOneEffect(t *testing.T) {
	for name, apply := range map[string]bool{"not written": false, "written": true} {
		t.Run(name, func(t *testing.T) {
			ran := 0
			h := func(context.Context, *handlers.Message) error { ran++; return nil }
			run(t, h, func(r *rig) {
				r.stop()
				r.start(func(c *engine.Config) { c.Index = &faultyIndex{DueIndex: c.Index, apply: apply} })
				r.send("1", "a", engine.HeaderDelay, "1m")
				r.after(2 * time.Minute)
				if ran != 1 {
					t.Errorf("it ran %d times, want once", ran)
				}
				r.wantState("1", engine.Done)
				r.wantEmpty()
			})
		})
	}
}

func TestTheBucketsOfADeadEngineAreTakenOverWithinTenSeconds(t *testing.T) {
	ran := newTimes()
	run(t, ran.handle, func(r *rig) {
		for i := range 50 {
			r.send(strconv.Itoa(i), "a", engine.HeaderDelay, "30s")
		}
		r.after(20 * time.Second)
		other, err := r.records.Leases(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		// It took its share, and died.
		if err := r.records.SetLeases(context.Background(), other.Share("dead", time.Now(), time.Now().Add(engine.LeaseFor))); err != nil {
			t.Fatal(err)
		}
		r.after(time.Minute)
		for i := range 50 {
			ran.want(t, strconv.Itoa(i), 30*time.Second, 40*time.Second)
		}
	})
}

// An operator's time, set while an attempt ran that ended in RetryAfter, was
// overwritten by the retry's.
func TestAnOperatorsTimeOutlivesTheRetryOfARunningAttempt(t *testing.T) {
	var at []time.Duration
	began := newTimes().began
	h := func(context.Context, *handlers.Message) error {
		at = append(at, time.Since(began))
		if len(at) == 1 {
			pass(10 * time.Second)
			return handlers.RetryAfter(time.Minute, errors.New("not yet"))
		}
		return nil
	}
	run(t, h, func(r *rig) {
		r.send("1", "a")
		r.after(5 * time.Second)
		if _, err := r.records.SetDue(context.Background(), "1", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		r.after(2 * time.Hour)
		if len(at) != 2 || at[1] < time.Hour+5*time.Second || at[1] > time.Hour+7*time.Second {
			t.Errorf("it ran at %v; want the second time an hour after the operator spoke", at)
		}
	})
}
