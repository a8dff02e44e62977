package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"usher/config"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Check and show configurations",
		Example: "  usher config validate usher.yaml\n  usher config show --config usher.yaml\n  usher config diff\n  usher config schema > usher.schema.json",
	}
	c.AddCommand(configValidateCommand(), configShowCommand(), configDiffCommand(), configExplainCommand(), configSchemaCommand())
	return c
}

func configValidateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate [FILE...]",
		Short: "Check configuration files: every error at once, with its place",
		Long: `Check configuration files, by default ./usher.yaml; several are merged, later ones
win. Every error is told at once, with file, line and column. Exit 3 if there is one.`,
		Example: "  usher config validate\n  usher config validate base.yaml prod.yaml",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, files []string) error {
			if len(files) == 0 {
				files = []string{"usher.yaml"}
			}
			cfg, err := config.Load(fromFiles(c.Context(), files...))
			if err != nil {
				return err
			}
			warn(c, cfg)
			return printLines(c, strings.Join(files, ", ")+": valid")
		},
	}
}

func configShowCommand() *cobra.Command {
	var files []string
	var origins bool
	c := &cobra.Command{
		Use:     "show",
		Short:   "Show the configuration as it is in force, defaults included, secrets not",
		Example: "  usher config show --config usher.yaml\n  usher config show --origins",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := clientConfig(files)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, cfg)
			}
			marshal := config.Marshal
			if origins {
				marshal = config.Annotate
			}
			text, err := marshal(cfg)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().StringArrayVar(&files, "config", nil, "configuration file (default ./usher.yaml if there is one)")
	c.Flags().BoolVar(&origins, "origins", false, "say where each value came from")
	return c
}

func configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of usher.yaml, for editors",
		Example: "  usher config schema > usher.schema.json",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}

func configExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "explain KEY",
		Short:   "Say what one key means, its default and its range",
		Example: "  usher config explain engine.slots",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := config.Explain(args[0])
			if err != nil {
				return fail(exitNotFound, "%w", err)
			}
			return printLines(c, strings.TrimRight(text, "\n"))
		},
	}
}

// warn prints what loads and yet looks wrong.
func warn(c *cobra.Command, cfg *config.Config) {
	if len(cfg.Warnings) > 0 {
		c.PrintErrln(strings.TrimRight(config.Errors(cfg.Warnings).Format(isTerminal(c.ErrOrStderr())), "\n"))
	}
}
