package worker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"usher/handlers/plugin/wire"
)

// frames records what an outbox sends.
type frames struct {
	sent chan *wire.PluginFrame
	err  error
}

func (f *frames) Send(frame *wire.PluginFrame) error {
	if f.err == nil {
		f.sent <- frame
	}
	return f.err
}

// runOutbox runs an outbox in the bubble; stop closes it and returns what run
// returned.
func runOutbox(credit uint64) (o *outbox, f *frames, stop func() error) {
	o, f = newOutbox(credit), &frames{sent: make(chan *wire.PluginFrame, 100)}
	ended := make(chan error, 1)
	go func() { ended <- o.run(f) }()
	return o, f, func() error { o.close(); return <-ended }
}

func TestProgressIsMergedAndSpacedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, f, stop := runOutbox(2)
		began := time.Now()
		for i := range 1000 {
			o.report(&wire.Progress{Tag: uint64(i % 2), Ratio: float64(i)})
			<-time.After(time.Millisecond)
		}
		<-time.After(progressEvery)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		close(f.sent)
		last := map[uint64]float64{}
		n := 0
		for frame := range f.sent {
			n++
			for _, p := range frame.GetProgress().GetItems() {
				if p.GetRatio() <= last[p.GetTag()] && p.GetRatio() > 0 {
					t.Errorf("tag %d went back to %v", p.GetTag(), p.GetRatio())
				}
				last[p.GetTag()] = p.GetRatio()
			}
		}
		if n < 10 || n > 12 {
			t.Errorf("%d frames in %v", n, time.Since(began))
		}
		if last[0] != 998 || last[1] != 999 {
			t.Errorf("the latest came out as %v", last)
		}
	})
}

func TestFirstProgressDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, f, stop := runOutbox(1)
		o.report(&wire.Progress{Tag: 1, Ratio: 0.5})
		synctest.Wait()
		if len(f.sent) != 1 {
			t.Errorf("%d frames", len(f.sent))
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLastProgressComesBeforeTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, f, stop := runOutbox(2)
		o.report(&wire.Progress{Tag: 1, Ratio: 0.1})
		synctest.Wait()
		<-f.sent
		o.report(&wire.Progress{Tag: 1, Ratio: 0.9}) // not due
		o.report(&wire.Progress{Tag: 2, Ratio: 0.2}) // not due, and still running
		o.finish(&wire.Outcome{Tag: 1})
		synctest.Wait()
		first, second := <-f.sent, <-f.sent
		if items := first.GetProgress().GetItems(); len(items) != 1 || items[0].GetRatio() != 0.9 {
			t.Errorf("first came %v", first)
		}
		if second.GetOutcomes() == nil || len(f.sent) != 0 {
			t.Errorf("then came %v and %d more", second, len(f.sent))
		}
		<-time.After(progressEvery)
		synctest.Wait()
		if items := (<-f.sent).GetProgress().GetItems(); len(items) != 1 || items[0].GetTag() != 2 {
			t.Errorf("at last came %v", items)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOutcomesAreMergedIntoBoundedFrames(t *testing.T) {
	o := newOutbox(100)
	for tag := range uint64(maxOutcomes + 5) {
		o.finish(&wire.Outcome{Tag: tag})
	}
	frames, _, _ := o.take(time.Now())
	if len(frames) != 2 {
		t.Fatalf("%d frames", len(frames))
	}
	for i, want := range []struct {
		outcomes int
		credit   uint64
	}{{maxOutcomes, 100 + maxOutcomes}, {5, 105 + maxOutcomes}} {
		if n := len(frames[i].GetOutcomes().GetOutcomes()); n != want.outcomes || frames[i].GetCredit() != want.credit {
			t.Errorf("frame %d has %d outcomes and a credit of %d, want %+v", i, n, frames[i].GetCredit(), want)
		}
	}
	if again, _, _ := o.take(time.Now()); len(again) != 0 {
		t.Errorf("sent again: %v", again)
	}
}

func TestOnlyTheLastPingIsAnswered(t *testing.T) {
	o := newOutbox(1)
	o.pong(1, 0)
	o.pong(2, 1)
	frames, _, _ := o.take(time.Now())
	if len(frames) != 1 || frames[0].GetPong().GetNonce() != 2 {
		t.Errorf("got %v", frames)
	}
}

func TestOutboxEndsWhenItCannotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, f, stop := runOutbox(1)
		f.err = errors.New("broken")
		o.ready()
		if err := stop(); !errors.Is(err, f.err) {
			t.Errorf("got %v", err)
		}
	})
}
