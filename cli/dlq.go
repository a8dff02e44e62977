package cli

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"usher/engine"
	"usher/engine/stomp"
	"usher/handlers"
	"usher/server"
)

// dlqWindow is how many dead letters one look takes in hand.
const dlqWindow = 10_000

// deadLetter is one message of the dead-letter queue, as it is printed.
type deadLetter struct {
	ID            string            `json:"id"`
	Type          string            `json:"type"`
	Priority      string            `json:"priority"`
	Reason        string            `json:"reason"`
	Detail        string            `json:"detail"`
	Attempts      string            `json:"attempts"`
	FirstFailedAt time.Time         `json:"firstFailedAt,omitzero"`
	Headers       map[string]string `json:"headers,omitempty"`
	Body          string            `json:"body,omitempty"`
}

func dlqCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dlq",
		Short: "Look after what failed",
		Long: `Look after the dead-letter queue ` + engine.DeadQueue + `. It is read over STOMP (USHER_BROKER);
looking takes nothing away. One look reaches the oldest 10,000.`,
		Example: "  usher dlq list --type order.placed\n  usher dlq show order-7\n  usher dlq redrive --reason exhausted --dry-run",
	}
	c.AddCommand(dlqListCommand(), dlqShowCommand(), dlqRedriveCommand())
	return c
}

// filter says which dead letters are meant.
type filter struct {
	typ, reason string
	ids         []string
}

func (f *filter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.typ, "type", "", "only messages of this type")
	c.Flags().StringVar(&f.reason, "reason", "", "only this reason code")
}

func (f *filter) match(d engine.Delivery) bool {
	return (f.typ == "" || d.Headers[engine.HeaderType] == f.typ) &&
		(f.reason == "" || d.Headers[engine.HeaderDeadReason] == f.reason) &&
		(len(f.ids) == 0 || slices.Contains(f.ids, d.Headers[engine.HeaderID]))
}

func describeDead(d engine.Delivery) deadLetter {
	h := d.Headers
	return deadLetter{
		ID: h[engine.HeaderID], Type: h[engine.HeaderType], Priority: h[engine.HeaderPriority],
		Reason: h[engine.HeaderDeadReason], Detail: h[engine.HeaderDeadDetail], Attempts: h[engine.HeaderAttempts],
		FirstFailedAt: headerTime(d, engine.HeaderFirstFailedAt),
	}
}

// eachDead gives f every dead letter that matches; f says whether to take it away.
func eachDead(c *cobra.Command, client *stomp.Client, want filter, f stomp.ViewFunc) error {
	v := stomp.View{Queue: engine.DeadQueue, Window: dlqWindow, Limit: dlqWindow}
	err := client.Consume(c.Context(), v, func(d engine.Delivery) (bool, error) {
		if !want.match(d) {
			return false, nil
		}
		return f(d)
	})
	var known *failure
	if err != nil && !errors.As(err, &known) {
		return fail(exitUnreachable, "%w", err)
	}
	return err
}

func dlqListCommand() *cobra.Command {
	var want filter
	c := &cobra.Command{
		Use:     "list",
		Short:   "List dead letters and why they are there",
		Example: "  usher dlq list\n  usher dlq list --type order.placed --reason exhausted --json",
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := dialBroker(c.Context())
			if err != nil {
				return err
			}
			defer client.Close()
			letters := []deadLetter{}
			err = eachDead(c, client, want, func(d engine.Delivery) (bool, error) {
				letters = append(letters, describeDead(d))
				return false, nil
			})
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, letters)
			}
			return printDead(c, letters)
		},
	}
	want.flags(c)
	return c
}

func printDead(c *cobra.Command, letters []deadLetter) error {
	if len(letters) == 0 {
		_, err := fmt.Fprintln(c.ErrOrStderr(), "no dead letters: good")
		return err
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTYPE\tLEVEL\tATTEMPTS\tFAILED\tREASON\tDETAIL")
	for _, l := range letters {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", handlers.OneLine(l.ID, 60), handlers.OneLine(l.Type, 40), l.Priority, l.Attempts,
			ago(l.FirstFailedAt), l.Reason, handlers.OneLine(l.Detail, 80))
	}
	return w.Flush()
}

func dlqShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show one dead letter with its headers and body",
		Example: "  usher dlq show order-7 --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := dialBroker(c.Context())
			if err != nil {
				return err
			}
			defer client.Close()
			var found []deadLetter
			err = eachDead(c, client, filter{ids: args}, func(d engine.Delivery) (bool, error) {
				l := describeDead(d)
				l.Headers, l.Body = d.Headers, printableBody(d.Body)
				found = append(found, l)
				return false, nil
			})
			switch {
			case err != nil:
				return err
			case len(found) == 0:
				return fail(exitNotFound, "there is no dead letter %s", args[0])
			case wantsJSON(c):
				return printJSON(c, found)
			}
			return printDeadWhole(c, found)
		},
	}
}

func printDeadWhole(c *cobra.Command, letters []deadLetter) error {
	for _, l := range letters {
		fmt.Fprintf(c.OutOrStdout(), "id          %s\ntype        %s\nlevel       %s\nreason      %s\ndetail      %s\nattempts    %s\nfailed      %s\n",
			l.ID, l.Type, l.Priority, l.Reason, l.Detail, l.Attempts, when(l.FirstFailedAt))
		names := make([]string, 0, len(l.Headers))
		for name := range l.Headers {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(c.OutOrStdout(), "  %s: %s\n", handlers.OneLine(name, 200), handlers.OneLine(l.Headers[name], 1000))
		}
		if _, err := fmt.Fprintf(c.OutOrStdout(), "\n%s\n", l.Body); err != nil {
			return err
		}
	}
	return nil
}

// printableBody is a body that can do nothing to a terminal.
func printableBody(body []byte) string {
	const most = 64 << 10
	if !utf8.Valid(body) {
		return fmt.Sprintf("(%d bytes that are no text)", len(body))
	}
	text := []rune(string(body[:min(len(body), most)]))
	for i, r := range text {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			text[i] = utf8.RuneError
		}
	}
	if len(body) > most {
		return string(text) + fmt.Sprintf("\n… (%d bytes in all)", len(body))
	}
	return string(text)
}

func dlqRedriveCommand() *cobra.Command {
	var want filter
	var dryRun, all bool
	c := &cobra.Command{
		Use:   "redrive [ID...]",
		Short: "Send dead letters to be tried again, with fresh attempts",
		Long: `Send dead letters to be tried again: by id, or all that match --type and
--reason; --all for every one. Each keeps its id and priority and starts with
fresh attempts. One that is done already, because it was sent again, stays.`,
		Example: "  usher dlq redrive order-7\n  usher dlq redrive --type order.placed --reason exhausted --dry-run",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			want.ids = args
			if len(args) == 0 && want.typ == "" && want.reason == "" && !all {
				return fail(exitUsage, "say which: ids, --type, --reason, or --all")
			}
			return redrive(c, want, dryRun)
		},
	}
	want.flags(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be sent")
	c.Flags().BoolVar(&all, "all", false, "every dead letter")
	return c
}

func redrive(c *cobra.Command, want filter, dryRun bool) error {
	client, err := dialBroker(c.Context())
	if err != nil {
		return err
	}
	defer client.Close()
	sent, done := []string{}, []string{}
	hops := map[string]string{} // of what was sent, by id
	err = eachDead(c, client, want, func(d engine.Delivery) (bool, error) {
		id := d.Headers[engine.HeaderID]
		if hop, again := hops[id]; again && hop != d.Headers[engine.HeaderHop] {
			return false, nil // we sent it just now, and it is back already
		}
		var m server.Message
		if err := newAPI().call(c.Context(), http.MethodGet, messagePath("messages", id), nil, &m); err == nil && m.State == engine.Done {
			done = append(done, id)
			return false, nil
		}
		sent = append(sent, id)
		hops[id] = d.Headers[engine.HeaderHop]
		if dryRun {
			return false, nil
		}
		letter, content := engine.DeadLetterOf(d, engine.DeadQueue, time.Now())
		if err := client.Send(c.Context(), engine.Redriven(letter, content, engine.WorkQueue, time.Now())); err != nil {
			return false, fail(exitFailed, "%s was not sent: %w", id, err)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return printJSON(c, map[string]any{"sent": sent, "doneAlready": done, "dryRun": dryRun})
	}
	verb := "sent"
	if dryRun {
		verb = "would be sent"
	}
	for _, id := range sent {
		fmt.Fprintln(c.OutOrStdout(), id)
	}
	fmt.Fprintf(c.ErrOrStderr(), "%d %s to be tried again, %d stay because they are done already\n", len(sent), verb, len(done))
	if len(want.ids) > 0 && len(sent)+len(done) == 0 {
		return fail(exitNotFound, "there are no such dead letters")
	}
	return nil
}
