package pluginhost

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"usher/handlers"
)

// The wait before a process is started again: at random below a bound, which
// doubles with each failure. A process that was ready for healthyAfter makes it
// begin anew.
const (
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 30 * time.Second
	healthyAfter = time.Minute
)

// backoff is the wait after so many failures before this one; jitter is 0 to 1.
func backoff(failures int, jitter float64) time.Duration {
	bound := min(firstBackoff<<min(failures, 10), maxBackoff)
	return time.Duration(jitter * float64(bound))
}

// errExited is not shown: how a process ended by itself says more.
var errExited = errors.New("it ended")

// supervisor keeps one process of a plugin up.
type supervisor struct {
	name       string
	plugin     Plugin
	drain      time.Duration
	runtimeDir string
	version    string // of the host
	launcher   *launcher
	out        *output
	log        zerolog.Logger
	changed    func()

	leftovers sync.WaitGroup // what go-plugin does after a process has ended

	session  atomic.Pointer[session] // nil: none takes messages
	wasReady chan struct{}           // closed when it has once been ready

	quarantined atomic.Bool // as bad says

	mu     sync.Mutex   // guards the rest
	status PluginStatus // but for what is worked out when it is looked at
	bad    quarantine
	served []string // types that the latest process said it handles, in order; nil: none has said so
}

// route has the types that are routed to the plugin be these.
func (v *supervisor) route(types []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.Types = types
}

// routed are the types that are routed to it, in order; not to be changed.
func (v *supervisor) routed() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status.Types
}

// handled are the types that its latest process said it handles; nil: none has
// said so.
func (v *supervisor) handled() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.served
}

// run keeps the plugin up until ctx ends, and returns when its process has ended.
func (v *supervisor) run(ctx context.Context) {
	v.enter(Starting, nil)
	for failures := 0; ; failures++ {
		healthy, err := v.once(ctx)
		if ctx.Err() != nil {
			v.finish()
			v.enter(Stopped, func(s *PluginStatus) { s.PID = 0 })
			v.log.Info().AnErr("how", err).Msg("the plugin is stopped")
			return
		}
		if healthy >= healthyAfter {
			failures = 0
		}
		if healthy > 0 {
			v.crashed()
		}
		wait := backoff(failures, rand.Float64())
		why := handlers.OneLine(err.Error(), maxError)
		v.enter(Backoff, func(s *PluginStatus) { s.PID, s.LastError = 0, why })
		v.log.Error().Str("error", why).Strs("output", v.out.last()).Stringer("again_in", wait.Round(time.Millisecond)).Msg("the plugin is down")
		if v.pause(ctx, wait) {
			v.enter(Starting, func(s *PluginStatus) { s.Restarts++ })
		}
	}
}

// finish waits for what go-plugin still does, but not for ever.
func (v *supervisor) finish() {
	done := make(chan struct{})
	go func() { defer close(done); v.leftovers.Wait() }()
	within(killLimit, done)
}

// maxError is the longest LastError, in bytes.
const maxError = 1 << 10

// pause waits; false if ctx ended before.
func (v *supervisor) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once runs one process, and returns how long it was ready and why it ended.
func (v *supervisor) once(ctx context.Context) (healthy time.Duration, err error) {
	if ctx.Err() != nil {
		return 0, errStopped
	}
	began := time.Now()
	l, err := v.start(ctx)
	if err != nil {
		return 0, err
	}
	ready := time.Now()
	v.becomeReady(l, ready.Sub(began))
	select {
	case <-l.session.broken:
		err = l.session.broke()
	case <-l.process.exited:
		err = errExited
	case <-ctx.Done():
		v.enter(Draining, nil)
		l.session.stop(v.drain)
		err = nil
	}
	v.session.Store(nil)
	healthy = time.Since(ready)
	return healthy, v.end(l, err)
}

func (v *supervisor) becomeReady(l *life, took time.Duration) {
	d := l.description
	version := handlers.OneLine(d.GetVersion(), maxName)
	v.session.Store(l.session)
	v.enter(Ready, func(s *PluginStatus) { s.PID, s.Version = l.process.group(), version })
	v.changed()
	closeOnce(v.wasReady)
	v.log.Info().Int("pid", l.process.group()).Str("version", version).Str("name", handlers.OneLine(d.GetName(), maxName)).
		Str("sdk", handlers.OneLine(d.GetSdk(), maxName)).Stringer("took", took.Round(time.Millisecond)).Msg("the plugin is ready")
}

// maxName is the longest of the names that a plugin gives itself, in bytes.
const maxName = 128

// enter moves the status on.
func (v *supervisor) enter(state State, change func(*PluginStatus)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.State, v.status.Since = state, time.Now()
	if change != nil {
		change(&v.status)
	}
}

// look is the status as it is now.
func (v *supervisor) look() PluginStatus {
	v.mu.Lock()
	status := v.status
	for _, at := range v.bad.crashes {
		if time.Since(at) <= quarantineWithin {
			status.Crashes++
		}
	}
	status.Quarantined = v.bad.since
	v.mu.Unlock()
	status.Types = slices.Clone(status.Types)
	if s := v.session.Load(); s != nil {
		status.InFlight = s.inHand()
	}
	return status
}
