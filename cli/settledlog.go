package cli

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/handlers"
)

// settledWaiting is how many lines may wait to be written: a fifth of a second
// or more of what an engine settles. Then lines are lost, and not time.
const settledWaiting = 2048

// settledLog writes one line for each message that is settled. It observes the
// engine, which it never keeps waiting: lines are written by run, and while
// whoever reads them stands still, those that are too many are counted only. It
// is safe for concurrent use.
type settledLog struct {
	log   zerolog.Logger
	lines chan settledLine
	lost  atomic.Int64 // since the last line that told of it
}

// settledLine is a line that is to be written, for what happened.
type settledLine struct {
	to *zerolog.Event
	ev engine.Event
}

func newSettledLog(log zerolog.Logger) *settledLog {
	return &settledLog{log: log, lines: make(chan settledLine, settledWaiting)}
}

var _ engine.Observer = (*settledLog)(nil)

// Observe takes a line for what was settled. It does not block, and does next to
// nothing where lines of level info are not logged.
func (l *settledLog) Observe(ev engine.Event) {
	if ev.Kind != engine.EventSettled {
		return
	}
	to := l.log.Info() //nolint:zerologlint // write sends it
	if to == nil {
		return
	}
	select {
	case l.lines <- settledLine{to, ev}:
	default:
		l.lost.Add(1)
	}
}

// run writes lines until ctx ends, and then those that are left.
func (l *settledLog) run(ctx context.Context) error {
	for {
		select {
		case line := <-l.lines:
			l.write(line)
			continue
		case <-ctx.Done():
		}
		break
	}
	for {
		select {
		case line := <-l.lines:
			l.write(line)
		default:
			return nil
		}
	}
}

func (l *settledLog) write(line settledLine) {
	if n := l.lost.Swap(0); n > 0 {
		l.log.Warn().Int64("lines", n).Msg("lines about settled messages were lost: whoever reads the log is too slow")
	}
	ev := line.ev
	to := line.to.Str("id", short(ev.ID)).Str("type", short(ev.Type)).Int("priority_level", ev.Level).Int("attempt", ev.Attempt).
		Float64("wait_ms", millis(ev.Wait)).Float64("run_ms", millis(ev.Run)).Str("outcome", ev.Outcome).Int("hop", max(ev.Hop, 0))
	if ev.Plugin != "" {
		to.Str("plugin", ev.Plugin)
	}
	if ev.Reason != "" {
		to.Str("reason", ev.Reason)
	}
	if ev.Detail != "" {
		to.Str("detail", handlers.OneLine(ev.Detail, engine.MaxDetailBytes))
	}
	if !ev.Until.IsZero() {
		to.Time("until", ev.Until.UTC())
	}
	if id := traceID(ev.Trace); id != "" {
		to.Str("trace_id", id)
	}
	if ev.Err != nil {
		to.Err(ev.Err)
	}
	to.Msg("settled")
}

// short keeps what a producer chose freely from making a line of any length.
func short(s string) string {
	if len(s) <= engine.MaxIDBytes {
		return s
	}
	return handlers.OneLine(s, engine.MaxIDBytes)
}

// millis is a duration in milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// traceID is the trace of a traceparent header (W3C, version 00 or later); "": it
// is not one.
func traceID(parent string) string {
	const long = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(parent) < long || parent[2] != '-' || parent[35] != '-' || parent[52] != '-' {
		return ""
	}
	id, some := parent[3:35], false
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
		some = some || c != '0'
	}
	if !some {
		return ""
	}
	return id
}
