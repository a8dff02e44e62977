package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"usher/server"
)

func dlqExportCommand() *cobra.Command {
	var want letterFilter
	var file string
	c := &cobra.Command{
		Use:   "export [ID...]",
		Short: "Write dead letters with headers and body as JSON lines",
		Long: `Write dead letters with headers and body, one JSON object a line, the body in base64:
by id or key, or all that a filter chooses; without either all that wait. They stay
where they are. A file that is there already is not overwritten.`,
		Example: "  usher dlq export --out letters.jsonl\n  usher dlq export --type order.placed | jq -r .id",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			p := letterPass{letterFilter: want, done: "exported"}
			if len(args) > 0 && want.given() {
				return fail(exitUsage, "ids and a filter do not go together")
			}
			chosen, err := p.choose(c.Context(), args)
			if err != nil {
				return err
			}
			if len(chosen) == 0 {
				return fail(exitNotFound, "no dead letter matches: nothing is exported")
			}
			if file == "" {
				err = export(c, c.OutOrStdout(), chosen)
			} else {
				err = exportTo(c, file, chosen)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "%d dead letters are exported\n", len(chosen))
			return nil
		},
	}
	want.flags(c)
	want.stateFlag(c)
	c.Flags().StringVar(&file, "out", "", "the file to write (default: standard output)")
	return c
}

// exportTo writes to a new file that only its owner may read.
func exportTo(c *cobra.Command, file string, chosen []server.Letter) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fail(exitFailed, "the file cannot be made: %w", err)
	}
	return errors.Join(export(c, f, chosen), f.Close())
}

// export writes one after the other, so that one body is in memory at a time.
func export(c *cobra.Command, out io.Writer, chosen []server.Letter) error {
	show := newProgress(c.ErrOrStderr(), len(chosen), "exported")
	defer show.end()
	lines := json.NewEncoder(out)
	for _, l := range chosen {
		whole, err := wholeLetter(c.Context(), l.Key)
		if err != nil {
			return err
		}
		whole.Text = "" // the body has it
		if err := lines.Encode(whole); err != nil {
			return fail(exitFailed, "the export cannot be written: %w", err)
		}
		show.add(1)
	}
	return nil
}
