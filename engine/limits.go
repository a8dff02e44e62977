package engine

import "time"

// limits keep each type within what is configured for it: how many messages run
// at once, and how many are started a second. The loop owns it.
type limits struct {
	running  map[string]int
	next     map[string]time.Time // of types with a rate: when one more may start, if none had been early
	ended    map[string]int       // since measured
	measured time.Time
	speeds   map[string]speed     // of types that have run since they were idle
	turns    map[string]time.Time // when the last one's turn is that was let go
}

// speed is how many messages of a type end a second: an average in which each
// second weighs less than the next.
type speed struct{ sum, weight float64 }

func (s speed) perSecond() float64 { return max(s.sum/s.weight, slowest) }

// known says whether it was measured for some seconds.
func (s speed) known() bool { return s.weight > 1+fade+fade*fade }

func newLimits() limits {
	return limits{
		running: map[string]int{}, next: map[string]time.Time{}, ended: map[string]int{},
		speeds: map[string]speed{}, turns: map[string]time.Time{},
	}
}

const (
	// burst is for how long a type with a rate may be ahead of it, so that what
	// does not come evenly is not held back.
	burst = 100 * time.Millisecond
	// shedEvery is how often windows are looked at, and types measured.
	shedEvery = time.Second
	// fade is how much a second weighs of the next.
	fade = 0.8
	// slowest is the speed that a type is taken to have at least.
	slowest = 0.2
	// farthest is how far ahead a turn can be: a type may become faster.
	farthest = 10 * time.Minute
)

// may says whether one more message of the type may start.
func (l *limits) may(typ string, t Type, now time.Time) bool {
	if t.Concurrency > 0 && l.running[typ] >= t.Concurrency {
		return false
	}
	return l.wait(typ, t, now) == 0
}

// wait is how long until the type's rate lets one more start.
func (l *limits) wait(typ string, t Type, now time.Time) time.Duration {
	if t.Rate == 0 {
		return 0
	}
	return max(l.next[typ].Sub(now.Add(burst)), 0)
}

func (l *limits) started(typ string, t Type, now time.Time) {
	l.running[typ]++
	if t.Rate > 0 {
		l.next[typ] = later(l.next[typ], now).Add(time.Duration(float64(time.Second) / t.Rate))
	}
}

func (l *limits) freed(typ string) {
	l.ended[typ]++
	if l.running[typ]--; l.running[typ] <= 0 {
		delete(l.running, typ)
	}
}

// measure notes how fast the types are.
func (l *limits) measure(now time.Time) {
	seconds := now.Sub(l.measured).Seconds()
	l.measured = now
	for typ := range l.running {
		s := l.speeds[typ]
		n := float64(l.ended[typ]) / max(seconds, shedEvery.Seconds())
		l.speeds[typ] = speed{s.sum*fade + n, s.weight*fade + 1}
	}
	for typ := range l.speeds {
		if l.running[typ] == 0 {
			delete(l.speeds, typ)
		}
	}
	clear(l.ended)
}

// turn is how long one more message of the type has to wait that is let go, behind
// those that stay and those that were let go before.
func (l *limits) turn(typ string, stay int, least time.Duration, now time.Time) time.Duration {
	each := time.Duration(float64(time.Second) / l.speeds[typ].perSecond())
	first := now.Add(max(time.Duration(stay)*each, least+time.Second))
	at := later(first, l.turns[typ].Add(each))
	if last := now.Add(farthest); at.After(last) {
		at = last
	}
	l.turns[typ] = at
	return at.Sub(now)
}
