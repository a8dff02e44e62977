package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"usher/engine"
	"usher/handlers"
	"usher/server"
)

func dlqCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dlq",
		Short: "Look after what failed",
		Long: `Look after dead letters: messages that nobody will run unless somebody says so. The
monitor takes them out of ` + engine.DeadQueue + ` and the broker's own dead-letter queues into an
archive, where they wait. They are named by the id of their message, or by their key.

--since and --until take a time (2026-01-31T08:00:00Z), or how long ago (90m, 24h).`,
		Example: "  usher dlq list --type order.placed --since 1h\n  usher dlq show order-7\n  usher dlq redrive --reason exhausted --rate 50 --dry-run",
	}
	c.AddCommand(dlqListCommand(), dlqShowCommand(), dlqRedriveCommand(), dlqDropCommand(), dlqExportCommand())
	return c
}

// letterFilter chooses among dead letters.
type letterFilter struct {
	typ, reason, fingerprint string
	since, until             string
	level                    int
	state                    string // "": what waits for somebody
}

func (f *letterFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.typ, "type", "", "only of messages of this type")
	c.Flags().IntVar(&f.level, "level", -1, "only of this level, 0 to 9")
	c.Flags().StringVar(&f.reason, "reason", "", "only with this reason code")
	c.Flags().StringVar(&f.fingerprint, "fingerprint", "", "only of this kind of failure")
	c.Flags().StringVar(&f.since, "since", "", "only what died since then")
	c.Flags().StringVar(&f.until, "until", "", "only what died before then")
}

// stateFlag is for commands that only look.
func (f *letterFilter) stateFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.state, "state", string(engine.LetterKept), "kept (they wait), redriven, dropped, or all")
}

// given says whether anything is chosen.
func (f *letterFilter) given() bool {
	return f.typ != "" || f.level >= 0 || f.reason != "" || f.fingerprint != "" || f.since != "" || f.until != ""
}

// query is the filter as the API takes it.
func (f *letterFilter) query() (url.Values, error) {
	q := url.Values{}
	for name, value := range map[string]string{"type": f.typ, "reason": f.reason, "fingerprint": f.fingerprint, "state": f.state} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.level >= engine.Levels {
		return nil, fail(exitUsage, "--level %d is no level; they are 0 to 9", f.level)
	}
	if f.level >= 0 {
		q.Set("level", strconv.Itoa(f.level))
	}
	for name, text := range map[string]string{"since": f.since, "until": f.until} {
		if text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, text)
		if ago, agoErr := time.ParseDuration(text); agoErr == nil {
			t, err = time.Now().Add(-ago), nil
		}
		if err != nil {
			return nil, fail(exitUsage, "--%s %q is neither a time (2026-01-31T08:00:00Z) nor how long ago (90m)", name, text)
		}
		q.Set(name, t.UTC().Format(time.RFC3339Nano))
	}
	return q, nil
}

// eachLetter gives f what the query chooses, page by page, the youngest first, and
// at most limit of it. more says that there is more.
func eachLetter(ctx context.Context, query url.Values, limit int, f func(server.Letter) error) (more bool, err error) {
	api := newAPI()
	for limit > 0 {
		var page server.LetterList
		query.Set("limit", strconv.Itoa(min(limit, 500)))
		if err := api.call(ctx, http.MethodGet, "/api/v1/dead?"+query.Encode(), nil, &page); err != nil {
			return false, err
		}
		for _, l := range page.Items {
			if err := f(l); err != nil {
				return false, err
			}
		}
		if page.Next == "" {
			return false, nil
		}
		limit -= len(page.Items)
		query.Set("after", page.Next)
	}
	return true, nil
}

// lettersOf finds the letters that a word names: those of a message's id in the
// given state, or the one of a key.
func lettersOf(ctx context.Context, word, state string) ([]server.Letter, error) {
	var found []server.Letter
	_, err := eachLetter(ctx, url.Values{"id": {word}, "state": {state}}, 1000, func(l server.Letter) error {
		found = append(found, l)
		return nil
	})
	if err != nil || len(found) > 0 {
		return found, err
	}
	var whole server.LetterWhole
	err = newAPI().call(ctx, http.MethodGet, "/api/v1/dead/"+url.PathEscape(word), nil, &whole)
	var f *failure
	if errors.As(err, &f) && f.code == exitNotFound {
		return nil, fail(exitNotFound, "there is no dead letter %s; usher dlq list --state all shows what there was", word)
	}
	if err == nil {
		found = append(found, whole.Letter)
	}
	return found, err
}

func dlqListCommand() *cobra.Command {
	var want letterFilter
	var limit int
	var kinds bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List dead letters and why they are there, the youngest first",
		Long: `List dead letters and why they are there, the youngest first. --kinds counts them by
kind of failure: type, reason, and detail without its numbers and ids. Exit 4 if a
filter matches nothing.`,
		Example: "  usher dlq list\n  usher dlq list --kinds\n  usher dlq list --type order.placed --reason exhausted --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return fail(exitUsage, "--limit %d is not positive", limit)
			}
			if kinds && !c.Flags().Changed("limit") {
				limit = 1 << 30
			}
			query, err := want.query()
			if err != nil {
				return err
			}
			letters := []server.Letter{}
			counted := map[string]*letterKind{}
			more, err := eachLetter(c.Context(), query, limit, func(l server.Letter) error {
				if kinds {
					count(counted, l)
				} else {
					letters = append(letters, l)
				}
				return nil
			})
			switch {
			case err != nil:
				return err
			case len(letters)+len(counted) == 0:
				return noLetters(c, want.given() || want.state != string(engine.LetterKept))
			case kinds:
				return printKinds(c, counted)
			case wantsJSON(c):
				return printJSON(c, letters)
			}
			return printLetters(c, letters, more)
		},
	}
	want.flags(c)
	want.stateFlag(c)
	c.Flags().IntVar(&limit, "limit", 100, "how many to look at, at most; with --kinds all")
	c.Flags().BoolVar(&kinds, "kinds", false, "count them by kind of failure")
	return c
}

// noLetters says that there are none: good, or a filter that matches nothing.
func noLetters(c *cobra.Command, filtered bool) error {
	if filtered {
		return fail(exitNotFound, "no dead letter matches")
	}
	if wantsJSON(c) {
		return printJSON(c, []server.Letter{})
	}
	_, err := fmt.Fprintln(c.ErrOrStderr(), "no dead letters: good")
	return err
}

func printLetters(c *cobra.Command, letters []server.Letter, more bool) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTYPE\tLEVEL\tATTEMPTS\tREDRIVES\tDIED\tSTATE\tREASON\tDETAIL")
	for _, l := range letters {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", handlers.OneLine(l.ID, 60), handlers.OneLine(l.Type, 40), l.Level, l.Attempts, l.Redrives,
			ago(l.DeadAt), l.State, handlers.OneLine(l.Reason, 40), handlers.OneLine(l.Detail, 80))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if more {
		fmt.Fprintln(c.ErrOrStderr(), "there are more: raise --limit, or choose some")
	}
	return nil
}

// letterKind is how many letters there are of one kind of failure.
type letterKind struct {
	Fingerprint string    `json:"fingerprint"`
	Type        string    `json:"type"`
	Reason      string    `json:"reason"`
	Detail      string    `json:"detail"` // of the youngest
	Count       int       `json:"count"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// count adds a letter to its kind. They come the youngest first.
func count(kinds map[string]*letterKind, l server.Letter) {
	k := kinds[l.Fingerprint]
	if k == nil {
		k = &letterKind{Fingerprint: l.Fingerprint, Type: l.Type, Reason: l.Reason, Detail: l.Detail, Last: l.DeadAt}
		kinds[l.Fingerprint] = k
	}
	k.Count++
	k.First = l.DeadAt
}

func printKinds(c *cobra.Command, counted map[string]*letterKind) error {
	kinds := slices.SortedFunc(maps.Values(counted), func(a, b *letterKind) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	if wantsJSON(c) {
		return printJSON(c, kinds)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COUNT\tFINGERPRINT\tTYPE\tREASON\tFIRST\tLAST\tDETAIL")
	for _, k := range kinds {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Count, k.Fingerprint, handlers.OneLine(k.Type, 40), handlers.OneLine(k.Reason, 40),
			ago(k.First), ago(k.Last), handlers.OneLine(k.Detail, 80))
	}
	return w.Flush()
}

func dlqShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show the dead letters of a message, with headers and body",
		Long: `Show the dead letters of a message with headers and body, the youngest first; control
characters are escaped. A key shows that letter alone. --json has the body in base64.`,
		Example: "  usher dlq show order-7\n  usher dlq show order-7 --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			found, err := lettersOf(c.Context(), args[0], "all")
			if err != nil {
				return err
			}
			whole := make([]server.LetterWhole, len(found))
			for i, l := range found {
				if whole[i], err = wholeLetter(c.Context(), l.Key); err != nil {
					return err
				}
			}
			if wantsJSON(c) {
				return printJSON(c, whole)
			}
			for _, l := range whole {
				if err := printLetter(c, l); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func wholeLetter(ctx context.Context, key string) (l server.LetterWhole, err error) {
	err = newAPI().call(ctx, http.MethodGet, "/api/v1/dead/"+key, nil, &l)
	return l, err
}

func printLetter(c *cobra.Command, l server.LetterWhole) error {
	out := c.OutOrStdout()
	for _, row := range [][2]string{
		{"id", l.ID}, {"key", l.Key}, {"type", l.Type}, {"level", strconv.Itoa(l.Level)}, {"state", string(l.State) + ", since " + when(l.ChangedAt)},
		{"reason", l.Reason}, {"detail", l.Detail}, {"kind", l.Fingerprint},
		{"attempts", fmt.Sprintf("%d, after %d redeliveries; redriven %d times", l.Attempts, l.Redeliveries, l.Redrives)}, {"handler", l.Handler},
		{"failed", when(l.FirstFailedAt) + " for the first time"}, {"died", when(l.DeadAt)}, {"found in", l.Queue}, {"came from", l.Origin},
	} {
		if row[1] != "" {
			fmt.Fprintf(out, "%-10s %s\n", row[0], handlers.OneLine(row[1], 1100))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		fmt.Fprintf(out, "  %s: %s\n", handlers.OneLine(name, 200), handlers.OneLine(l.Headers[name], 1000))
	}
	body := server.Printable(l.Body)
	switch {
	case l.Stays:
		body = fmt.Sprintf("(%d bytes: too large to be archived; it is in %s)", l.Size, l.Queue)
	case l.State == engine.LetterDropped:
		body = "(forgotten: it was dropped)"
	case body == "" && len(l.Body) > 0:
		body = fmt.Sprintf("(%d bytes that are no text)", len(l.Body))
	}
	_, err := fmt.Fprintf(out, "\n%s\n\n", body)
	return err
}
