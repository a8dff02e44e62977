package cli

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"usher/server"
)

func queuesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "queues",
		Short:   "Show what waits, level by level",
		Example: "  usher queues\n  watch -n1 usher queues",
		RunE: func(c *cobra.Command, _ []string) error {
			var q server.QueueReport
			if err := newAPI().call(c.Context(), http.MethodGet, "/api/v1/queues", nil, &q); err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, q)
			}
			return printQueues(c, q)
		},
	}
}

func printQueues(c *cobra.Command, q server.QueueReport) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "LEVEL\tAT BROKER\tIN HAND\tREADY\tOLDEST\t")
	for _, l := range q.Levels {
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t\n", l.Level, number(l.Waiting), number(l.InFlight), l.Ready, seconds(l.OldestSeconds))
	}
	fmt.Fprintf(w, "no lane\t%s\t%s\t\t%s\t\n", number(q.Unsorted.Waiting), number(q.Unsorted.InFlight), seconds(q.Unsorted.OldestSeconds))
	fmt.Fprintf(w, "dead\t%s\t%s\t\t%s\t\n", number(q.Dead.Waiting), number(q.Dead.InFlight), seconds(q.Dead.OldestSeconds))
	if err := w.Flush(); err != nil {
		return err
	}
	var running []string
	for plugin, n := range q.Running {
		running = append(running, fmt.Sprintf("%s %d", plugin, n))
	}
	if len(running) > 0 {
		fmt.Fprintln(c.OutOrStdout(), "running:", strings.Join(running, ", "))
	}
	if q.Floor > 0 {
		fmt.Fprintf(c.OutOrStdout(), "levels below %d wait: lane %d has more at the broker\n", q.Floor, q.Floor)
	}
	if !q.Connected {
		fmt.Fprintln(c.ErrOrStderr(), "usher: the engine has no session with the broker")
	}
	if q.Note != "" {
		fmt.Fprintln(c.ErrOrStderr(), "usher:", q.Note)
	}
	return nil
}

func number(n *int) string {
	if n == nil {
		return "?"
	}
	return strconv.Itoa(*n)
}

func seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	return time.Duration(*s * float64(time.Second)).Round(100 * time.Millisecond).String()
}
