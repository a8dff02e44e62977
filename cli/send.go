package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"usher/engine"
)

// sending is what `usher send` was asked for.
type sending struct {
	priority int
	delay    string
	id       string
	headers  []string
	data     string
	count    int
	wait     bool
	timeout  time.Duration
}

func sendCommand() *cobra.Command {
	var s sending
	c := &cobra.Command{
		Use:   "send TYPE",
		Short: "Send a message, as any producer would",
		Long: `Send a message over STOMP and print its id when the broker has it for good.
The broker is USHER_BROKER (default ` + defaultBroker + `).`,
		Example: `  usher send order.rush --data '{"order":7}' --wait
  usher send report.daily --delay 15m --data @report.json
  generate | usher send order.placed --priority 7 --id order-4711 --data -
  usher send order.placed --count 1000 --priority 1`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return s.run(c, args[0]) },
	}
	f := c.Flags()
	f.IntVarP(&s.priority, "priority", "p", engine.DefaultLevel, "0 to 9, 9 first")
	f.StringVar(&s.delay, "delay", "", "how long it waits first, as in 90s or 15m")
	f.StringVar(&s.id, "id", "", "stable id; sending the same id and body again has no second effect (default: made up)")
	f.StringArrayVarP(&s.headers, "header", "H", nil, "extra header as name=value; may be given again")
	f.StringVarP(&s.data, "data", "d", "{}", "body: JSON, @file, or - for standard input")
	f.IntVar(&s.count, "count", 1, "how many to send; ids get -1, -2, … added")
	f.BoolVarP(&s.wait, "wait", "w", false, "wait until it is done; exit 1 if it is dead-lettered or cancelled")
	f.DurationVar(&s.timeout, "timeout", time.Minute, "how long to wait with --wait")
	return c
}

func (s *sending) run(c *cobra.Command, typ string) error {
	headers, err := s.build(typ)
	if err != nil {
		return err
	}
	body, err := readBody(s.data, c.InOrStdin())
	if err != nil {
		return err
	}
	client, err := dialBroker(c.Context())
	if err != nil {
		return err
	}
	defer client.Close()

	ids := s.ids()
	var watch *watcher
	if s.wait {
		// Watching begins before the message is there, so that nothing is missed.
		if watch, err = newWatcher(c.Context(), ids...); err != nil {
			return err
		}
		defer watch.close()
	}
	if err := sendAll(c, client, ids, headers, body); err != nil {
		return err
	}
	if !s.wait {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Context(), s.timeout)
	defer cancel()
	return watch.untilFinal(ctx, c, len(ids))
}

// build checks what was asked for and makes the headers of it.
func (s *sending) build(typ string) (map[string]string, error) {
	if s.priority < 0 || s.priority >= engine.Levels {
		return nil, fail(exitUsage, "--priority %d is outside 0 to 9", s.priority)
	}
	if s.count < 1 || s.count > 1_000_000 {
		return nil, fail(exitUsage, "--count %d is outside 1 to 1000000", s.count)
	}
	h := map[string]string{
		engine.HeaderType: typ, engine.HeaderPriority: strconv.Itoa(s.priority),
		engine.HeaderContentType: "application/json",
	}
	for _, pair := range s.headers {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fail(exitUsage, "--header %q is not name=value", pair)
		}
		h[name] = value
	}
	if s.delay != "" {
		d, err := engine.ParseDelay(s.delay)
		if err != nil {
			return nil, fail(exitUsage, "--delay: %v", err)
		}
		h[engine.HeaderDelay] = strconv.FormatInt(d.Milliseconds(), 10)
	}
	return h, nil
}

// ids are those of the messages to send.
func (s *sending) ids() []string {
	base := s.id
	if base == "" {
		base = strings.ToLower(rand.Text()[:16])
	}
	if s.count == 1 {
		return []string{base}
	}
	ids := make([]string, s.count)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", base, i+1)
	}
	return ids
}

// readBody reads --data. What is meant as JSON and is not, is refused here and
// not by a handler far away.
func readBody(data string, in io.Reader) ([]byte, error) {
	const most = 64 << 20
	var body []byte
	var err error
	switch {
	case data == "-":
		body, err = io.ReadAll(io.LimitReader(in, most+1))
	case strings.HasPrefix(data, "@"):
		body, err = os.ReadFile(data[1:])
	default:
		body = []byte(data)
		if !json.Valid(bytes.TrimSpace(body)) {
			err = errors.New("it is not JSON; for other bodies use @file or -, and --header content-type=…")
		}
	}
	if err != nil {
		return nil, fail(exitInvalid, "--data: %v", err)
	}
	if len(body) > most {
		return nil, fail(exitInvalid, "--data: more than %d bytes", most)
	}
	return body, nil
}

// sendAll sends one message an id, many at once, and prints the ids that the
// broker has.
func sendAll(c *cobra.Command, client sender, ids []string, headers map[string]string, body []byte) error {
	g, ctx := errgroup.WithContext(c.Context())
	g.SetLimit(64)
	for _, id := range ids {
		g.Go(func() error {
			h := maps.Clone(headers)
			h[engine.HeaderID] = id
			return client.Send(ctx, engine.Outgoing{Queue: engine.WorkQueue, Headers: h, Body: body})
		})
	}
	if err := g.Wait(); err != nil {
		return fail(exitFailed, "the broker did not take all messages: %w", err)
	}
	if wantsJSON(c) {
		return printJSON(c, map[string]any{"ids": ids})
	}
	if len(ids) > 20 {
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s … %s (%d messages)\n", ids[0], ids[len(ids)-1], len(ids))
		return err
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), strings.Join(ids, "\n"))
	return err
}

// sender is the part of the broker client that sending needs.
type sender interface {
	Send(ctx context.Context, out engine.Outgoing) error
}
