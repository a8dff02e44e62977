package pluginhost

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"usher/engine"
	"usher/handlers"
)

// apartFor is how long a process apart is kept after its last message, for the next.
const apartFor = 30 * time.Second

// apart is a process beside that of a plugin, for messages that it crashed with. It
// is not started again by itself, and how it ends says nothing of the plugin.
type apart struct {
	*run
	idle *time.Timer // ends it; nil: it was not used yet
}

// HandleAlone is HandleMessage in a process of its own, which it starts where there
// is none; one message of a plugin at a time, further ones wait. If that process ends,
// the error wraps engine.ErrPluginLost and has its last words; if it cannot be started,
// engine.ErrPluginAway.
func (h *Host) HandleAlone(ctx context.Context, m *handlers.Message) error {
	r := h.routes.Load()
	p := r.places[r.types[m.Type]]
	if p == nil {
		return noPlugin(m.Type)
	}
	var a *apart
	select {
	case a = <-p.apart:
	case <-ctx.Done():
		return fmt.Errorf("plugin %s: %w: its process apart is busy", p.current.Load().name, engine.ErrPluginAway)
	}
	defer func() { p.apart <- a }()
	if a = h.keepApart(p, a); a == nil {
		return fmt.Errorf("%w: the host does not run", engine.ErrPluginAway)
	}
	defer a.rest()
	select {
	case <-a.v.wasReady:
	case <-a.ended:
	case <-ctx.Done():
		return fmt.Errorf("plugin %s: %w: its process apart is not ready yet", a.v.name, engine.ErrPluginAway)
	}
	s := a.v.session.Load()
	if s == nil {
		return fmt.Errorf("plugin %s: %w: its process apart: %s", a.v.name, engine.ErrPluginAway, a.v.look().LastError)
	}
	if err := s.handle(ctx, m); err != nil {
		return fmt.Errorf("alone in its process: %w", err)
	}
	return nil
}

// keepApart gives the process apart, a new one if there is none or it is not what the
// plugin is now; nil if Run has not begun or ends.
func (h *Host) keepApart(p *place, a *apart) *apart {
	v := p.current.Load()
	if a != nil {
		a.idle.Stop()
		if a.serves(v.plugin) {
			return a
		}
		a.stop()
		<-a.ended
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running == nil || h.running.Err() != nil {
		return nil
	}
	return &apart{run: h.launchApart(p, v.twin())}
}

// serves says whether it takes messages, or is about to, and is a process of the plugin.
func (a *apart) serves(plugin Plugin) bool {
	select {
	case <-a.v.wasReady:
		if a.v.session.Load() == nil {
			return false
		}
	case <-a.ended:
		return false
	default:
	}
	return a.stopping.Err() == nil && reflect.DeepEqual(a.v.plugin, plugin)
}

// launchApart starts one process; the lock is held.
func (h *Host) launchApart(p *place, v *supervisor) *run {
	ctx, stop := context.WithCancel(h.running)
	r := &run{v, ctx, stop, make(chan struct{})}
	h.work.Go(func() {
		defer close(r.ended)
		defer stop()
		_, err := v.once(ctx)
		if err != nil && ctx.Err() == nil {
			why := handlers.OneLine(err.Error(), maxError)
			v.enter(Stopped, func(s *PluginStatus) { s.PID, s.LastError = 0, why })
			v.log.Warn().Str("error", why).Msg("the process that a message had for itself has ended with it")
		}
		v.finish()
	})
	h.work.Go(func() {
		select {
		case <-p.gone:
			stop()
		case <-ctx.Done():
		}
	})
	return r
}

// rest has the process end after a while without messages.
func (a *apart) rest() { a.idle = time.AfterFunc(apartFor, a.stop) }

// twin is a supervisor for another process of the same plugin.
func (v *supervisor) twin() *supervisor {
	log := v.log.With().Bool("apart", true).Logger()
	return &supervisor{
		name: v.name, plugin: v.plugin, drain: v.drain, runtimeDir: v.runtimeDir, version: v.version,
		launcher: v.launcher, out: newOutput(log), log: log, changed: func() {},
		wasReady: make(chan struct{}), status: PluginStatus{Name: v.name, State: Starting, Types: v.routed()},
	}
}
