package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// wire carries nudges between the engines of a test; what is told reaches all.
type wire struct{ to []chan engine.Nudge }

type end struct {
	*wire
	mine chan engine.Nudge
}

func (w *wire) end() *end {
	mine := make(chan engine.Nudge, 10)
	w.to = append(w.to, mine)
	return &end{w, mine}
}

func (e *end) Tell(_ context.Context, n engine.Nudge) error {
	for _, to := range e.to {
		to <- n
	}
	return nil
}

func (e *end) Nudges() <-chan engine.Nudge { return e.mine }

// together runs a test of an engine that has messages, and another one that operators
// and watchers talk to.
func together(t *testing.T, h handlers.HandlerFunc, test func(r, other *rig)) {
	t.Helper()
	w := &wire{}
	control := func(c *engine.Config) { c.Control, c.Slots = w.end(), 2 }
	run(t, h, func(r *rig) {
		r.stop()
		r.start(control)
		other := r.beside(control)
		r.after(time.Second)
		test(r, other)
		r.wantEmpty()
		other.close()
	})
}

func TestAWatcherElsewhereIsToldAtOnce(t *testing.T) {
	together(t, func(context.Context, *handlers.Message) error { pass(time.Minute); return nil }, func(r, other *rig) {
		r.send("m", "a")
		r.after(time.Second)
		other.engine.Watch("m", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)})
		r.after(time.Millisecond)
		if n := len(r.board.status); n == 0 || r.board.status[n-1].State != engine.Processing {
			t.Errorf("told: %+v; want that it is processing", r.board.status)
		}
		r.after(time.Minute)
	})
}

func TestATimeChangedElsewhereBindsForWhatIsReady(t *testing.T) {
	h := func(_ context.Context, m *handlers.Message) error {
		if m.Type == "a" {
			pass(10 * time.Second)
		}
		return nil
	}
	together(t, h, func(r, other *rig) {
		for _, id := range []string{"1", "2", "3", "4"} {
			r.send(id, "a") // they take all slots
		}
		r.send("m", "b")
		r.after(9 * time.Second)
		if _, err := r.records.SetDue(context.Background(), "m", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		other.engine.Nudge(engine.Nudge{Kind: engine.NudgeDelay, ID: "m"})
		r.after(time.Minute)
		r.wantState("m", engine.Delayed)
		r.after(2 * time.Hour)
		r.wantState("m", engine.Done)
	})
}

func TestAShortWaitThatIsEndedElsewhereIsOverAtOnce(t *testing.T) {
	together(t, ok, func(r, other *rig) {
		r.send("m", "a", engine.HeaderDelay, "1900")
		r.after(100 * time.Millisecond)
		if _, err := r.records.SetDue(context.Background(), "m", time.Now()); err != nil {
			t.Fatal(err)
		}
		other.engine.Nudge(engine.Nudge{Kind: engine.NudgeDelay, ID: "m"})
		r.after(100 * time.Millisecond)
		r.wantState("m", engine.Done)
	})
}

func TestWhatIsCancelledElsewhereDoesNotRun(t *testing.T) {
	g := newGauge(10 * time.Second)
	together(t, g.handle, func(r, other *rig) {
		r.send("1", "a")
		r.send("2", "a")
		r.send("m", "b")
		r.after(time.Second)
		if _, err := r.records.Watch(context.Background(), "m", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.records.Cancel(context.Background(), "m", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		other.engine.Nudge(engine.Nudge{Kind: engine.NudgeCancel, ID: "m"})
		r.after(time.Minute)
		if g.count("b") != 0 {
			t.Error("it ran although it was cancelled")
		}
		r.wantState("m", engine.Cancelled)
	})
}

func TestWhatRunsIsStoppedElsewhere(t *testing.T) {
	h := func(ctx context.Context, m *handlers.Message) error {
		<-ctx.Done()
		if m.ID == "faster" {
			return nil
		}
		return context.Cause(ctx)
	}
	together(t, h, func(r, other *rig) {
		r.send("m", "a")
		r.send("faster", "a")
		r.after(time.Second)
		other.engine.Nudge(engine.Nudge{Kind: engine.NudgeCancel, ID: "m"})
		r.after(time.Second)
		r.wantState("m", engine.Processing)
		other.engine.Nudge(engine.Nudge{Kind: engine.NudgeCancel, ID: "m", Stop: true})
		other.engine.Nudge(engine.Nudge{Kind: engine.NudgeCancel, ID: "faster", Stop: true})
		r.after(time.Second)
		if rec := r.wantState("m", engine.Cancelled); rec.Attempts != 0 {
			t.Errorf("the record is %+v; want no attempt counted", rec)
		}
		r.wantState("faster", engine.Done)
		if got := r.board.settled("m"); len(got) != 1 || got[0] != engine.OutcomeCancelled {
			t.Errorf("it was settled as %v", got)
		}
	})
}

func TestANudgeIsReadStrictly(t *testing.T) {
	w := engine.Watcher{Connection: "c", Until: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	want := engine.Nudge{V: 1, Kind: engine.NudgeWatch, ID: "m", Watcher: &w}
	got, err := engine.ParseNudge(want.Marshal())
	if err != nil || got.ID != "m" || got.Watcher == nil || *got.Watcher != w {
		t.Errorf("read %+v, %v; want %+v", got, err, want)
	}
	for _, text := range []string{
		"", "{}", "[]", "null", `{"v":1,"kind":"watch","id":"m"}`, `{"v":1,"kind":"watch","id":"m","watcher":{}}`, `{"v":2,"kind":"delay","id":"m"}`,
		`{"v":1,"kind":"explode","id":"m"}`, `{"v":1,"kind":"delay","id":""}`, `{"v":1,"kind":"delay","id":"a\nb"}`,
		`{"v":1,"kind":"delay","id":"m","x":"` + strings.Repeat("x", engine.MaxNudgeBytes) + `"}`,
	} {
		if n, err := engine.ParseNudge([]byte(text)); err == nil {
			t.Errorf("%.60s was read as %+v", text, n)
		}
	}
}
