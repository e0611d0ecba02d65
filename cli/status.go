package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli/status"
	"github.com/keyferry/keyferry/cli/terminal"
)

func newStatus(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := tableOutput{outputText}
	everywhere, follow := false, false
	cmd := &cobra.Command{
		Use:   "status [[NAMESPACE/]TARGETCLUSTER]...",
		Short: "Show the status of TargetClusters, the Pods that use them, and when credentials expire",
		Long: strings.TrimSpace(`
Show whether TargetClusters are ready, and if not, the reason. Show the Pods and CredentialRequests that use the
TargetClusters, with their ServiceAccounts, and when the credentials in Secrets expire. Only the sidecar knows when the
credential of a Pod expires. To see this, use "keyferry check".

For a namespace, the command shows the TargetClusters with all of their users. For each Pod and each CredentialRequest
of the namespace, the command also shows all TargetClusters that the object uses. With names, it shows only these
TargetClusters. With --all-namespaces, it shows all namespaces.

The command reads TargetClusters, CredentialRequests, locks and Pods, but no Secrets. The ClusterRole view contains the
necessary permissions. The command omits objects that you may not read, and lists the omitted objects on standard error.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  # The clusters that Pods of this namespace use
  keyferry status

  # The users of a TargetCluster
  keyferry status fleet/tenant-1

  # Show changes until Ctrl-C
  keyferry status -A --watch

  # For a spreadsheet: a line for each user of each target
  keyferry status -A -o csv > status.csv

  # Which TargetClusters are not ready?
  keyferry status -A -o json | jq -r '.targets[] | select(.ready != "True") | "\(.namespace)/\(.name): \(.message)"'
`, "\n"),
		ValidArgsFunction: completeTargetClusters(cluster),
		Args: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				if _, err := parseTargetCluster(arg, ""); err != nil {
					return err
				}
			}
			return nil
		},
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			scope, err := scopeOf(cluster, everywhere, args)
			if err != nil {
				return err
			}
			_, c, err := connect(cluster)
			if err != nil {
				return err
			}
			render := func() (string, error) {
				report, err := status.Read(cmd.Context(), c, scope)
				if err != nil {
					return "", err
				}
				var text strings.Builder
				warnings := streams.ErrOut
				if follow {
					warnings = &text
				}
				for _, sentence := range report.Incomplete {
					printf(warnings, "warning: %s\n", sentence)
				}
				if output.output == outputCSV {
					err = report.WriteCSV(&text)
					return text.String(), err
				}
				err = output.print(&text, report, func() error {
					return report.WriteText(&text, terminal.PaletteFor(streams.Out), time.Now())
				})
				return text.String(), err
			}
			if follow {
				ticker := time.NewTicker(watchInterval)
				defer ticker.Stop()
				return watch(cmd.Context(), streams.Out, ticker.C, render)
			}
			text, err := render()
			if err != nil {
				return err
			}
			_, err = io.WriteString(streams.Out, text)
			return err
		}),
	}
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "show the status again every "+watchInterval.String()+" until Ctrl-C")
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "show all namespaces")
	output.addTo(cmd)
	return cmd
}

// scopeOf is what flags and arguments ask for.
func scopeOf(cluster *genericclioptions.ConfigFlags, everywhere bool, args []string) (scope status.Scope, err error) {
	if scope.Namespace, _, err = cluster.ToRawKubeConfigLoader().Namespace(); err != nil {
		return scope, err
	}
	for _, arg := range args {
		name, err := parseTargetCluster(arg, scope.Namespace)
		if err != nil {
			return scope, err
		}
		scope.Names = append(scope.Names, name)
	}
	if everywhere {
		scope.Namespace = ""
	}
	return scope, nil
}

// parseTargetCluster reads an argument; namespace is that of one that names none.
func parseTargetCluster(arg, namespace string) (types.NamespacedName, error) {
	return parseName("TargetCluster", arg, namespace)
}

// parseName reads an argument that names an object of a kind; namespace is that of one that names
// none.
func parseName(kind, arg, namespace string) (types.NamespacedName, error) {
	name, isValid := arg, true
	if before, after, ok := strings.Cut(arg, "/"); ok {
		namespace, name = before, after
		isValid = len(validation.IsDNS1123Label(namespace)) == 0
	}
	if !isValid || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%.128q is not the name of a %s: write it as [NAMESPACE/]NAME", arg, kind)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}
