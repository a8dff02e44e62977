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
	plugins  map[string]*supervisor
	names    []string          // of them, in order
	types    map[string]string // to the name of their plugin
	launcher *launcher
	changed  chan struct{}
	started  atomic.Bool
	ended    chan struct{} // closed when Run has ended
}

var (
	_ engine.Handler   = (*Host)(nil)
	_ engine.Versioned = (*Host)(nil)
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
	// Since is when State was entered; zero before Run.
	Since time.Time
	// LastError is why it was last down, in one line; empty if it never was.
	LastError string
}

// New checks the configuration and builds a Host of it; nothing is started yet.
// The error names all that is wrong.
func New(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Host{
		plugins: make(map[string]*supervisor, len(cfg.Plugins)), names: slices.Sorted(maps.Keys(cfg.Plugins)),
		types: cfg.Types, launcher: newLauncher(), changed: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	for name, p := range cfg.Plugins {
		types := []string{}
		for typ, of := range cfg.Types {
			if of == name {
				types = append(types, typ)
			}
		}
		slices.Sort(types)
		log := cfg.Log.With().Str("plugin", name).Logger()
		h.plugins[name] = &supervisor{
			name: name, plugin: p, types: types, drain: cfg.Drain, runtimeDir: cfg.RuntimeDir, version: version(),
			launcher: h.launcher, out: newOutput(log), log: log, changed: h.signal,
			wasReady: make(chan struct{}), status: PluginStatus{Name: name, State: Starting, Types: types},
		}
	}
	return h, nil
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
	var thread, plugins sync.WaitGroup
	thread.Go(func() { h.launcher.run(stop) })
	for _, v := range h.plugins {
		plugins.Go(func() { v.run(ctx) })
	}
	plugins.Wait()
	close(stop)
	thread.Wait()
	return nil
}

// WaitReady waits until each plugin has been ready once. If ctx or Run ends
// before, the error says which plugins were not, and why.
func (h *Host) WaitReady(ctx context.Context) error {
	var errs []error
	for _, name := range h.names {
		v := h.plugins[name]
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
	v := h.plugins[h.types[m.Type]]
	if v == nil {
		return handlers.Permanent(fmt.Errorf("no plugin serves the type %q", m.Type), handlers.CodeNoHandler)
	}
	s := v.session.Load()
	if s == nil {
		status := v.look()
		return fmt.Errorf("plugin %s: %w: it is %s", v.name, engine.ErrPluginAway, status.State)
	}
	return s.handle(ctx, m)
}

// Plugin names the plugin that serves the type; false if none does.
func (h *Host) Plugin(typ string) (string, bool) {
	name, ok := h.types[typ]
	return name, ok
}

// Credit is how many messages the plugin takes at once now, those that it has
// included; 0 while it is down or draining.
func (h *Host) Credit(plugin string) int {
	v := h.plugins[plugin]
	if v == nil {
		return 0
	}
	s := v.session.Load()
	if s == nil {
		return 0
	}
	return int(s.level.Load())
}

// Version is what a plugin last said that it is; see [engine.Versioned].
func (h *Host) Version(plugin string) string {
	if v, ok := h.plugins[plugin]; ok {
		return v.look().Version
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
	list := make([]PluginStatus, 0, len(h.names))
	for _, name := range h.names {
		list = append(list, h.plugins[name].look())
	}
	return list
}
