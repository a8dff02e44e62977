package cli

import (
	"net/http"

	"github.com/spf13/cobra"

	"usher/config"
	"usher/server"
)

func configDiffCommand() *cobra.Command {
	var with []string
	var code bool
	c := &cobra.Command{
		Use:   "diff [FILE...]",
		Short: "Say what configuration files would change in the usher that runs",
		Long: `Say what configuration files, by default ./usher.yaml, would change in the usher that
runs, key by key, and what of it needs a restart; or, with --with, against other files.`,
		Example: "  usher config diff\n  usher config diff new.yaml --with old.yaml\n  usher config diff --exit-code && echo same",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, files []string) error {
			if len(files) == 0 {
				files = []string{"usher.yaml"}
			}
			to, err := config.Load(fromFiles(c.Context(), files...))
			if err != nil {
				return err
			}
			from, err := configInUse(c, with)
			if err != nil {
				return err
			}
			changes := config.Diff(from, to)
			switch {
			case wantsJSON(c):
				if changes == nil {
					changes = []config.Change{}
				}
				err = printJSON(c, changes)
			case len(changes) == 0:
				c.PrintErrln("no difference")
			default:
				lines := make([]string, len(changes))
				for i, change := range changes {
					lines[i] = change.String()
				}
				err = printLines(c, lines...)
			}
			if err == nil && code && len(changes) > 0 {
				err = fail(exitFailed, "")
			}
			return err
		},
	}
	c.Flags().StringArrayVar(&with, "with", nil, "compare with this file instead; given again, later ones win")
	c.Flags().BoolVar(&code, "exit-code", false, "exit 1 if there is a difference")
	return c
}

// configInUse is the configuration of the files, or of the usher that runs.
func configInUse(c *cobra.Command, files []string) (*config.Config, error) {
	if len(files) > 0 {
		return config.Load(fromFiles(c.Context(), files...))
	}
	var report server.ConfigReport
	if err := newAPI().call(c.Context(), http.MethodGet, "/api/v1/config", nil, &report); err != nil {
		return nil, err
	}
	return config.Load(config.Options{Default: report.Config, DefaultName: "the configuration in use"})
}
