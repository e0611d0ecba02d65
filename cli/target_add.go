package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
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

	target       targetFlags
	registration registration
	endpoint     string
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
			_, err := a.parse(args[0], "")
			return errors.Join(err, a.target.check())
		},
		ValidArgsFunction: firstArgument(completeTargetClusters(cluster)),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			request, err := a.parse(args[0], namespace)
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), request)
		}),
	}
	cmd.Flags().StringVar(&a.endpoint, "endpoint", "", "URL of the target's API server as Pods reach it, if it is not the kubeconfig's")
	a.registration.addTo(cmd)
	a.target.addTo(cmd, cluster)
	return cmd
}

// parse reads argument and flags; namespace is that of a TargetCluster that names none.
func (a *targetAdd) parse(arg, namespace string) (onboard.Request, error) {
	name, err := parseTargetCluster(arg, namespace)
	if err != nil {
		return onboard.Request{}, err
	}
	if a.endpoint != "" {
		if _, err := endpoint.Parse(a.endpoint); err != nil {
			return onboard.Request{}, fmt.Errorf("--endpoint %w", err)
		}
	}
	return a.registration.requestFor(name)
}

func (a *targetAdd) run(ctx context.Context, request onboard.Request) error {
	adder, err := a.target.adder(ctx, a.streams, a.cluster, request)
	if err != nil {
		return err
	}
	if err := errors.Join(adder.Complete(), a.registration.apply(adder)); err != nil {
		return err
	}
	if a.endpoint != "" {
		// How you get there from your machine does not matter to Pods.
		adder.Endpoint.Server, adder.Endpoint.TLSServerName, adder.Endpoint.ProxyURL = a.endpoint, "", ""
	}
	if a.registration.preview.isDryRun() {
		return a.print(ctx, adder)
	}
	if err := adder.Register(ctx); err != nil {
		return err
	}
	if err := adder.Finish(ctx); err != nil {
		return err
	}
	printf(a.streams.Out, "\nAllow a ServiceAccount to use it, and annotate its Pods:\n\n  keyferry grant %[1]s NAMESPACE/SERVICEACCOUNT\n\n  keyferry.dev/cluster: %[1]s\n", request.Name)
	return nil
}

// print prints the objects of both clusters.
func (a *targetAdd) print(ctx context.Context, adder *onboard.Adder) error {
	if err := adder.Check(ctx); err != nil {
		return err
	}
	objects, err := sections(adder)
	if err != nil {
		return err
	}
	return a.registration.preview.write(a.streams.Out, managed.Created, objects...)
}
