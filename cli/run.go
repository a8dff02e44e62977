package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"usher/config"
)

func runCommand() *cobra.Command {
	var files, parts []string
	var state string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the engine for good, as its configuration says",
		Long: `Run the engine as its configuration says. Without broker: in it, the broker runs in
this process, durable, in the state folder. SIGTERM and Ctrl-C stop it in an orderly
way: nothing new is started, what runs may finish within engine.drain, exit 0.

When a configuration file changes it is read again, within a second or two, or at once on
SIGHUP: types, plugins, priorities, delays, retries and limits follow while messages flow.
What is wrong changes nothing, and is logged.

Its roles are engine, which runs messages, and monitor, which archives dead letters and
tells people. Both by default; in separate processes they need a broker of their own.

Secrets come from the environment: USHER_BROKER_LOGIN, USHER_BROKER_PASSCODE, USHER_TOKEN,
USHER_WATCH_KEYS, USHER_GATEWAY_SECRET, USHER_WEBHOOK_SECRET.

A configuration is a file, s3://bucket/key or ssm:/name; those in AWS are looked at every
30 s.`,
		Example: `  usher run --config usher.yaml
  usher run --roles monitor
  usher run --config s3://usher-prod-config/usher.yaml
  USHER__ENGINE__SLOTS=64 usher run --config base.yaml --config prod.yaml`,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			options := fromFiles(c.Context(), files...)
			cfg, err := config.Load(options)
			if err != nil {
				return err
			}
			warn(c, cfg)
			r, err := parseRoles(parts)
			if err != nil {
				return err
			}
			if !r.engine && len(cfg.Broker.URLs) == 0 {
				return fail(exitUsage, "--roles monitor needs a broker that others reach as well: name it under broker: in the configuration")
			}
			log, level, err := newLogger(c.ErrOrStderr(), cfg.Log.Level, cfg.Log.Format)
			if err != nil {
				return err
			}
			s, err := openStack(cfg, state, r, log)
			if err != nil {
				return err
			}
			s.level, s.reload = level, newReloader(options, s)
			defer func() { err = errors.Join(err, s.close()) }()
			log.Info().Str("broker", s.stompURL()).Str("http", s.httpURL()).Str("version", buildInfo().Version).Msg("usher runs")
			return s.run(c.Context())
		},
	}
	c.Flags().StringArrayVar(&files, "config", []string{"usher.yaml"}, "configuration file; given again, later ones win")
	c.Flags().StringSliceVar(&parts, "roles", []string{roleEngine, roleMonitor}, "what this process does: engine, monitor")
	c.Flags().StringVar(&state, "state", ".usher", "folder for what must survive a restart")
	return c
}

// What a process does.
const (
	roleEngine  = "engine"
	roleMonitor = "monitor"
)

// roles are what one process does.
type roles struct{ engine, monitor bool }

func parseRoles(names []string) (r roles, err error) {
	for _, name := range names {
		switch name {
		case roleEngine:
			r.engine = true
		case roleMonitor:
			r.monitor = true
		default:
			return r, fail(exitUsage, "--roles: %q is none of %s, %s", name, roleEngine, roleMonitor)
		}
	}
	if r == (roles{}) {
		return r, fail(exitUsage, "--roles names none: give %s, %s or both", roleEngine, roleMonitor)
	}
	return r, nil
}

// newLogger writes for people on a terminal, and JSON elsewhere, unless format
// says otherwise.
func newLogger(w io.Writer, level, format string) (zerolog.Logger, *logLevel, error) {
	l := &logLevel{}
	if err := l.set(level); err != nil {
		return zerolog.Nop(), nil, err
	}
	if _, ready := w.(zerolog.ConsoleWriter); !ready && (format == "console" || format == "auto" && isTerminal(w)) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}
	}
	return zerolog.New(zerolog.SyncWriter(w)).Sample(l).With().Timestamp().Logger(), l, nil
}

// printLines prints text lines to the command's output.
func printLines(c *cobra.Command, lines ...string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintln(c.OutOrStdout(), line); err != nil {
			return err
		}
	}
	return nil
}
