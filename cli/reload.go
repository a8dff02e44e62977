package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"usher/account"
	"usher/config"
	"usher/engine"
	"usher/server"
)

// reloadEvery is how often the files of a configuration are looked at, and
// remoteEvery how often if some are in an AWS account, where each look is a request.
const (
	reloadEvery = time.Second
	remoteEvery = 30 * time.Second
)

// fromFiles reads a configuration from files, of this machine or of an AWS account, and
// the environment. No account is waited for after ctx has ended.
func fromFiles(ctx context.Context, files ...string) config.Options {
	var remote account.Files
	return config.Options{
		Files: files, Environ: os.Environ(),
		RemoteFunc: func(name string, limit int64) ([]byte, error) { return remote.Read(ctx, name, limit) },
	}
}

// reloader follows the files of a configuration while usher runs. What is wrong
// changes nothing.
type reloader struct {
	options config.Options
	stack   *stack
	seen    [sha256.Size]byte // what the files had in them when they were last read

	mu     sync.Mutex // guards the rest
	inUse  *config.Config
	report server.ConfigReport // but for Config
}

// newReloader makes one of the configuration that is in use, which the options gave.
func newReloader(o config.Options, s *stack) *reloader {
	s.metrics.ConfigLoaded(true, time.Now())
	return &reloader{options: o, stack: s, seen: digest(o), inUse: s.cfg, report: server.ConfigReport{LoadedAt: time.Now().UTC()}}
}

// run reads the files again whenever they have changed, and on SIGHUP.
func (r *reloader) run(ctx context.Context) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	defer signal.Stop(asked)
	every := reloadEvery
	if slices.ContainsFunc(r.options.Files, config.IsRemote) {
		every = remoteEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-asked:
			r.read()
		case <-tick.C:
			if now := digest(r.options); now != r.seen {
				r.read()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// digest is of what is in the files, or why they cannot be read.
func digest(o config.Options) [sha256.Size]byte {
	h := sha256.New()
	for _, name := range o.Files {
		content, err := o.Read(name)
		if err != nil {
			content = []byte(err.Error())
		}
		sum := sha256.Sum256(content)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// read goes over to what the files say now.
func (r *reloader) read() {
	// Before they are read: a change in between is another one.
	r.seen = digest(r.options)
	log := r.stack.part("configuration")
	cfg, err := config.Load(r.options)
	if err == nil {
		err = r.stack.reconfigure(cfg)
	}
	r.stack.metrics.ConfigLoaded(err == nil, time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.report.Problem = err.Error()
		logProblems(log, err)
		return
	}
	changes := config.Diff(r.inUse, cfg)
	r.inUse = cfg
	r.report = server.ConfigReport{LoadedAt: time.Now().UTC(), NeedsRestart: needRestart(config.Diff(r.stack.cfg, cfg))}
	for _, w := range cfg.Warnings {
		log.Warn().Str("key", w.Path).Msg(w.Message)
	}
	for _, c := range changes {
		log.Info().Str("key", c.Key).Str("old", c.Old).Str("new", c.New).Bool("needs_restart", !c.Reloaded).Msg("changed")
	}
	log.Info().Int("changes", len(changes)).Strs("need_restart", r.report.NeedsRestart).Msg("the configuration was read again")
}

// logProblems says each of what is wrong, with its place.
func logProblems(log zerolog.Logger, err error) {
	const unchanged = "the changed configuration is not used, all is as it was"
	var problems config.Errors
	if !errors.As(err, &problems) {
		log.Error().Err(err).Msg(unchanged)
		return
	}
	for _, p := range problems {
		log.Error().Str("file", p.File).Int("line", p.Line).Int("column", p.Column).Str("problem", p.Message).Str("hint", p.Hint).Msg(unchanged)
	}
}

func needRestart(changes []config.Change) []string {
	var keys []string
	for _, c := range changes {
		if !c.Reloaded {
			keys = append(keys, c.Key)
		}
	}
	return keys
}

// look is the configuration that is in use.
func (r *reloader) look() (server.ConfigReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := r.inUse.MarshalJSON()
	report := r.report
	report.Config = text
	return report, err
}

// reconfigure goes over to another configuration, as far as that can be done while
// all runs.
func (s *stack) reconfigure(cfg *config.Config) error {
	if s.engine != nil {
		plugins, err := hostConfig(cfg)
		if err != nil {
			return err
		}
		err = s.engine.Reconfigure(func(c *engine.Config) { reloadable(c, cfg) }, func() error { return s.host.Reconfigure(plugins) })
		if err != nil {
			return err
		}
	}
	s.metrics.SetTypes(typeNames(cfg))
	if s.level != nil {
		return s.level.set(cfg.Log.Level)
	}
	return nil
}

// logLevel is the least level that is logged, which can be changed.
type logLevel struct{ level atomic.Int32 }

// Sample says whether to log something of a level; see zerolog.Sampler.
func (l *logLevel) Sample(level zerolog.Level) bool { return int32(level) >= l.level.Load() }

func (l *logLevel) set(name string) error {
	level, err := zerolog.ParseLevel(name)
	if err != nil {
		return fail(exitUsage, "the log level %q is none of debug, info, warn, error", name)
	}
	l.level.Store(int32(level))
	return nil
}
