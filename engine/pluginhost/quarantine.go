package pluginhost

import (
	"errors"
	"slices"
	"time"

	"usher/engine"
)

// A plugin whose process crashes often takes its messages down with it, again and
// again. In quarantine it gets one message at a time, and the rest waits outside.
const (
	// quarantineAfter crashes within quarantineWithin put a plugin into quarantine.
	quarantineAfter  = 5
	quarantineWithin = 10 * time.Minute
	// fineAfter messages in a row without a crash end it: one could be the only one
	// that does no harm.
	fineAfter = 3
)

// quarantine is what is known of a plugin's crashes; its supervisor's, under its lock.
type quarantine struct {
	crashes []time.Time // within quarantineWithin, the oldest first
	since   time.Time   // zero: it is in none
	fine    int         // messages without a crash, one after the other
}

// crashed notes that a process ended that was ready; it says whether a quarantine begins.
func (q *quarantine) crashed(now time.Time) (begins bool) {
	q.crashes = slices.DeleteFunc(q.crashes, func(at time.Time) bool { return now.Sub(at) > quarantineWithin })
	q.crashes = append(q.crashes, now)
	q.fine = 0
	if len(q.crashes) < quarantineAfter || !q.since.IsZero() {
		return false
	}
	q.since = now
	return true
}

// worked notes a message that came back; it says whether the quarantine ends.
func (q *quarantine) worked() (ends bool) {
	if q.since.IsZero() {
		return false
	}
	if q.fine++; q.fine < fineAfter {
		return false
	}
	*q = quarantine{}
	return true
}

// crashed notes that the process ended by itself.
func (v *supervisor) crashed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad.crashed(time.Now()) {
		v.quarantined.Store(true)
		v.log.Error().Int("crashes", len(v.bad.crashes)).Stringer("within", quarantineWithin).
			Msg("the plugin is in quarantine: it gets one message at a time until three in a row come back, the others wait; look at why it crashes")
	}
}

// answered notes how a message came back.
func (v *supervisor) answered(err error) {
	if !v.quarantined.Load() || errors.Is(err, engine.ErrPluginLost) {
		return
	}
	v.mu.Lock()
	ends := v.bad.worked()
	if ends {
		v.quarantined.Store(false)
	}
	v.mu.Unlock()
	if ends {
		v.log.Info().Msg("the plugin is out of quarantine: its messages flow again")
	}
	v.changed()
}

// takesProbe says whether a plugin in quarantine could be given a message.
func (v *supervisor) takesProbe() bool {
	s := v.session.Load()
	return s != nil && s.level.Load() > 0 && s.inHand() == 0
}
