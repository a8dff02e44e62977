package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"usher/engine"
)

// written gives the lines that are logged at a level for what was observed.
func written(t *testing.T, level string, events ...engine.Event) []map[string]any {
	t.Helper()
	var out bytes.Buffer
	log, _, err := newLogger(&out, level, "json")
	if err != nil {
		t.Fatal(err)
	}
	l := newSettledLog(log)
	for _, ev := range events {
		l.Observe(ev)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is left is written
	if err := l.run(ctx); err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range strings.Lines(out.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		delete(fields, "time")
		lines = append(lines, fields)
	}
	return lines
}

func settledOne() engine.Event {
	return engine.Event{
		Kind: engine.EventSettled, ID: "order-7", Type: "order.placed", Plugin: "orders", Level: 8, Attempt: 2, Hop: 1,
		Wait: 1500 * time.Microsecond, Run: 2 * time.Second, Outcome: engine.OutcomeDone,
		Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}

func TestOneLineForEachSettledMessage(t *testing.T) {
	dead := settledOne()
	dead.Outcome, dead.Reason, dead.Detail, dead.Trace = engine.OutcomeDeadLettered, engine.ReasonExhausted, "no answer\nat all", "00-abc"
	got := written(t, "info", engine.Event{Kind: engine.EventStarted}, settledOne(), engine.Event{Kind: engine.EventRan}, dead)
	if len(got) != 2 {
		t.Fatalf("%d lines, want 2: %v", len(got), got)
	}
	want := map[string]any{
		"id": "order-7", "type": "order.placed", "plugin": "orders", "priority_level": 8., "level": "info", "attempt": 2., "hop": 1.,
		"wait_ms": 1.5, "run_ms": 2000., "outcome": "done", "message": "settled", "trace_id": "0af7651916cd43dd8448eb211c80319c",
		"reason": nil, "detail": nil, "until": nil, "error": nil,
	}
	for name, v := range want {
		if got[0][name] != v {
			t.Errorf("%s is %v, want %v", name, got[0][name], v)
		}
	}
	for name, v := range map[string]any{"outcome": "dead_lettered", "reason": "exhausted", "detail": "no answer at all", "trace_id": nil} {
		if got[1][name] != v {
			t.Errorf("of a dead letter, %s is %v, want %v", name, got[1][name], v)
		}
	}
}

func TestWhatAProducerChoosesBreaksNoLine(t *testing.T) {
	ev := settledOne()
	ev.ID, ev.Type = "a\"}\n{\"\xff\x1b[2J", strings.Repeat("ö", 60_000)
	ev.Trace, ev.Err = strings.Repeat("x", 60_000), errors.New("line\nline")
	got := written(t, "info", ev)
	if len(got) != 1 || !strings.HasPrefix(got[0]["id"].(string), "a\"}\n{\"") || len(got[0]["type"].(string)) > engine.MaxIDBytes || got[0]["trace_id"] != nil {
		t.Errorf("it is logged as %v", got)
	}
}

func TestNothingIsWrittenAboveInfo(t *testing.T) {
	if got := written(t, "warn", settledOne()); got != nil {
		t.Errorf("logged: %v", got)
	}
}

func TestASlowReaderOfTheLogCostsLinesAndNoTime(t *testing.T) {
	events := make([]engine.Event, settledWaiting+3)
	for i := range events {
		events[i] = settledOne()
	}
	got := written(t, "info", events...)
	if len(got) != settledWaiting+1 || got[0]["lines"] != 3. || got[0]["level"] != "warn" {
		t.Errorf("%d lines, the first %v", len(got), got[0])
	}
}

func TestTraceIDsAreReadOrLeftOut(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01":                      id,
		"01-" + id + "-b7ad6b7169203331-01-more":                 id,
		"00-" + strings.ToUpper(id) + "-b7ad6b7169203331-01":     "",
		"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01": "",
		"00-" + id + "-b7ad6b716920333-01":                       "",
		"":                                                       "",
	} {
		if got := traceID(parent); got != want {
			t.Errorf("the trace of %q is %q, want %q", parent, got, want)
		}
	}
}

func BenchmarkSettledLog(b *testing.B) {
	for _, level := range []string{"info", "warn"} {
		b.Run(level, func(b *testing.B) {
			log, _, err := newLogger(io.Discard, level, "json")
			if err != nil {
				b.Fatal(err)
			}
			l, ev := newSettledLog(log.With().Str("part", "engine").Logger()), settledOne()
			b.ReportAllocs()
			for b.Loop() {
				l.Observe(ev)
				select {
				case line := <-l.lines:
					l.write(line)
				default:
				}
			}
		})
	}
}

func TestAProcessLogsWhatItSettlesBeforeItEnds(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(0, "logged", "send", "order.rush", "--id", "logged")
	u.eventually(5*time.Second, "done", func() bool { return u.message("logged").State == engine.Done })
	u.stop()
	if log := u.stderr.String(); strings.Count(log, `"id":"logged"`) != 1 || !strings.Contains(log, `"outcome":"done"`) {
		t.Errorf("logged: %s", log)
	}
}
