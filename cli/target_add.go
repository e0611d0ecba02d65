package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/onboard"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers/kubeconfig"
)

// targetAdd is one call of keyferry target add.
type targetAdd struct {
	streams genericiooptions.IOStreams
	cluster *genericclioptions.ConfigFlags

	target       targetFlags
	registration registration
	endpoint     string
	credentials  string
}

func newTargetAdd(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	a := &targetAdd{streams: streams, cluster: cluster}
	cmd := &cobra.Command{
		Use:   "add [NAMESPACE/]NAME (--context TARGET | --kubeconfig FILE)",
		Short: "Register a cluster of a kubeconfig as a TargetCluster",
		Long: strings.TrimSpace(`
Register a cluster as a TargetCluster, and wait until it is ready.

In the target, the command creates a ServiceAccount for Keyferry. This ServiceAccount may only request tokens for the
ServiceAccount that Pods act as, and read the namespace kube-system. With --create, Keyferry's ServiceAccount may also
read and create ServiceAccounts. In the management cluster, the command creates a Secret with a kubeconfig for
Keyferry's ServiceAccount, and the TargetCluster. The command does not store your own credential. All objects have the
label app.kubernetes.io/managed-by: keyferry. If an object with the same name lacks the label, the command fails before
it creates anything.

--context and --kubeconfig select the target. The current context of your kubeconfig, or --management-context, selects
the management cluster.

If you run the command again, it changes only the objects that differ. If the command cannot create all objects, it
removes the created objects, except namespaces.

The token in the Secret does not expire. If the token expired during a long outage, Keyferry would lose its access to
the target. Pods never receive this token. The tokens that Pods receive are valid for an hour.

The kubeconfig must contain a token or a client certificate. The command runs no program and reads no other file. If the
kubeconfig runs a cloud's program (aws, aws-iam-authenticator, gke-gcloud-auth-plugin, kubelogin, ncp-iam-authenticator,
or curl for CB-Spider or CB-Tumblebug), the command sets the access type of this cloud. Keyferry then requests the
credential itself, without the program. For such a kubeconfig, the command creates nothing in the target. Set
--service-account or --mirror to existing ServiceAccounts, and --credentials to the name of a Secret with the cloud's
key. CB-Spider and CB-Tumblebug may need no Secret.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  # Pods may read the target
  keyferry target add fleet/tenant-1 --context tenant-1 --role view

  # Pods act as the ServiceAccount robots/robot of the target
  keyferry target add fleet/tenant-1 --context tenant-1 --service-account robots/robot

  # Pods of the namespaces app and shop act as ServiceAccounts of the target. Each of these ServiceAccounts has the
  # namespace and name of the Pod's ServiceAccount
  keyferry target add fleet/tenant-1 --context tenant-1 --mirror app,shop

  # A kind cluster: Pods need another address than your machine
  keyferry target add fleet/tenant-1 --context kind-target --endpoint https://target-control-plane:6443

  # A cluster of EKS, whose kubeconfig runs the program aws. The Secret has an access key
  keyferry target add fleet/tenant-1 --context eks --service-account robots/robot --credentials aws-key

  # Print the objects of both clusters, to store them in Git
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
	cmd.Flags().StringVar(&a.endpoint, "endpoint", "", "URL at which Pods connect to the target's API server (default: the kubeconfig's server)")
	cmd.Flags().StringVar(&a.credentials, "credentials", "", "name of the Secret with a cloud's key, in the TargetCluster's namespace; required if the kubeconfig runs a cloud's program, except for CB-Spider and CB-Tumblebug")
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
	if program, ok := errors.AsType[*kubeconfig.ExecError](err); ok && program.AccessType != "" {
		return a.runAccess(ctx, request, program, err)
	}
	if err != nil {
		return err
	}
	if a.credentials != "" {
		return errors.New("--credentials is for a kubeconfig that runs a cloud's program, but this kubeconfig contains a credential: remove the flag")
	}
	if err := errors.Join(adder.Complete(), a.registration.apply(adder)); err != nil {
		return err
	}
	a.replaceServer(adder)
	if a.registration.preview.isDryRun() {
		return a.print(ctx, adder)
	}
	if err := adder.Register(ctx); err != nil {
		return err
	}
	if err := adder.Finish(ctx); err != nil {
		return err
	}
	a.printNext(request)
	return nil
}

func (a *targetAdd) printNext(request onboard.Request) {
	printf(a.streams.Out, "\nAllow a ServiceAccount to use it, and annotate its Pods:\n\n  keyferry grant %[1]s NAMESPACE/SERVICEACCOUNT\n\n  keyferry.dev/cluster: %[1]s\n", request.Name)
}

// replaceServer sets the address of --endpoint. How you connect from your machine does not matter
// to Pods.
func (a *targetAdd) replaceServer(adder *onboard.Adder) {
	if a.endpoint != "" {
		adder.Endpoint.Server, adder.Endpoint.TLSServerName, adder.Endpoint.ProxyURL = a.endpoint, "", ""
	}
}

// runAccess registers a target whose kubeconfig names the program of a cloud, with the access type
// that needs no program. refused is the error about the program.
func (a *targetAdd) runAccess(ctx context.Context, request onboard.Request, program *kubeconfig.ExecError, refused error) error {
	if request.Account.Name == "" && len(request.Mirror) == 0 {
		return fmt.Errorf("%w: the command runs no program, so it creates nothing in the target: set --service-account or --mirror, "+
			"and --credentials to the name of the Secret with the cloud's key (docs/providers/%s.md)", refused, strings.ToLower(program.AccessType))
	}
	if request.Role != "" {
		return fmt.Errorf("%w: the command runs no program, so it cannot bind a role in the target: remove --role, and bind the role yourself", refused)
	}
	access, err := onboard.AccessOf(program, program.Endpoint.Server, a.credentials)
	if err != nil {
		return fmt.Errorf("%w: %w", refused, err)
	}
	request.Access = &access
	adder := &onboard.Adder{
		Request: request, Endpoint: program.Endpoint, Credentials: a.credentials,
		Report: lines(a.streams.Out, ""), Warn: lines(a.streams.ErrOut, "warning: "),
	}
	if err := errors.Join(adder.Complete(), a.registration.apply(adder)); err != nil {
		return err
	}
	a.replaceServer(adder)
	if a.registration.preview.isDryRun() {
		if err := adder.CheckAccess(); err != nil {
			return err
		}
		return a.registration.preview.write(a.streams.Out, managed.Created, section{objects: []client.Object{adder.PreviewAccess()}})
	}
	if adder.Management, _, err = managementOf(ctx, a.cluster); err != nil {
		return err
	}
	if err := adder.RegisterAccess(ctx); err != nil {
		return err
	}
	adder.Warn("the command created nothing in the target: in the target, allow the key's user to request tokens for the Pods' ServiceAccount (docs/providers/%s.md)",
		strings.ToLower(program.AccessType))
	if err := adder.AwaitAccess(ctx); err != nil {
		return err
	}
	a.printNext(request)
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
