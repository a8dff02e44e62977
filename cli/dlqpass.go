package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/server"
)

func dlqRedriveCommand() *cobra.Command {
	p := letterPass{method: http.MethodPost, suffix: "/redrive", done: "redriven"}
	c := &cobra.Command{
		Use:   "redrive [ID...]",
		Short: "Send dead letters to be tried again, with fresh attempts",
		Long: fmt.Sprintf(`Send dead letters to be tried again: by id or key, or all that a filter chooses; --all
for every one. The oldest goes first. Each keeps its id and level and starts with fresh
attempts. What is done already, or was redriven %d times and died each time, stays and is
named; --force sends the latter all the same.`, engine.MaxRedrives),
		Example: "  usher dlq redrive order-7\n  usher dlq redrive --type order.placed --reason exhausted --dry-run\n  usher dlq redrive --all --rate 50",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("rate") && p.rate <= 0 {
				return fail(exitUsage, "--rate %g would send nothing: give messages a second, or leave it out to send as fast as can be", p.rate)
			}
			if p.force {
				p.body = map[string]bool{"force": true}
			}
			return p.run(c, args)
		},
	}
	p.flags(c)
	c.Flags().Float64Var(&p.rate, "rate", 0, "messages a second, evenly (default: as fast as can be)")
	c.Flags().BoolVar(&p.force, "force", false, "however often it was redriven before")
	return c
}

func dlqDropCommand() *cobra.Command {
	p := letterPass{method: http.MethodDelete, done: "dropped"}
	c := &cobra.Command{
		Use:   "drop [ID...]",
		Short: "Forget dead letters for good",
		Long: `Forget dead letters for good: by id or key, or all that a filter chooses; --all for
every one. Headers and body are gone; that it was there is remembered for 30 days.
usher dlq export keeps a copy.`,
		Example: "  usher dlq drop order-7\n  usher dlq drop --reason expired --until 24h --dry-run",
		Args:    cobra.ArbitraryArgs,
		RunE:    p.run,
	}
	p.flags(c)
	return c
}

// letterPass does the same to many dead letters.
type letterPass struct {
	letterFilter

	method, suffix string // the request for one
	body           any
	done           string // what it is then
	all, dryRun    bool
	force          bool
	rate           float64 // a second; 0: as fast as can be
}

func (p *letterPass) flags(c *cobra.Command) {
	p.letterFilter.flags(c)
	c.Flags().BoolVar(&p.dryRun, "dry-run", false, "only list what would be "+p.done)
	c.Flags().BoolVar(&p.all, "all", false, "every dead letter that waits")
}

func (p *letterPass) run(c *cobra.Command, names []string) error {
	switch {
	case len(names) == 0 && !p.given() && !p.all:
		return fail(exitUsage, "say which: ids, a filter such as --type or --reason, or --all")
	case len(names) > 0 && (p.given() || p.all):
		return fail(exitUsage, "ids do not go together with a filter or --all")
	}
	chosen, err := p.choose(c.Context(), names)
	switch {
	case err != nil:
		return err
	case len(chosen) == 0:
		return fail(exitNotFound, "no dead letter matches: nothing is %s", p.done)
	case p.dryRun && wantsJSON(c):
		return printJSON(c, passResult{Chosen: len(chosen), DryRun: true, Letters: chosen})
	case p.dryRun:
		if err := printLetters(c, chosen, false); err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "%d would be %s\n", len(chosen), p.done)
		return nil
	}
	return p.each(c, chosen)
}

// choose lists what is meant, the oldest first. What dies from now on is not in it,
// so that what is redriven and dies again is not redriven round and round.
func (p *letterPass) choose(ctx context.Context, names []string) (chosen []server.Letter, err error) {
	for _, name := range names {
		found, err := lettersOf(ctx, name, string(engine.LetterKept))
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, found...)
	}
	if len(names) == 0 {
		var query url.Values
		if query, err = p.query(); err != nil {
			return nil, err
		}
		_, err = eachLetter(ctx, query, 1<<30, func(l server.Letter) error {
			chosen = append(chosen, l)
			return nil
		})
	}
	slices.Reverse(chosen)
	return chosen, err
}

// passResult is what came of a pass, as JSON.
type passResult struct {
	Chosen  int             `json:"chosen"`
	Done    int             `json:"done"`
	Stayed  []stayed        `json:"stayed,omitempty"`
	DryRun  bool            `json:"dryRun,omitempty"`
	Letters []server.Letter `json:"letters,omitempty"` // of a dry run
}

// stayed is a letter that was left as it is.
type stayed struct {
	ID   string `json:"id"`
	Key  string `json:"key"`
	Code string `json:"code"`
	Why  string `json:"why"`
}

// each does it to all of them, evenly in time if there is a rate.
func (p *letterPass) each(c *cobra.Command, chosen []server.Letter) error {
	show := newProgress(c.ErrOrStderr(), len(chosen), p.done)
	api := newAPI()
	api.http.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: passAtOnce}
	defer api.http.CloseIdleConnections()
	var mu sync.Mutex
	var left []stayed // guarded by mu
	g, ctx := errgroup.WithContext(c.Context())
	g.SetLimit(passAtOnce)
	pace := newPacer(p.rate)
	for _, l := range chosen {
		if err := pace.wait(ctx); err != nil {
			break
		}
		g.Go(func() error {
			err := api.call(ctx, p.method, "/api/v1/dead/"+l.Key+p.suffix, p.body, &json.RawMessage{})
			var f *failure
			if errors.As(err, &f) && (f.code == exitNotFound || f.code == exitConflict) {
				mu.Lock()
				left = append(left, stayed{l.ID, l.Key, f.problem, firstLine(f.Error())})
				mu.Unlock()
				show.add(0)
				return nil
			}
			if err == nil {
				show.add(1)
			}
			return err
		})
	}
	err := g.Wait()
	show.end()
	if err == nil {
		err = c.Context().Err()
	}
	if err != nil {
		fmt.Fprintf(c.ErrOrStderr(), "%d of %d are %s; the others are as they were\n", show.count(), len(chosen), p.done)
		return err
	}
	return p.report(c, passResult{Chosen: len(chosen), Done: show.count(), Stayed: left})
}

// passAtOnce is how many letters are under way at the same time: enough for 500 a
// second where each takes a tenth of one, for stores that commit in groups.
const passAtOnce = 64

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// maxNamed is how many of those that stayed are named for each cause.
const maxNamed = 5

// report says what was done, and what stayed and why. It is a failure if all stayed.
func (p *letterPass) report(c *cobra.Command, r passResult) error {
	if wantsJSON(c) {
		if err := printJSON(c, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.OutOrStdout(), "%d of %d are %s\n", r.Done, r.Chosen, p.done)
		byCode := map[string][]stayed{}
		for _, s := range r.Stayed {
			byCode[s.Code] = append(byCode[s.Code], s)
		}
		for _, code := range slices.Sorted(maps.Keys(byCode)) {
			some := byCode[code]
			for _, s := range some[:min(len(some), maxNamed)] {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", code, s.Why)
			}
			if n := len(some) - maxNamed; n > 0 {
				fmt.Fprintf(c.ErrOrStderr(), "%s: and %d more\n", code, n)
			}
		}
	}
	if r.Done == 0 {
		return fail(exitConflict, "none is %s", p.done)
	}
	return nil
}

// pacer spaces things evenly. One goroutine uses it.
type pacer struct {
	every time.Duration // 0: at once
	next  time.Time
}

// maxBehind is how far it may be behind and catch up.
const maxBehind = time.Second

func newPacer(rate float64) *pacer {
	p := &pacer{next: time.Now()}
	if rate > 0 {
		p.every = time.Duration(float64(time.Second) / rate)
	}
	return p
}

// wait waits for the next turn, or for ctx to end, whose error it returns.
func (p *pacer) wait(ctx context.Context) error {
	now := time.Now()
	if p.next.Before(now.Add(-maxBehind)) {
		p.next = now.Add(-maxBehind)
	}
	until := p.next.Sub(now)
	p.next = p.next.Add(p.every)
	if p.every == 0 || until <= 0 {
		return ctx.Err()
	}
	turn := time.NewTimer(until)
	defer turn.Stop()
	select {
	case <-turn.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
