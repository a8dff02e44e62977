package cli

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"usher/server"
)

func msgCommand() *cobra.Command {
	c := &cobra.Command{Use: "msg", Short: "Look at single messages", Example: "  usher msg show order-7"}
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
