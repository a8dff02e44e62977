package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/server"
)

func delayCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "delay",
		Short: "See and move what waits for its time",
		Long: fmt.Sprintf(`See what waits for its time; move it, release it, or cancel it: one message by its id,
or all that --type, --level and --due-before choose. A change binds within %s.`, engine.BindsWithin),
		Example: "  usher delay list --type report.daily\n  usher delay set order-7 2h\n  usher delay release --level 8 --dry-run",
	}
	c.AddCommand(delayListCommand(), delaySetCommand(), delayReleaseCommand(), delayCancelCommand())
	return c
}

// waitFilter chooses among what waits.
type waitFilter struct {
	typ       string
	level     int
	dueBefore string
	dryRun    bool
}

func (f *waitFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.typ, "type", "", "only messages of this type")
	c.Flags().IntVar(&f.level, "level", -1, "only messages of this level, 0 to 9")
	c.Flags().StringVar(&f.dueBefore, "due-before", "", "only messages due before then: a time, or a delay from now")
}

// given says whether anything is chosen.
func (f *waitFilter) given() bool { return f.typ != "" || f.level >= 0 || f.dueBefore != "" }

// query is the filter as the API takes it.
func (f *waitFilter) query() (url.Values, error) {
	q := url.Values{}
	if f.typ != "" {
		q.Set("type", f.typ)
	}
	if f.level >= engine.Levels {
		return nil, fail(exitUsage, "--level %d is no level; they are 0 to 9", f.level)
	}
	if f.level >= 0 {
		q.Set("level", strconv.Itoa(f.level))
	}
	if f.dueBefore != "" {
		before, err := time.Parse(time.RFC3339, f.dueBefore)
		if d, delayErr := engine.ParseDelay(f.dueBefore); delayErr == nil {
			before, err = time.Now().Add(d), nil
		}
		if err != nil {
			return nil, fail(exitUsage, "--due-before %q is neither a time (2026-01-31T08:00:00Z) nor a delay (15m)", f.dueBefore)
		}
		q.Set("dueBefore", before.UTC().Format(time.RFC3339Nano))
	}
	return q, nil
}

// list asks for what the filter chooses, at most limit of it.
func (f *waitFilter) list(ctx context.Context, limit int) (all server.DelayList, err error) {
	query, err := f.query()
	if err != nil {
		return all, err
	}
	all.Items = []server.Message{}
	for {
		page := server.DelayList{}
		query.Set("limit", strconv.Itoa(min(limit-len(all.Items), 500)))
		if err := newAPI().call(ctx, http.MethodGet, "/api/v1/delays?"+query.Encode(), nil, &page); err != nil {
			return all, err
		}
		all.Items, all.Next = append(all.Items, page.Items...), page.Next
		if all.Next == "" || len(all.Items) >= limit {
			return all, nil
		}
		query.Set("after", all.Next)
	}
}

func delayListCommand() *cobra.Command {
	var limit int
	var filter waitFilter
	c := &cobra.Command{
		Use:     "list",
		Short:   "List what waits, the next one first",
		Example: "  usher delay list --limit 20\n  usher delay list --type report.daily --due-before 1h",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return fail(exitUsage, "--limit %d is not positive", limit)
			}
			all, err := filter.list(c.Context(), limit)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, all)
			}
			return printDelays(c, all)
		},
	}
	filter.flags(c)
	c.Flags().IntVar(&limit, "limit", 100, "how many to list at most")
	return c
}

func printDelays(c *cobra.Command, l server.DelayList) error {
	if len(l.Items) == 0 {
		_, err := fmt.Fprintln(c.ErrOrStderr(), "nothing waits")
		return err
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTYPE\tLEVEL\tSTATE\tUNTIL\tSET BY")
	for _, m := range l.Items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, m.Type, number(m.Priority), waitState(m), when(m.ProcessingTime), m.SetBy)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if l.Next != "" {
		fmt.Fprintln(c.ErrOrStderr(), "there are more: raise --limit")
	}
	return nil
}

// waitState is the state of what waits, and whether it waits for its type.
func waitState(m server.Message) string {
	if m.Held {
		return string(m.State) + ", held"
	}
	return string(m.State)
}

func delaySetCommand() *cobra.Command {
	change := delayChange{kind: "delays", method: http.MethodPut, done: "moved"}
	c := &cobra.Command{
		Use:   "set [ID] WHEN",
		Short: "Move messages to another time: a delay from now, or a time",
		Long: `Move messages to another time: a delay from now (90s, 15m, 2h), or a time
(2026-01-31T08:00:00Z). For one id it holds for a message that has not come yet as well,
and it overrules the message's header and the rule of its type.`,
		Example: "  usher delay set order-7 2h\n  usher delay set order-7 2026-01-31T08:00:00Z\n  usher delay set --type report.daily 6h --dry-run",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			when := args[len(args)-1]
			change.body = map[string]string{"in": when}
			if t, err := time.Parse(time.RFC3339, when); err == nil {
				change.body = map[string]string{"until": t.Format(time.RFC3339Nano)}
			}
			return change.run(c, args[:len(args)-1])
		},
	}
	change.flags(c)
	return c
}

func delayReleaseCommand() *cobra.Command {
	change := delayChange{kind: "delays", method: http.MethodDelete, done: "released"}
	c := &cobra.Command{
		Use:     "release [ID]",
		Short:   "Let messages run now",
		Example: "  usher delay release order-7\n  usher delay release --type report.daily --level 8",
		Args:    cobra.MaximumNArgs(1),
		RunE:    change.run,
	}
	change.flags(c)
	return c
}

func delayCancelCommand() *cobra.Command {
	change := delayChange{kind: "messages", method: http.MethodDelete, done: "cancelled"}
	c := &cobra.Command{
		Use:     "cancel [ID]",
		Short:   "Never run messages that wait",
		Long:    "Never run messages that wait: their state becomes cancelled, which is final.",
		Example: "  usher delay cancel order-7\n  usher delay cancel --type report.daily --due-before 1h --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE:    change.run,
	}
	change.flags(c)
	return c
}

// delayChange is what a command does to messages that wait.
type delayChange struct {
	waitFilter

	kind, method string // the request for one message
	body         any
	done         string // what it is then
}

func (d *delayChange) flags(c *cobra.Command) {
	d.waitFilter.flags(c)
	c.Flags().BoolVar(&d.dryRun, "dry-run", false, "only list what would be "+d.done)
}

// run changes one message, or all that the filter chooses.
func (d *delayChange) run(c *cobra.Command, ids []string) error {
	switch {
	case len(ids) == 0 && !d.given():
		return fail(exitUsage, "name a message, or choose some with --type, --level or --due-before")
	case len(ids) > 0 && (d.given() || d.dryRun):
		return fail(exitUsage, "an id and --type, --level, --due-before or --dry-run do not go together")
	case len(ids) > 0:
		return d.one(c, ids[0])
	}
	all, err := d.list(c.Context(), 1<<30)
	switch {
	case err != nil:
		return err
	case len(all.Items) == 0:
		return fail(exitNotFound, "nothing that waits is chosen")
	case d.dryRun:
		if err := printDelays(c, all); err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "%d messages would be %s\n", len(all.Items), d.done)
		return nil
	}
	return d.each(c, all.Items)
}

func (d *delayChange) one(c *cobra.Command, id string) error {
	var answer server.Delay
	if err := newAPI().call(c.Context(), d.method, messagePath(d.kind, id), d.body, &answer); err != nil {
		return err
	}
	if wantsJSON(c) {
		return printJSON(c, answer)
	}
	text := fmt.Sprintf("%s is due %s; this binds within %s", answer.ID, when(answer.ProcessingTime), answer.TakesEffectWithin)
	if answer.State == engine.Cancelled {
		text = answer.ID + " is cancelled"
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), text)
	return err
}

// changesAtOnce is how many messages are changed at the same time.
const changesAtOnce = 8

// each changes all of them. One that has gone on in between is no error.
func (d *delayChange) each(c *cobra.Command, items []server.Message) error {
	show := newProgress(c.ErrOrStderr(), len(items), d.done)
	defer show.end()
	api := newAPI()
	g, ctx := errgroup.WithContext(c.Context())
	g.SetLimit(changesAtOnce)
	for _, m := range items {
		g.Go(func() error {
			err := api.call(ctx, d.method, messagePath(d.kind, m.ID), d.body, &json.RawMessage{})
			var f *failure
			if errors.As(err, &f) && (f.code == exitNotFound || f.code == exitConflict) {
				show.add(0)
				return nil
			}
			if err == nil {
				show.add(1)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	changed := show.count()
	if wantsJSON(c) {
		return printJSON(c, map[string]int{"chosen": len(items), d.done: changed})
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%d of %d messages are %s\n", changed, len(items), d.done)
	return err
}
