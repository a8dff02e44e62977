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
		Use:   "queues",
		Short: "Show what waits, level by level",
		Long: `Show what waits, level by level: WAITING at the broker, IN FLIGHT to some engine and
not acked. Of these the engine that answers has IN HAND, READY without a slot, and
RUNNING in handlers. A ? is what the broker does not tell.`,
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
	fmt.Fprintln(w, "LEVEL\tWAITING\tIN FLIGHT\tIN HAND\tREADY\tRUNNING\tOLDEST\t")
	row := func(name string, b server.Backlog, hand, here string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", name, number(b.Waiting), number(b.InFlight), hand, here, seconds(b.OldestSeconds))
	}
	var ready, busy int
	for _, l := range q.Levels {
		row(strconv.Itoa(l.Level), l.Backlog, number(l.InHand), fmt.Sprintf("%d\t%d", l.Ready, l.Running))
		ready += l.Ready
		busy += l.Running
	}
	row("no lane", q.Unsorted, number(q.Unsorted.InHand), "\t")
	row("total", q.Total, number(q.Total.InHand), fmt.Sprintf("%d\t%d", ready, busy))
	row("dead", q.Dead, "", "\t")
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
