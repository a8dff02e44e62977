package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"usher/engine"
	"usher/server"
)

func delayCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "delay",
		Short: "See and move what waits for its time",
		Long: fmt.Sprintf(`See and move what waits for its time. A change, and a release, binds within %s.`, engine.BindsWithin),
		Example: "  usher delay list\n  usher delay set order-7 2h\n  usher delay release order-7",
	}
	c.AddCommand(delayListCommand(), delaySetCommand(), delayReleaseCommand())
	return c
}

func delayListCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "List what waits, the next one first",
		Example: "  usher delay list --limit 20",
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return fail(exitUsage, "--limit %d is not positive", limit)
			}
			var all server.DelayList
			all.Items = []server.Message{}
			for {
				page := server.DelayList{}
				query := url.Values{"limit": {strconv.Itoa(min(limit-len(all.Items), 500))}}
				if all.Next != "" {
					query.Set("after", all.Next)
				}
				if err := newAPI().call(c.Context(), http.MethodGet, "/api/v1/delays?"+query.Encode(), nil, &page); err != nil {
					return err
				}
				all.Items, all.Next = append(all.Items, page.Items...), page.Next
				if all.Next == "" || len(all.Items) >= limit {
					break
				}
			}
			if wantsJSON(c) {
				return printJSON(c, all)
			}
			return printDelays(c, all)
		},
	}
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
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, m.Type, number(m.Priority), m.State, when(m.ProcessingTime), m.SetBy)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if l.Next != "" {
		fmt.Fprintln(c.ErrOrStderr(), "there are more: raise --limit")
	}
	return nil
}

func delaySetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set ID WHEN",
		Short: "Move a message to another time: a delay from now, or a time",
		Long: `Move a message to another time: a delay from now (90s, 15m, 2h), or a time
(2026-01-31T08:00:00Z). It holds for a message that has not come yet as well, and
overrules its header and the rule of its type.`,
		Example: "  usher delay set order-7 2h\n  usher delay set order-7 2026-01-31T08:00:00Z",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			in := map[string]string{"in": args[1]}
			if t, err := time.Parse(time.RFC3339, args[1]); err == nil {
				in = map[string]string{"until": t.Format(time.RFC3339Nano)}
			}
			return moveDelay(c, http.MethodPut, args[0], in)
		},
	}
}

func delayReleaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "release ID",
		Short:   "Let a message run now",
		Long:    fmt.Sprintf("Let a message run now: within %s.", engine.BindsWithin),
		Example: "  usher delay release order-7",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return moveDelay(c, http.MethodDelete, args[0], nil) },
	}
}

func moveDelay(c *cobra.Command, method, id string, in any) error {
	var d server.Delay
	if err := newAPI().call(c.Context(), method, messagePath("delays", id), in, &d); err != nil {
		return err
	}
	if wantsJSON(c) {
		return printJSON(c, d)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s is due %s; this binds within %s\n", d.ID, when(d.ProcessingTime), d.TakesEffectWithin)
	return err
}
