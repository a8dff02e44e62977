package stomp

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
)

// Finding is one thing that usher relies on at its broker, and whether it is so.
type Finding struct {
	// Name is one word, of the Finding constants.
	Name  string
	State FindingState
	// Detail says in one line what was found, Help what to do about it.
	Detail, Help string
}

// log warns of a finding that is not well.
func (f Finding) log(log zerolog.Logger) {
	log.Warn().Str("finding", f.Name).Str("state", string(f.State)).Str("help", f.Help).Msg(f.Name + ": " + f.Detail)
}

// FindingState says how a finding turned out.
type FindingState string

// The states of a finding. Unknown is what was not found out, at least not yet.
const (
	OK      FindingState = "ok"
	Failed  FindingState = "failed"
	Unknown FindingState = "unknown"
)

// The names of findings.
const (
	FindingLanes      = "lanes"
	FindingScheduler  = "scheduler"
	FindingStatistics = "statistics"
	FindingDurability = "durability"
	FindingTimestamps = "timestamps"
	FindingClock      = "clock"
)

// clockLimit is how far the broker's clock may be from ours.
const clockLimit = time.Second

// Findings is what the session's probe, and its questions for depths, have shown
// of the broker so far: what is in force there, whatever its XML says. A probe
// that comes late still counts. Without Config.Probe, and without a session, it
// is nil.
func (b *Broker) Findings() []Finding {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	if c == nil || c.probe == nil {
		return nil
	}
	return c.findings()
}

func (c *consumer) findings() []Finding {
	p := c.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	return []Finding{
		p.lanes(c.queue, func(level int) bool { return c.filled[level].Load() }),
		p.scheduler(), c.depths.finding(), p.durability(), p.timestamps(), p.clock(),
	}
}

// lanes says where the broker puts messages of each level. filled says whether
// others of the level have come out of its lane: then a probe that has not come
// stands behind them. The lock is held, here as in the other findings.
func (p *probe) lanes(queue string, filled func(level int) bool) Finding {
	f := Finding{Name: FindingLanes, State: OK, Detail: "the broker puts the messages of each level into its own lane"}
	var without, missing, behind, twice, faults []string
	for level := engine.Levels - 1; level >= 0; level-- {
		name := strconv.Itoa(level)
		seen := p.seen[name]
		switch {
		case len(seen) == 0 && filled(level):
			behind = append(behind, name)
		case len(seen) == 0:
			missing = append(missing, name)
		case len(seen) > 1:
			twice = append(twice, name)
		case seen[0].Lane == engine.Unsorted:
			without = append(without, name)
		case seen[0].Lane != level:
			faults = append(faults, fmt.Sprintf("level %d comes out in %s", level, places(queue, seen)))
		}
	}
	switch {
	case len(without) == engine.Levels:
		faults = append(faults, fmt.Sprintf("there are none: all messages stay in %s, where the broker keeps three bands of priority and not ten levels", queue))
	case len(without) > 0:
		faults = append(faults, fmt.Sprintf("%s no lane: what is sent stays in %s", levels(without, "has", "have"), queue))
	}
	if len(twice) > 0 {
		faults = append(faults, fmt.Sprintf("%s out more than once: in %s", levels(twice, "comes", "come"), places(queue, p.seen[twice[0]])))
	}
	switch {
	case len(missing) == 0 && len(faults) == 0 && len(behind) > 0:
		f.Detail += fmt.Sprintf(" (%s behind a backlog, which came out of its own lane)", levels(behind, "is", "are"))
	case len(missing) == 0:
	case p.err != nil:
		f.State, f.Detail = Unknown, "a message of each level could not be sent: "+p.err.Error()
		f.Help = "the user of the broker must be allowed to write to " + queue
	case !p.over:
		f.State, f.Detail = Unknown, "a message of each level is on its way"
	default:
		faults = append(faults, fmt.Sprintf("no message of %s came out within %v: the broker loses them, or is slow", levels(missing, "", ""), probeTimeout))
	}
	if len(faults) > 0 {
		f.State, f.Detail = Failed, strings.Join(faults, "; ")
		f.Help = "`usher deploy broker-xml` writes the lanes: take its <destinationInterceptors> into the broker's XML and restart the broker"
	}
	return f
}

// levels says which: "level 3 has", "levels 7 and 3 have".
func levels(names []string, one, many string) string {
	n := len(names) - 1
	if n == 0 {
		return strings.TrimSpace("level " + names[0] + " " + one)
	}
	return strings.TrimSpace("levels " + strings.Join(names[:n], ", ") + " and " + names[n] + " " + many)
}

// places names the queues of sightings.
func places(queue string, seen []sighting) string {
	var names []string
	for _, s := range seen {
		names = append(names, laneQueue(queue, s.Lane))
	}
	return strings.Join(names, " and ")
}

func (p *probe) scheduler() Finding {
	f := Finding{Name: FindingScheduler, State: OK, Detail: "the broker holds messages that wait"}
	seen := p.seen[scheduled]
	switch {
	case len(seen) == 0:
		return p.unknown(f)
	case !seen[0].Scheduled:
		f.State, f.Detail = Failed, "it is off: messages that wait (AMQ_SCHEDULED_DELAY) come back at once, over and over"
		f.Help = `set schedulerSupport="true" on <broker> in the broker's XML and restart the broker`
	}
	return f
}

func (p *probe) durability() Finding {
	f := Finding{Name: FindingDurability, State: OK, Detail: "the broker makes every message durable"}
	for level := range engine.Levels {
		for _, s := range p.seen[strconv.Itoa(level)] {
			if !s.Persistent {
				f.State, f.Detail = Failed, "what a producer sends without persistent:true is lost when the broker restarts"
				f.Help = `add <forcePersistencyModeBrokerPlugin persistenceFlag="true"/> to <plugins> in the broker's XML and restart the broker`
				return f
			}
		}
	}
	if p.seenLevels() == 0 {
		return p.unknown(f)
	}
	return f
}

func (p *probe) timestamps() Finding {
	f := Finding{Name: FindingTimestamps, State: OK, Detail: "messages bear the broker's time"}
	seen := p.seen["9"]
	switch {
	case len(seen) == 0:
		return p.unknown(f)
	case seen[0].Timestamp == falseTimestamp:
		f.State, f.Detail = Failed, "messages bear the time that producers say: delays, and how long a message has waited, go by their clocks"
		f.Help = "add <timeStampingBrokerPlugin/> to <plugins> in the broker's XML and restart the broker"
	}
	return f
}

func (p *probe) clock() Finding {
	f := Finding{Name: FindingClock, State: OK}
	var off time.Duration
	known := false
	for name, s := range p.sent {
		seen := p.seen[name]
		if name == scheduled || len(seen) == 0 || seen[0].Timestamp == falseTimestamp {
			continue // it does not bear the time when the broker took it
		}
		if o := s.off(time.UnixMilli(seen[0].Timestamp)); !known || o.Abs() < off.Abs() {
			off, known = o, true
		}
	}
	switch {
	case !known:
		return p.unknown(f)
	case off.Abs() > clockLimit && off > 0:
		f.State, f.Detail = Failed, fmt.Sprintf("the broker's clock is %v ahead of this machine's", off.Round(100*time.Millisecond))
	case off.Abs() > clockLimit:
		f.State, f.Detail = Failed, fmt.Sprintf("the broker's clock is %v behind this machine's", -off.Round(100*time.Millisecond))
	default:
		f.Detail = fmt.Sprintf("the broker's clock and this machine's are within %v", clockLimit)
		return f
	}
	f.Help = "set both by NTP: delays, expiry and waiting times are told by the broker's time and compared with ours"
	return f
}

// off is how far t is outside of the stretch, at least: above 0 if it is after it.
func (s stretch) off(t time.Time) time.Duration {
	switch {
	case t.Before(s.from.Truncate(time.Millisecond)):
		return t.Sub(s.from)
	case t.After(s.to):
		return t.Sub(s.to)
	}
	return 0
}

// unknown is a finding whose probe has not come out.
func (p *probe) unknown(f Finding) Finding {
	f.State = Unknown
	switch {
	case p.err != nil:
		f.Detail = "not known: a probe could not be sent: " + p.err.Error()
	case p.over:
		f.Detail = fmt.Sprintf("not known: its probe did not come out within %v", probeTimeout)
	default:
		f.Detail = "not known yet: its probe is on its way"
	}
	return f
}

func (d *depths) finding() Finding {
	f := Finding{Name: FindingStatistics, State: OK, Detail: "the broker tells how much waits in each lane"}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case errors.Is(d.lastErr, engine.ErrNoStatistics):
		f.State, f.Detail = Failed, "the broker does not tell how much waits: order is kept by what comes alone, and depths are not known"
		f.Help = "add <statisticsBrokerPlugin/> to <plugins> in the broker's XML and restart the broker; it needs xstream and jettison on the class path"
	case !d.told:
		f.State, f.Detail = Unknown, "not known yet: the broker was asked how much waits"
	}
	return f
}
