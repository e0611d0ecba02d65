package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli/events"
	"github.com/keyferry/keyferry/cli/terminal"
)

func newEvents(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	everywhere := false
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show Keyferry's Events, and Events about Pods that Keyferry denied",
		Long: strings.TrimSpace(`
Show the Events that Keyferry recorded in a namespace, and Events about Pods that Keyferry denied. The newest Event is
the last. API servers keep Events for an hour by default.

You need permission to list Events.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry events -n fleet
  keyferry events -A -o json
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			namespace, err := listedNamespace(cluster, everywhere)
			if err != nil {
				return err
			}
			_, c, err := connect(cluster)
			if err != nil {
				return err
			}
			found, err := events.Read(cmd.Context(), c, namespace)
			if err != nil {
				return err
			}
			report := struct {
				Events []events.Event `json:"events"`
			}{found}
			return output.print(streams.Out, report, func() error {
				return events.WriteText(streams.Out, terminal.PaletteFor(streams.Out), found, time.Now())
			})
		}),
	}
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "show Events of all namespaces")
	output.addTo(cmd)
	return cmd
}
