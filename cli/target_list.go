package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli/targetinfo"
	"github.com/keyferry/keyferry/cli/terminal"
)

func newTargetList(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	everywhere := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List TargetClusters, with the identity of Pods in the target",
		Long: strings.TrimSpace(`
List the TargetClusters of a namespace. For each TargetCluster, the command shows whether it is ready, how Keyferry
authenticates to the target, the identity of Pods in the target, and whether "keyferry target add" created it. "keyferry
status" shows the Pods that use the TargetClusters.

You need permission to list TargetClusters.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry target list -n fleet
  keyferry target list -A -o json
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
			targets, err := targetinfo.List(cmd.Context(), c, namespace)
			if err != nil {
				return err
			}
			report := struct {
				Targets []targetinfo.Summary `json:"targets"`
			}{targets}
			return output.print(streams.Out, report, func() error {
				return targetinfo.WriteList(streams.Out, terminal.PaletteFor(streams.Out), targets)
			})
		}),
	}
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "list the TargetClusters of all namespaces")
	output.addTo(cmd)
	return cmd
}

func newTargetShow(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	cmd := &cobra.Command{
		Use:   "show [NAMESPACE/]NAME",
		Short: "Show everything about one TargetCluster: access, conditions, grants and users",
		Long: strings.TrimSpace(`
Show one TargetCluster: its endpoint, how Keyferry authenticates to it, the identity of Pods in the target, its
conditions, the
ServiceAccounts that "keyferry grant" allows to use it, and the Pods and CredentialRequests that use it.

The command reads no Secrets. The command omits objects that you may not read, and lists the omitted objects on standard
error.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry target show fleet/tenant-1
  keyferry target show fleet/tenant-1 -o yaml
`, "\n"),
		Args: func(cmd *cobra.Command, args []string) error {
			return oneTargetCluster(cmd, args, "")
		},
		ValidArgsFunction: firstArgument(completeTargetClusters(cluster)),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			name, err := namedTargetCluster(cluster, args[0])
			if err != nil {
				return err
			}
			_, c, err := connect(cluster)
			if err != nil {
				return err
			}
			details, err := targetinfo.Read(cmd.Context(), c, name)
			if err != nil {
				return err
			}
			for _, sentence := range details.Incomplete {
				printf(streams.ErrOut, "warning: %s\n", sentence)
			}
			return output.print(streams.Out, details, func() error {
				return details.WriteText(streams.Out, terminal.PaletteFor(streams.Out))
			})
		}),
	}
	output.addTo(cmd)
	return cmd
}
