package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/engine"
	"usher/handlers"
)

const progressEvery = 250 * time.Millisecond

// clocked is a notifier that keeps when it was told what.
type clocked struct {
	mu   sync.Mutex
	told []telling // guarded by mu
}

type telling struct {
	engine.Status

	when time.Time
}

func (c *clocked) Notify(_ []engine.Watcher, s engine.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, telling{s, time.Now()})
}

// all is what watchers were told so far.
func (c *clocked) all() []telling {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.told)
}

func (c *clocked) option(cfg *engine.Config) { cfg.Notifier = c }

// watch enters a watcher of the id before it is sent.
func (r *rig) watch(id string) {
	r.t.Helper()
	if _, err := r.records.Watch(context.Background(), id, engine.Watcher{Connection: "c", Until: time.Now().Add(24 * time.Hour)}); err != nil {
		r.t.Fatal(err)
	}
}

func TestProgressIsToldFourTimesASecondAndTheLastOneAlways(t *testing.T) {
	const reports = 300
	h := func(_ context.Context, m *handlers.Message) error {
		for n := 1; n <= reports; n++ {
			m.Progress(float64(n)/reports, strconv.Itoa(n))
			pass(10 * time.Millisecond)
		}
		return nil
	}
	var c clocked
	run(t, h, func(r *rig) {
		r.watch("1")
		r.send("1", "a")
		r.after(time.Minute)
		var progress []telling
		for _, s := range c.all() {
			if s.Progress != nil {
				progress = append(progress, s)
			}
		}
		if n := len(progress); n < 12 || n > 14 {
			t.Errorf("%d of %d reports in 3 s were told", n, reports)
		}
		if last := progress[len(progress)-1]; last.Note != strconv.Itoa(reports) || *last.Progress != 1 {
			t.Errorf("the last one told is %+v", last)
		}
	}, c.option)
}

func TestProgressThatIsHeldBackIsToldInTime(t *testing.T) {
	begun := make(chan struct{})
	h := func(_ context.Context, m *handlers.Message) error {
		m.Progress(0.1, "first")
		m.Progress(0.2, "second")
		m.Progress(0.3, "third")
		close(begun)
		pass(time.Minute)
		return nil
	}
	var c clocked
	run(t, h, func(r *rig) {
		r.watch("1")
		r.send("1", "a")
		r.after(time.Second)
		<-begun
		told := c.all()
		if len(told) != 3 || told[0].Progress != nil || told[1].Note != "first" || told[2].Note != "third" {
			t.Fatalf("told %+v", told)
		}
		if took := told[2].when.Sub(told[1].when); took != progressEvery {
			t.Errorf("the third was told after %v", took)
		}
		if s, ok := r.engine.InHand("1"); !ok || s.Note != "third" {
			t.Errorf("the engine knows %+v", s)
		}
	}, c.option, func(c *engine.Config) { c.Types["a"] = engine.Type{Timeout: 2 * time.Minute} })
}

// step is something that a handler does in the model below.
type step struct {
	pause  time.Duration
	report bool
}

// attemptScript is what one attempt does and answers.
type attemptScript struct {
	steps  []step
	answer string
}

func drawScript(t *rapid.T) []attemptScript {
	var script []attemptScript
	for n := rapid.IntRange(1, 4).Draw(t, "attempts"); n > 0; n-- {
		var a attemptScript
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			a.steps = append(a.steps, step{time.Duration(rapid.IntRange(0, 400).Draw(t, "ms")) * time.Millisecond, rapid.Bool().Draw(t, "reports")})
		}
		a.answer = rapid.SampledFrom([]string{"again", "later", "defer"}).Draw(t, "answer")
		if n == 1 {
			a.answer = rapid.SampledFrom([]string{"done", "drop", "never"}).Draw(t, "end")
		}
		script = append(script, a)
	}
	return script
}

var errScript = errors.New("as the script says")

func (a attemptScript) answered() error {
	switch a.answer {
	case "again":
		return errScript
	case "later":
		return handlers.RetryAfter(3*time.Second, errScript)
	case "defer":
		return handlers.Defer(6 * time.Second)
	case "drop":
		return handlers.Drop()
	case "never":
		return handlers.Permanent(errScript, "never")
	}
	return nil
}

// Whatever a handler does: what is told of its message never goes back, ends
// with its end, and has each attempt's last progress and not too much of the rest.
func TestTheSequenceOfStatuses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt)
		runs := 0
		var last []string // progress of each attempt
		h := func(_ context.Context, m *handlers.Message) error {
			a := script[runs]
			runs++
			note := ""
			for i, s := range a.steps {
				if pass(s.pause); s.report {
					note = fmt.Sprintf("%d.%d", runs, i)
					m.Progress(0.5, note)
				}
			}
			if note != "" {
				last = append(last, note)
			}
			return a.answered()
		}
		var c clocked
		run(t, h, func(r *rig) {
			r.watch("1")
			r.send("1", "a")
			r.after(90 * time.Second)
		}, c.option, func(c *engine.Config) { c.Types["a"] = engine.Type{Attempts: 100, Timeout: time.Minute} })
		told := c.all()
		end := map[string]engine.State{"done": engine.Done, "drop": engine.Cancelled, "never": engine.Dead}[script[len(script)-1].answer]
		if runs != len(script) || told[len(told)-1].State != end {
			rt.Fatalf("after %d of %d attempts the last status is %+v, want %s", runs, len(script), told[len(told)-1], end)
		}
		checkSequence(rt, told, last)
	})
}

// checkSequence checks the statuses of one message against the last progress of
// its attempts.
func checkSequence(t *rapid.T, told []telling, last []string) {
	var progress []telling
	for i, s := range told {
		if i > 0 && !told[i-1].Seq.Less(s.Seq) {
			t.Fatalf("%+v is told after %+v", s, told[i-1])
		}
		if s.State.Final() != (i == len(told)-1) {
			t.Fatalf("%s is status %d of %d", s.State, i+1, len(told))
		}
		if s.Progress == nil {
			continue
		}
		progress = append(progress, s)
		if next := told[i+1]; next.Progress == nil {
			if len(last) == 0 || s.Note != last[0] {
				t.Fatalf("before %s comes the progress %q, want the first of %v", next.State, s.Note, last)
			}
			last = last[1:]
		}
	}
	if len(last) > 0 {
		t.Fatalf("the progress %v is not told", last)
	}
	for i := 2; i < len(progress); i++ { // of two of one attempt, one may come early, before the outcome
		same := progress[i].Note[:2] == progress[i-2].Note[:2]
		if within := progress[i].when.Sub(progress[i-2].when); same && within < progressEvery {
			t.Fatalf("three reports are told within %v: %+v", within, progress[i-2:i+1])
		}
	}
}
