package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/onboard"
	"github.com/keyferry/keyferry/endpoint"
)

// targetAdd is one call of keyferry target add.
type targetAdd struct {
	streams genericiooptions.IOStreams
	cluster *genericclioptions.ConfigFlags

	target   targetFlags
	preview  preview
	account  string
	endpoint string
	timeout  time.Duration
	request  onboard.Request
}

func newTargetAdd(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	a := &targetAdd{streams: streams, cluster: cluster}
	cmd := &cobra.Command{
		Use:   "add [NAMESPACE/]NAME (--context TARGET | --kubeconfig FILE)",
		Short: "Register a cluster of a kubeconfig as a TargetCluster",
		Long: strings.TrimSpace(`
Register a cluster as a TargetCluster, and wait until it is ready.

In the target it creates a ServiceAccount for Keyferry, which may request tokens of the ServiceAccount that Pods become, and nothing else.
In the management cluster it creates a Secret with a kubeconfig of that ServiceAccount, and the TargetCluster. Your own credential is not
stored. All objects have the label app.kubernetes.io/managed-by: keyferry. An object of the same name without that label is not changed:
the command fails before it makes anything.

--context and --kubeconfig name the target. The management cluster is the current context of your kubeconfig, or --management-context.

Run again, it changes only the objects that differ. If it cannot make all objects, it removes all objects that it created, except namespaces.

The token in the Secret does not expire: a token that expires would have to be renewed with itself, and after an outage longer than its
lifetime Keyferry could not authenticate any more. Pods never get it. Their own tokens are valid for an hour.

The kubeconfig must have a token or a client certificate. No program that it names is run, and no other file is read.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  # Pods may read the target
  keyferry target add fleet/tenant-1 --context tenant-1 --role view

  # Pods become a ServiceAccount of the target that you name
  keyferry target add fleet/tenant-1 --context tenant-1 --service-account robots/robot

  # Pods of the namespaces app and shop become the target's ServiceAccount of the same namespace and name
  keyferry target add fleet/tenant-1 --context tenant-1 --mirror app,shop

  # A kind cluster: its address on your machine is not the one that Pods reach
  keyferry target add fleet/tenant-1 --context kind-target --endpoint https://target-control-plane:6443

  # Print the objects of both clusters, for Git
  keyferry target add fleet/tenant-1 --context tenant-1 --dry-run=client -o yaml
`, "\n"),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := oneTargetCluster(cmd, args, " --context TARGET"); err != nil {
				return err
			}
			return errors.Join(a.parse(args[0], ""), a.target.check(), a.preview.check())
		},
		ValidArgsFunction: firstArgument(completeTargetClusters(cluster)),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			if err := a.parse(args[0], namespace); err != nil {
				return err
			}
			return a.run(cmd.Context())
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&a.account, "service-account", "", "NAMESPACE/NAME of the target's ServiceAccount that Pods become; created if it does not exist "+
		"(default: one for this TargetCluster, in namespace "+onboard.PodsNamespace+")")
	flags.StringSliceVar(&a.request.Mirror, "mirror", nil, "namespaces whose Pods become the target's ServiceAccount of the same namespace and name")
	flags.BoolVar(&a.request.Create, "create", false, "let Keyferry create the ServiceAccounts that Pods become, when a Pod first needs one")
	flags.StringVar(&a.request.Role, "role", "", "ClusterRole of the target, such as view or edit, to bind to the Pods' ServiceAccount in all namespaces (default: none)")
	flags.StringVar(&a.endpoint, "endpoint", "", "URL of the target's API server as Pods reach it, if it is not the kubeconfig's")
	flags.DurationVar(&a.timeout, "timeout", 2*time.Minute, "how long to wait until the TargetCluster is ready")
	a.target.addTo(cmd, cluster)
	a.preview.addTo(cmd)
	return cmd
}

// parse reads argument and flags; namespace is that of a TargetCluster that names none.
func (a *targetAdd) parse(arg, namespace string) (err error) {
	if a.request.Name, err = parseTargetCluster(arg, namespace); err != nil {
		return err
	}
	a.request.Account = types.NamespacedName{}
	if a.account != "" {
		if a.request.Account, err = parseName("ServiceAccount", a.account, ""); err != nil || a.request.Account.Namespace == "" {
			return fmt.Errorf("--service-account %.128q: write it as NAMESPACE/NAME", a.account)
		}
	}
	if a.endpoint != "" {
		if _, err := endpoint.Parse(a.endpoint); err != nil {
			return fmt.Errorf("--endpoint %w", err)
		}
	}
	complete := a.request // with the defaults of its final name
	complete.Name.Namespace = cmp.Or(complete.Name.Namespace, metav1.NamespaceDefault)
	return complete.Complete()
}

func (a *targetAdd) run(ctx context.Context) error {
	adder, err := a.target.adder(ctx, a.streams, a.cluster, &a.request)
	if err != nil {
		return err
	}
	if err := adder.Complete(); err != nil {
		return err
	}
	adder.Timeout = a.timeout
	if a.endpoint != "" {
		// How you get there from your machine does not matter to Pods.
		adder.Endpoint.Server, adder.Endpoint.TLSServerName, adder.Endpoint.ProxyURL = a.endpoint, "", ""
	}
	if a.preview.isDryRun() {
		return a.print(ctx, adder)
	}
	if err := adder.Add(ctx); err != nil {
		return err
	}
	printf(a.streams.Out, "\nAllow a ServiceAccount to use it, and annotate its Pods:\n\n  keyferry grant %[1]s NAMESPACE/SERVICEACCOUNT\n\n  keyferry.dev/cluster: %[1]s\n", a.request.Name)
	return nil
}

// print prints the objects of both clusters.
func (a *targetAdd) print(ctx context.Context, adder *onboard.Adder) error {
	if err := adder.Check(ctx); err != nil {
		return err
	}
	target, management, err := adder.Preview()
	if err != nil {
		return err
	}
	return a.preview.write(a.streams.Out, managed.Created,
		section{comment: "# In the target\n", objects: target},
		section{comment: "# In the management cluster. The token is in Secret " + onboard.AccessNamespace + "/" + adder.TokenSecret() + " of the target.\n", objects: management})
}
