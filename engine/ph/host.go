package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/handlers"
)

// Defaults of Config and Plugin.
const (
	DefaultStartTimeout = 10 * time.Second
	DefaultGrace        = 2 * time.Second
	DefaultDrain        = 10 * time.Second
)

// Config is what a Host is made from.
type Config struct {
	// Plugins are the processes to run, by name.
	Plugins map[string]Plugin
	// Types says which plugin serves which message type.
	Types map[string]string
	// RuntimeDir is a folder for sockets and staged programs, readable by this
	// user only. Default: a fresh one in the system's temporary folder, removed at the end.
	RuntimeDir string
	// Drain is how long messages in hand may take when Run stops. Default 10 s.
	Drain time.Duration
	// Log gets what plugins print, with their name, and what happens to them.
	Log zerolog.Logger
}

// Plugin is one plugin process.
type Plugin struct {
	// Command is the program and its arguments. A program without a slash is
	// looked for in PATH.
	Command []string
	// Dir is the folder it runs in. Default: this process's.
	Dir string
	// SHA256 is what the program must have, 64 hex digits; the copy that was
	// checked is the one that runs. Empty: any.
	SHA256 string
	// Files are further files with the sha256 each must have at every start.
	Files map[string]string
	// Env is what it gets besides PATH, HOME, TMPDIR, LANG and TZ; nothing else
	// of this process's environment reaches it.
	Env map[string]string
	// StartTimeout is how long it may take to be ready. Default 10 s.
	StartTimeout time.Duration
	// Grace is how long a cancelled message may go on before the process is
	// killed. Default 2 s.
	Grace time.Duration
}

func (p Plugin) withDefaults() Plugin {
	if p.StartTimeout == 0 {
		p.StartTimeout = DefaultStartTimeout
	}
	if p.Grace == 0 {
		p.Grace = DefaultGrace
	}
	return p
}

// Host runs plugins. Its methods are safe for concurrent use.
type Host struct {
	cfg     Config
	plugins map[string]*supervisor
	changed chan struct{}
}

var _ engine.Handler = (*Host)(nil)

// New checks the configuration and makes a host of it; nothing is started. The
// error names all that is wrong.
func New(cfg Config) (*Host, error) {
	if cfg.Drain == 0 {
		cfg.Drain = DefaultDrain
	}
	h := &Host{cfg: cfg, plugins: map[string]*supervisor{}, changed: make(chan struct{}, 1)}
	var errs []error
	for name, p := range cfg.Plugins {
		p = p.withDefaults()
		if err := p.check(); err != nil {
			errs = append(errs, fmt.Errorf("plugin %s: %w", name, err))
		}
		h.plugins[name] = &supervisor{
			name: name, plugin: p, types: typesOf(cfg.Types, name), drain: cfg.Drain, changedFunc: h.signal,
			log: cfg.Log.With().Str("plugin", name).Logger(), state: Starting, since: time.Now(),
		}
	}
	for typ, name := range cfg.Types {
		if _, ok := cfg.Plugins[name]; !ok {
			errs = append(errs, fmt.Errorf("type %s: there is no plugin %q", typ, name))
		}
	}
	return h, errors.Join(errs...)
}

func typesOf(types map[string]string, plugin string) []string {
	var list []string
	for typ, name := range types {
		if name == plugin {
			list = append(list, typ)
		}
	}
	slices.Sort(list)
	return list
}

// signal tells the engine that a credit has changed.
func (h *Host) signal() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Run starts the plugins and keeps them running until ctx ends. Then it lets
// them finish what they have in hand, for at most Config.Drain, ends them, and
// returns nil; no process is left. The error says that there is no folder to
// run them in.
func (h *Host) Run(ctx context.Context) error {
	dir := h.cfg.RuntimeDir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "usher-plugins-"); err != nil {
			return fmt.Errorf("pluginhost: make a folder for sockets: %w", err)
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pluginhost: make the folder for sockets: %w", err)
	}
	var wg sync.WaitGroup
	for _, s := range h.plugins {
		wg.Go(func() { s.run(ctx, dir) })
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// HandleMessage runs one attempt in the plugin that serves the message's type;
// see [engine.Handler].
func (h *Host) HandleMessage(ctx context.Context, m *handlers.Message) error {
	name, ok := h.cfg.Types[m.Type]
	if !ok {
		return handlers.Permanent(fmt.Errorf("no plugin serves the type %q", m.Type), handlers.CodeNoHandler)
	}
	return h.plugins[name].handle(ctx, m)
}

// Plugin names the plugin that serves the type; false if none does.
func (h *Host) Plugin(typ string) (string, bool) {
	name, ok := h.cfg.Types[typ]
	return name, ok
}

// Credit is how many messages the plugin takes at once now, those that it has
// included; 0 while it is not ready.
func (h *Host) Credit(plugin string) int {
	s, ok := h.plugins[plugin]
	if !ok {
		return 0
	}
	return s.credit()
}

// Changed is signalled, merged into one, after a credit changed.
func (h *Host) Changed() <-chan struct{} { return h.changed }

// State is where a plugin is in its life.
type State string

// The states of a plugin.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Waiting  State = "waiting" // it ended, and is started again after a while
	Draining State = "draining"
	Stopped  State = "stopped"
)

// Status is how one plugin is.
type Status struct {
	Name     string
	State    State
	Since    time.Time // of the state
	PID      int       // 0: no process
	Version  string    // as the plugin calls itself
	Types    []string  // that the configuration sends to it
	InFlight int
	Restarts int
	// LastError says, in one line, why it is not ready or what ended it last.
	LastError string
}

// Status tells how each plugin is, by name.
func (h *Host) Status() []Status {
	list := make([]Status, 0, len(h.plugins))
	for _, s := range h.plugins {
		list = append(list, s.status())
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return list
}
