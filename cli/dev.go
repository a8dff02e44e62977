package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"usher/cli/demo"
	"usher/config"
	"usher/deploy/samples"
	"usher/engine"
	"usher/engine/stomp"
)

// developing is what `usher dev` was asked for.
type developing struct {
	demo   bool
	length time.Duration
	file   string
	state  string
	listen string
	stomp  string
	level  string
}

func devCommand() *cobra.Command {
	var d developing
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine, for development",
		Long: `Run everything on this machine, in one process tree: a durable STOMP broker, the
record table, HTTP and WebSocket, and the plugins. It uses ./usher.yaml where there
is one, else the configuration of a small shop, and says which. State is kept in
./.usher, so what waits survives a restart.

With --demo the shop plays, and the terminal shows what happens to each level; its
state is in a temporary folder. --for ends it with an account of every message, and
exit 0 only if none is missing.`,
		Example: `  usher dev
  usher dev --demo
  usher dev --demo --for 20s
  usher dev --stomp 127.0.0.1:0 --listen 127.0.0.1:0   any free ports, printed`,
		RunE: func(c *cobra.Command, _ []string) error { return d.run(c) },
	}
	f := c.Flags()
	f.BoolVar(&d.demo, "demo", false, "play a small shop and show what happens")
	f.DurationVar(&d.length, "for", 0, "end by itself after this time (0: at Ctrl-C)")
	f.StringVar(&d.file, "config", "", "configuration file (default ./usher.yaml, else the shop's)")
	f.StringVar(&d.state, "state", ".usher", "folder for what must survive a restart; with --demo a temporary one")
	f.StringVar(&d.listen, "listen", "", "HTTP address (default 127.0.0.1:8080)")
	f.StringVar(&d.stomp, "stomp", "", "STOMP address (default 127.0.0.1:61613)")
	f.StringVar(&d.level, "log", "", "log level: debug, info, warn or error (default info; with --demo warn)")
	return c
}

func (d *developing) run(c *cobra.Command) (err error) {
	if d.length < 0 {
		return fail(exitUsage, "--for %v is negative", d.length)
	}
	options, from := d.options()
	cfg, err := config.Load(options)
	if err != nil {
		return err
	}
	warn(c, cfg)
	state := d.state
	if d.demo && !c.Flags().Changed("state") {
		if state, err = os.MkdirTemp("", "usher-demo-"); err != nil {
			return fail(exitFailed, "the demo needs a temporary folder: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	}
	show := newShow(c.OutOrStdout(), d.demo)
	board := demo.NewBoard()
	log, level, err := d.logger(cfg, show.logs(c.ErrOrStderr(), board))
	if err != nil {
		return err
	}
	s, err := openStack(cfg, state, roles{engine: true, monitor: true}, log, board)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if len(options.Files) > 0 {
		s.reload = newReloader(options, s)
	}
	if d.level == "" && !d.demo {
		s.level = level
	}
	d.banner(c.ErrOrStderr(), s, from, state)

	ctx := c.Context()
	if d.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.length)
		defer cancel()
	}
	if !d.demo {
		return s.run(ctx)
	}
	if err := d.play(ctx, c, s, board, show); !errors.Is(err, errPlayed) {
		return err
	}
	return nil
}

// options name the file that was asked for, ./usher.yaml, or the shop's; and which.
func (d *developing) options() (o config.Options, from string) {
	o = config.Options{Environ: os.Environ(), Flags: map[string]any{}, Default: samples.Shop(), DefaultName: "the shop's"}
	if d.listen != "" {
		o.Flags["server.listen"] = d.listen
	}
	if d.stomp != "" {
		o.Flags["embedded.stomp"] = d.stomp
	}
	from = "the shop's (there is no ./usher.yaml)"
	switch {
	case d.file != "":
		o.Files, from = []string{d.file}, d.file
	case d.demo:
		from = "the shop's"
	default:
		if _, err := os.Stat("usher.yaml"); err == nil {
			o.Files, from = []string{"usher.yaml"}, "./usher.yaml"
		}
	}
	return o, from
}

func (d *developing) logger(cfg *config.Config, w io.Writer) (zerolog.Logger, *logLevel, error) {
	level := cfg.Log.Level
	if d.demo {
		level = "warn"
	}
	if d.level != "" {
		level = d.level
	}
	return newLogger(w, level, cfg.Log.Format)
}

func (d *developing) banner(w io.Writer, s *stack, from, state string) {
	fmt.Fprintf(w, "usher %s, everything on this machine\n", buildInfo().Version)
	for _, row := range [][2]string{
		{"config", from}, {"state", state}, {"broker", s.stompURL() + "  (STOMP; queue " + engine.WorkQueue + ")"},
		{"http", s.httpURL() + "/api/v1  (also /ws, /metrics, /readyz)"},
	} {
		fmt.Fprintf(w, "  %-8s%s\n", row[0], row[1])
	}
}

// play runs the shop until ctx ends, and then accounts for its messages.
func (d *developing) play(ctx context.Context, c *cobra.Command, s *stack, board *demo.Board, sh *show) error {
	facts := demo.Facts{Title: "usher dev --demo   " + s.stompURL() + "   " + s.httpURL()}
	if d.length > 0 {
		facts.Ends = time.Now().Add(d.length)
	}
	account := make(chan demo.Account, 1)
	playing := layer{"demo", func(stop context.Context) error {
		// It ends by itself, with the account, while all the rest still runs.
		a, err := d.performance(ctx, stop, s, board)
		account <- a
		return err
	}}
	drawing := layer{"screen", func(stop context.Context) error {
		return sh.draw(stop, board, func() demo.Facts { return d.facts(s, facts) })
	}}
	err := s.run(context.WithoutCancel(ctx), drawing, playing)
	sh.end()
	a := <-account
	if err := board.Summary(c.OutOrStdout()); err != nil {
		return err
	}
	fmt.Fprintln(c.OutOrStdout(), "\n"+a.String())
	if err == nil && d.length > 0 && !a.Closed() {
		err = fail(exitFailed, "%d messages are not accounted for", len(a.Open))
	}
	return err
}

// errPlayed ends the stack after a performance; it is no failure.
var errPlayed = errors.New("the demo is over")

// performance plays until ctx ends, less the time that what was sent last needs
// to arrive, and closes the account.
func (d *developing) performance(ctx, stop context.Context, s *stack, board *demo.Board) (demo.Account, error) {
	client, err := stomp.Dial(ctx, stomp.Config{URLs: []string{s.stompURL()}, Log: s.part("demo")})
	if err != nil {
		return demo.Account{}, fail(exitUnreachable, "%w", err)
	}
	defer client.Close()
	player := demo.NewPlayer(client)
	playing, cancel := ctx, context.CancelFunc(func() {})
	grace := 2 * time.Second
	if d.length > 0 {
		playing, cancel = context.WithTimeout(ctx, d.length-min(d.length/3, 6*time.Second))
		grace = 15 * time.Second
	}
	defer cancel()
	defer context.AfterFunc(stop, cancel)()
	if err := player.Run(playing); err != nil {
		return demo.Account{}, err
	}
	select {
	case <-ctx.Done():
	case <-stop.Done():
	}
	closing, cancelClosing := context.WithTimeout(stop, grace)
	defer cancelClosing()
	a, err := demo.Close(closing, s.records, player.Sent, board.Seen)
	if err == nil {
		err = errPlayed
	}
	return a, err
}

// facts adds what the broker knows.
func (d *developing) facts(s *stack, f demo.Facts) demo.Facts {
	if !s.embedded() {
		return f
	}
	f.Waiting = map[int]int{}
	for _, q := range s.broker.Stats().Queues {
		var level int
		if n, err := fmt.Sscanf(q.Name, engine.WorkQueue+".p%d", &level); err == nil && n == 1 {
			f.Waiting[level] = q.Size
		}
	}
	return f
}
