package cli

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"usher/plugins/shop"
	"usher/plugins/webhook"
	"usher/server"
)

func pluginsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "plugin", Short: "See handler plugins, or be one",
		Example: "  usher plugin ls",
	}
	c.AddCommand(newPluginServe(), newPluginList())
	return c
}

// shipped are the plugins that this binary can be.
func shipped() map[string]func() {
	return map[string]func(){"shop": shop.Serve, "webhook": webhook.Serve}
}

func newPluginServe() *cobra.Command {
	names := slices.Sorted(maps.Keys(shipped()))
	return &cobra.Command{
		Use:   "serve NAME",
		Short: "Be one of the plugins that usher ships: " + strings.Join(names, ", "),
		Long: `Be one of the plugins that usher ships. It is started by usher itself, as said in
the configuration: plugins: {shop: {command: [usher, plugin, serve, shop]}}.`,
		Example:   "  usher plugin serve shop",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(_ *cobra.Command, args []string) error {
			shipped()[args[0]]()
			return nil
		},
	}
}

func newPluginList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List the plugins of a running usher",
		Example: "  usher plugin ls",
		RunE: func(c *cobra.Command, _ []string) error {
			var l server.PluginList
			if err := newAPI().call(c.Context(), http.MethodGet, "/api/v1/plugins", nil, &l); err != nil {
				return err
			}
			if wantsJSON(c) {
				return printJSON(c, l)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PLUGIN\tSTATE\tPID\tCREDIT\tRESTARTS\tSINCE\tTYPES\tERROR")
			for _, p := range l.Items {
				if !p.Quarantined.IsZero() {
					p.State += ", quarantine"
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", p.Name, p.State, p.PID, p.Credit, p.Restarts, ago(p.Since), strings.Join(p.Types, ","), p.Error)
				if n := p.Next; n != nil {
					fmt.Fprintf(w, "%s (next)\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", n.Name, n.State, n.PID, n.Credit, n.Restarts, ago(n.Since), strings.Join(n.Types, ","), n.Error)
				}
			}
			return w.Flush()
		},
	}
}
