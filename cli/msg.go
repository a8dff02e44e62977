package cli

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"usher/engine"
	"usher/server"
)

func msgCommand() *cobra.Command {
	c := &cobra.Command{Use: "msg", Short: "Look at single messages, or cancel one", Example: "  usher msg show order-7\n  usher msg cancel order-7"}
	c.AddCommand(&cobra.Command{
		Use:     "show ID",
		Short:   "Show what is known of a message: state, attempts, why",
		Long:    "Show what is known of a message. Exit 4 if no message of the id was seen.",
		Example: "  usher msg show order-7\n  usher msg show order-7 --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var m server.Message
			if err := newAPI().call(c.Context(), http.MethodGet, messagePath("messages", args[0]), nil, &m); err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, m)
			}
			return printMessage(c, m)
		},
	})
	c.AddCommand(msgCancelCommand())
	return c
}

func msgCancelCommand() *cobra.Command {
	var running bool
	c := &cobra.Command{
		Use:   "cancel ID",
		Short: "Never run a message; with --running stop it where it runs",
		Long: `Never run a message: its state becomes cancelled, which is final. One that runs is
left alone, exit 6; with --running its handler is cancelled, in whichever engine it
runs, and what the handler did before stands. If the handler is done first the message
is done, exit 6. Exit 4 if no message of the id was seen.`,
		Example: "  usher msg cancel order-7\n  usher msg cancel order-7 --running",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path := messagePath("messages", args[0])
			if running {
				path += "?running=true"
			}
			var m server.Message
			if err := newAPI().call(c.Context(), http.MethodDelete, path, nil, &m); err != nil {
				return err
			}
			if m.State != engine.Cancelled {
				return fail(exitConflict, "%s is %s: that came first", m.ID, m.State)
			}
			if wantsJSON(c) {
				return printJSON(c, m)
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), m.ID+" is cancelled")
			return err
		},
	}
	c.Flags().BoolVar(&running, "running", false, "cancel its handler if it runs")
	return c
}

func printMessage(c *cobra.Command, m server.Message) error {
	rows := [][2]string{{"id", m.ID}, {"type", m.Type}}
	if m.Priority != nil {
		rows = append(rows, [2]string{"priority", strconv.Itoa(*m.Priority)})
	}
	state := string(m.State)
	if m.Reason != "" {
		state += ", " + m.Reason
	}
	rows = append(rows, [2]string{"state", state})
	if m.Live != nil {
		live := string(m.Live.State)
		if m.Live.Attempt > 0 {
			live += fmt.Sprintf(", attempt %d of %d", m.Live.Attempt, m.Live.Of)
		}
		if m.Live.Progress != nil {
			live += fmt.Sprintf(", %.0f %% %s", *m.Live.Progress*100, m.Live.Note)
		}
		rows = append(rows, [2]string{"now", live})
	}
	if !m.ProcessingTime.IsZero() {
		rows = append(rows, [2]string{"not before", when(m.ProcessingTime) + ", set by " + string(m.SetBy)})
	}
	rows = append(rows, [2]string{"attempts", strconv.Itoa(m.Attempts)}, [2]string{"copies", strconv.Itoa(m.Hop)})
	if m.Crashes > 0 {
		rows = append(rows, [2]string{"crashes", fmt.Sprintf("%d, of its plugin, with it in hand", m.Crashes)})
	}
	if m.Deaths > 0 {
		rows = append(rows, [2]string{"deaths", fmt.Sprintf("%d, of engines that ran it alone", m.Deaths)})
	}
	if !m.UpdatedAt.IsZero() {
		rows = append(rows, [2]string{"updated", when(m.UpdatedAt)})
	}
	for _, r := range rows {
		if r[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(c.OutOrStdout(), "%-11s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}
