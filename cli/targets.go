package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/onboard"
	"github.com/keyferry/keyferry/issuer"
)

func newTarget(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "target",
		Short: "Register other clusters as TargetClusters",
		Long: strings.TrimSpace(`
Register other clusters as TargetClusters.

There are two clusters: the management cluster, in which Keyferry and your Pods run, and the target. The commands use
your own permissions in both clusters.
`) + "\n\n" + exitCodes,
	}
	cmd.AddCommand(newTargetAdd(streams, cluster), newTargetImport(streams, cluster), newTargetList(streams, cluster), newTargetShow(streams, cluster),
		newTargetRotate(streams, cluster), newTargetRemove(streams, cluster))
	return cmd
}

// targetFlags are the flags that name the target. In commands that have them, the management
// cluster is the current context.
type targetFlags struct {
	context    string
	kubeconfig string
}

// addTo adds the flags. --context and --kubeconfig take the place of those for the management
// cluster, which has --management-context.
func (t *targetFlags) addTo(cmd *cobra.Command, cluster *genericclioptions.ConfigFlags) {
	cmd.Flags().StringVar(&t.context, "context", "", "context of the target in your kubeconfig")
	cmd.Flags().StringVar(&t.kubeconfig, "kubeconfig", "", "kubeconfig file of the target; the command uses the current context of the file, or --context")
	addManagementContext(cmd, cluster)
	_ = cmd.MarkFlagFilename("kubeconfig") // the flags are there
	_ = cmd.RegisterFlagCompletionFunc("context", completeContexts(cluster))
}

// addManagementContext adds the flag that takes the place of --context in commands where that names
// the target.
func addManagementContext(cmd *cobra.Command, cluster *genericclioptions.ConfigFlags) {
	cmd.Flags().StringVar(cluster.Context, "management-context", "", "context of the management cluster in your kubeconfig (default: the current context)")
	_ = cmd.RegisterFlagCompletionFunc("management-context", completeContexts(cluster)) // the flag is there
}

// check refuses a command line that does not name the target.
func (t *targetFlags) check() error {
	if t.context == "" && t.kubeconfig == "" {
		return errors.New("the target is missing: add --context NAME, a context of your kubeconfig, or --kubeconfig FILE")
	}
	return nil
}

// administrator reads how you authenticate to the target.
func (t *targetFlags) administrator(ctx context.Context) (onboard.Administrator, error) {
	files := clientcmd.NewDefaultClientConfigLoadingRules().GetLoadingPrecedence()
	if t.kubeconfig != "" {
		files = []string{t.kubeconfig}
	}
	return onboard.ReadKubeconfig(ctx, files, t.context)
}

// adder connects to both clusters.
func (t *targetFlags) adder(ctx context.Context, streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags, request onboard.Request) (*onboard.Adder, error) {
	administrator, err := t.administrator(ctx)
	if err != nil {
		return nil, err
	}
	management, clusterID, err := managementOf(ctx, cluster)
	if err != nil {
		return nil, err
	}
	return newAdder(streams, administrator, management, clusterID, request, "")
}

// newAdder returns an Adder that acts as you do in both clusters; prefix is for each line of its
// output.
func newAdder(streams genericiooptions.IOStreams, administrator onboard.Administrator, management client.Client, clusterID string, request onboard.Request, prefix string) (*onboard.Adder, error) {
	target, err := client.New(administrator.Config, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	request.Owner = ownerOf(clusterID, request.Name)
	return &onboard.Adder{
		Request: request, Endpoint: administrator.Endpoint, Administrator: administrator, Target: target, Management: management,
		Report: lines(streams.Out, prefix), Warn: lines(streams.ErrOut, "warning: "+prefix),
	}, nil
}

// ownerOf marks objects in the target as made for a TargetCluster of one management cluster.
func ownerOf(clusterID string, target types.NamespacedName) string {
	return clusterID + "/" + target.String()
}

// managementOf connects to the management cluster, and returns its ID.
func managementOf(ctx context.Context, cluster *genericclioptions.ConfigFlags) (management client.Client, clusterID string, err error) {
	_, management, err = connect(cluster)
	if err == nil {
		clusterID, err = issuer.ClusterID(ctx, management)
	}
	if err != nil {
		return nil, "", fmt.Errorf("management cluster: %w", err)
	}
	return management, clusterID, nil
}

// lines returns a function that prints lines.
func lines(out io.Writer, prefix string) func(format string, args ...any) {
	return func(format string, args ...any) { printf(out, "%s%s\n", prefix, fmt.Sprintf(format, args...)) }
}

// oneTargetCluster refuses arguments that are not the name of one TargetCluster; flags are those
// that the command needs.
func oneTargetCluster(cmd *cobra.Command, args []string, flags string) error {
	if len(args) != 1 {
		return fmt.Errorf("the command needs the name of one TargetCluster: %s fleet/tenant-1%s", cmd.CommandPath(), flags)
	}
	_, err := parseTargetCluster(args[0], "")
	return err
}

// namedTargetCluster reads an argument; a name without a namespace is in the current one.
func namedTargetCluster(cluster *genericclioptions.ConfigFlags, arg string) (types.NamespacedName, error) {
	namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return types.NamespacedName{}, err
	}
	return parseTargetCluster(arg, namespace)
}

// listedNamespace returns the namespace whose objects a command lists: the current one, or all.
func listedNamespace(cluster *genericclioptions.ConfigFlags, everywhere bool) (string, error) {
	if everywhere {
		return metav1.NamespaceAll, nil
	}
	namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}
