package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"usher/engine"
	"usher/handlers"
)

// Host runs plugins and gives them messages. It is safe for concurrent use.
type Host struct {
	routes   atomic.Pointer[routes]
	launcher *launcher
	changed  chan struct{}
	started  atomic.Bool
	ended    chan struct{} // closed when Run has ended

	mu      sync.Mutex      // guards the rest, and what changes routes
	cfg     Config          // as it was last
	running context.Context // of Run; nil: it has not begun
	work    sync.WaitGroup  // the places that run
}

// routes are which plugin serves what, as a whole.
type routes struct {
	types  map[string]string // to the name of their plugin
	places map[string]*place // by name
	names  []string          // of them, in order
}

var (
	_ engine.Handler   = (*Host)(nil)
	_ engine.Versioned = (*Host)(nil)
	_ engine.Holder    = (*Host)(nil)
	_ engine.Prober    = (*Host)(nil)
)

// State is what a plugin's process is doing.
type State string

// The states of a plugin.
const (
	Starting State = "starting" // the process is not ready yet, or Run was not called
	Ready    State = "ready"    // it takes messages
	Backoff  State = "backoff"  // it failed, and is started again after a while
	Draining State = "draining" // it finishes what it has, and then ends
	Stopped  State = "stopped"  // Run has ended
)

// PluginStatus is how a plugin is, for people and metrics.
type PluginStatus struct {
	Name  string
	State State
	// PID is the process that is ready or draining; 0: there is none.
	PID int
	// Version is what the plugin last said that it is; empty until it did.
	Version string
	// Types are the message types that are routed to it, in order.
	Types []string
	// InFlight is how many messages it has in hand.
	InFlight int
	// Restarts is how often a process was started after the first.
	Restarts int
	// Crashes is how often its process ended by itself in the last ten minutes.
	Crashes int
	// Quarantined is since when it gets one message at a time, because it crashed too
	// often; zero: it is not.
	Quarantined time.Time
	// Since is when State was entered; zero before Run.
	Since time.Time
	// LastError is why it was last down, in one line; empty if it never was.
	LastError string
	// Next is the process that is started to take the place of this one; nil: none is.
	Next *PluginStatus
}

// New checks the configuration and builds a Host of it; nothing is started yet.
// The error names all that is wrong.
func New(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, launcher: newLauncher(), changed: make(chan struct{}, 1), ended: make(chan struct{})}
	places := make(map[string]*place, len(cfg.Plugins))
	for name := range cfg.Plugins {
		places[name] = newPlace(h.newSupervisor(cfg, name))
	}
	h.routes.Store(&routes{types: cfg.Types, places: places, names: slices.Sorted(maps.Keys(places))})
	return h, nil
}

func (h *Host) newSupervisor(cfg Config, name string) *supervisor {
	log := cfg.Log.With().Str("plugin", name).Logger()
	return &supervisor{
		name: name, plugin: cfg.Plugins[name], drain: cfg.Drain, runtimeDir: cfg.RuntimeDir, version: version(),
		launcher: h.launcher, out: newOutput(log), log: log, changed: h.signal,
		wasReady: make(chan struct{}), status: PluginStatus{Name: name, State: Starting, Types: cfg.typesOf(name)},
	}
}

// version is the host's own, for the logs of plugins.
func version() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		return build.Main.Version
	}
	return ""
}

// Run starts the plugins and keeps them up until ctx ends. Then they finish what
// they have, within Config.Drain, and are stopped; Run returns nil when no
// process is left. A plugin that does not start is no error of Run: it is tried
// again, and Status tells. Run is called once; a second call is an error.
func (h *Host) Run(ctx context.Context) error {
	if !h.started.CompareAndSwap(false, true) {
		return errors.New("pluginhost: Run was called before; a Host runs once")
	}
	defer close(h.ended)
	stop := make(chan struct{})
	var thread sync.WaitGroup
	thread.Go(func() { h.launcher.run(stop) })
	h.mu.Lock()
	h.running = ctx
	for _, p := range h.routes.Load().places {
		h.work.Go(func() { p.run(ctx) })
	}
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()   // after this nothing more is started
	h.mu.Unlock() //nolint:staticcheck // it waits for a Reconfigure that has begun
	h.work.Wait()
	close(stop)
	thread.Wait()
	return nil
}

// Reconfigure goes over to another configuration of plugins and types while
// messages flow, and does not block. Where a plugin has changed its new process is
// started beside the old one; when it is ready it takes all further messages, and
// the old one ends after what it has. One that does not start is tried again, and
// the old one stays. Types are routed anew at once, but for those that only the new
// process serves; see Holds. If the error is not nil nothing has changed, and it
// names all that is wrong. RuntimeDir and Log stay as they were.
func (h *Host) Reconfigure(cfg Config) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	cfg.RuntimeDir, cfg.Log = h.cfg.RuntimeDir, h.cfg.Log
	cfg = cfg.withDefaults()
	old := h.routes.Load()
	if err := errors.Join(cfg.validate(), old.unserved(cfg)); err != nil {
		return err
	}
	next := &routes{types: cfg.Types, places: make(map[string]*place, len(cfg.Plugins))}
	for name, plugin := range cfg.Plugins {
		p, there := old.places[name]
		switch {
		case !there:
			p = newPlace(h.newSupervisor(cfg, name))
			if h.running != nil && h.running.Err() == nil {
				h.work.Go(func() { p.run(h.running) })
			}
		case p.same(plugin):
			p.newest.route(cfg.typesOf(name))
		default:
			p.swap(h.newSupervisor(cfg, name))
		}
		next.places[name] = p
	}
	h.cfg = cfg
	next.names = slices.Sorted(maps.Keys(next.places))
	h.routes.Store(next)
	for name, p := range old.places {
		if next.places[name] == nil {
			close(p.gone)
		}
	}
	h.signal()
	return nil
}

// unserved says which types are routed to a process that runs and stays, and does
// not handle them.
func (r *routes) unserved(cfg Config) error {
	var errs []error
	for name, plugin := range cfg.Plugins {
		p, there := r.places[name]
		if !there || !p.same(plugin) || p.current.Load() != p.newest {
			continue
		}
		if err := unserved(cfg.typesOf(name), p.newest.handled()); err != nil {
			errs = append(errs, fmt.Errorf("pluginhost: plugin %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// WaitReady waits until each plugin has been ready once. If ctx or Run ends
// before, the error says which plugins were not, and why.
func (h *Host) WaitReady(ctx context.Context) error {
	var errs []error
	r := h.routes.Load()
	for _, name := range r.names {
		v := r.places[name].current.Load()
		var err error
		select {
		case <-v.wasReady:
			continue
		case <-h.ended:
			err = errors.New("the host has ended")
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		select {
		case <-v.wasReady:
			continue
		default:
		}
		if last := v.look().LastError; last != "" {
			err = fmt.Errorf("%w: %s", err, last)
		}
		errs = append(errs, fmt.Errorf("plugin %s is not ready: %w", name, err))
	}
	return errors.Join(errs...)
}

// HandleMessage runs m in the plugin of its type, and waits while that has no
// credit. It returns when m is not running any more: after ctx has ended the
// plugin is told to stop it, and its process is killed if that has no effect
// within Plugin.Grace. An outcome that comes late, for example done, is what
// counts; without one the error wraps the cause with which ctx ended. It is
// engine.ErrPluginLost (wrapped) if the process ended before ctx did, and
// engine.ErrPluginAway if none had the message. A type that no plugin serves is answered with Permanent and
// handlers.CodeNoHandler, follow-on messages that m does not take with
// engine.ReasonBadFollowOn, a body that no frame has room for with
// engine.ReasonTooLarge. Progress is reported on m.
func (h *Host) HandleMessage(ctx context.Context, m *handlers.Message) error {
	r := h.routes.Load()
	p := r.places[r.types[m.Type]]
	if p == nil {
		return noPlugin(m.Type)
	}
	v := p.current.Load()
	s := v.session.Load()
	if s == nil {
		status := v.look()
		return fmt.Errorf("plugin %s: %w: it is %s", v.name, engine.ErrPluginAway, status.State)
	}
	err := s.handle(ctx, m)
	v.answered(err)
	return err
}

func noPlugin(typ string) error {
	return handlers.Permanent(fmt.Errorf("no plugin serves the type %q", typ), handlers.CodeNoHandler)
}

// Plugin names the plugin that serves the type; false if none does.
func (h *Host) Plugin(typ string) (string, bool) {
	name, ok := h.routes.Load().types[typ]
	return name, ok
}

// Credit is how many messages the plugin takes at once now, those that it has
// included; 0 while it is down or draining, at most 1 while it is in quarantine.
func (h *Host) Credit(plugin string) int {
	p := h.routes.Load().places[plugin]
	if p == nil {
		return 0
	}
	v := p.current.Load()
	s := v.session.Load()
	if s == nil {
		return 0
	}
	level := int(s.level.Load())
	if v.quarantined.Load() {
		level = min(level, 1)
	}
	return level
}

// Holds says that messages of a type have to wait: the process that takes those of
// its plugin is not yet the one that serves it, or is in quarantine, in which it can
// be tried with one while it is up and has none. See [engine.Holder].
func (h *Host) Holds(typ string) (hold, probe bool) {
	r := h.routes.Load()
	p := r.places[r.types[typ]]
	if p == nil {
		return false, false
	}
	v := p.current.Load()
	if !p.serves(typ) {
		return true, false
	}
	return v.quarantined.Load(), v.takesProbe()
}

// Version is what a plugin last said that it is; see [engine.Versioned].
func (h *Host) Version(plugin string) string {
	if p := h.routes.Load().places[plugin]; p != nil {
		return p.current.Load().look().Version
	}
	return ""
}

// Changed is signalled, merged into one, after a credit changed. One goroutine
// receives from it.
func (h *Host) Changed() <-chan struct{} { return h.changed }

func (h *Host) signal() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Status tells how the plugins are, in the order of their names.
func (h *Host) Status() []PluginStatus {
	r := h.routes.Load()
	list := make([]PluginStatus, 0, len(r.names))
	for _, name := range r.names {
		list = append(list, r.places[name].look())
	}
	return list
}
