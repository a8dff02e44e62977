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
	"usher/handlers"
	"usher/server"
)

func typesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "type",
		Short:   "See the types of messages; pause and resume them",
		Example: "  usher type list\n  usher type pause report.daily\n  usher type resume report.daily",
	}
	c.AddCommand(
		&cobra.Command{
			Use:     "list",
			Short:   "List the types: what runs of each, and what is held",
			Example: "  usher type list\n  usher type list --json",
			RunE: func(c *cobra.Command, _ []string) error {
				var l server.TypeList
				if err := newAPI().call(c.Context(), http.MethodGet, "/api/v1/types", nil, &l); err != nil {
					return err
				}
				if wantsJSON(c) {
					return printJSON(c, l)
				}
				return printTypes(c, l)
			},
		},
		holdCommand("pause", "Have the messages of a type wait", fmt.Sprintf(`Have the messages of a type wait, parked, until usher type resume: those that come, and
those that have not started. What runs goes on to its end. It binds in all engines
within %s, outlives their restarts, and costs the broker nothing.`, engine.BindsWithin)),
		holdCommand("resume", "Let the messages of a paused type go on", `Let the messages of a paused type go on: urgent ones first, at most 500 a second, so that
what comes meanwhile is not put off.`),
	)
	return c
}

func holdCommand(what, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: what + " TYPE", Short: short, Long: long, Example: "  usher type " + what + " report.daily", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var t server.Type
			if err := newAPI().call(c.Context(), http.MethodPost, "/api/v1/types/"+url.PathEscape(args[0])+"/"+what, nil, &t); err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, t)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s; this binds within %s\n", t.Name, why(t), engine.BindsWithin)
			return err
		},
	}
}

// why says in words what becomes of the messages of a type.
func why(t server.Type) string {
	waiting := strconv.Itoa(t.Waiting)
	if t.More {
		waiting = "over " + waiting
	}
	switch {
	case !t.Held:
		return "runs"
	case !t.Paused.IsZero():
		return fmt.Sprintf("is paused (%s), %s waiting", ago(t.Paused), waiting)
	case !t.Removed.IsZero():
		return fmt.Sprintf("is not in the configuration any more (%s), %s waiting", ago(t.Removed), waiting)
	case !t.Failing.IsZero():
		return fmt.Sprintf("fails (%s): %s; one at a time is tried, %s waiting", ago(t.Failing), handlers.OneLine(t.Detail, 200), waiting)
	}
	return fmt.Sprintf("waits for its plugin, %s waiting", waiting)
}

func printTypes(c *cobra.Command, l server.TypeList) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TYPE\tPLUGIN\tREADY\tRUNNING\tSTATE")
	for _, t := range l.Items {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", t.Name, t.Plugin, t.Ready, t.Running, why(t))
	}
	return w.Flush()
}

// heldFinding tells of the types whose messages wait for somebody.
func heldFinding(l server.TypeList, now time.Time) []server.Finding {
	var all []server.Finding
	for _, t := range l.Items {
		f := server.Finding{Name: "types", State: server.StateOK, Detail: t.Name + " " + why(t)}
		switch {
		case !t.Held:
			continue
		case !t.Paused.IsZero():
			f.Help = "usher type resume " + t.Name
			if now.Sub(t.Paused) > day {
				f.State = server.StateUnknown // has somebody forgotten it?
			}
		case !t.Removed.IsZero():
			f.State = server.StateFailed
			f.Help = "add it to the configuration again, or cancel them: usher delay cancel --type " + t.Name
			if t.Waiting == 0 {
				continue
			}
		case !t.Failing.IsZero():
			f.State = server.StateFailed
			f.Help = "mend what its handler needs: all of them go on with the first answer"
		case t.Waiting == 0: // its plugin has a finding of its own
			continue
		}
		all = append(all, f)
	}
	return all
}

const day = 24 * time.Hour
