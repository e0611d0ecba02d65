package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/onboard"
	"github.com/keyferry/keyferry/cli/status"
)

func newTargetRotate(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	var target targetFlags
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "rotate [NAMESPACE/]NAME (--context TARGET | --kubeconfig FILE)",
		Short: "Replace the access token of a TargetCluster that \"target add\" created",
		Long: strings.TrimSpace(`
Replace the access token of a TargetCluster that "keyferry target add" created. The command creates another token in the
target, checks the token, and stores it in the Secret. After the grace period, the command revokes the old token. The
credentials of Pods stay valid.

The command uses your own permissions in both clusters, so it can also replace a token that was revoked. If the new
token does not work, the old token stays in use.
`) + "\n\n" + exitCodes,
		Example: "  keyferry target rotate fleet/tenant-1 --context tenant-1",
		Args: func(cmd *cobra.Command, args []string) error {
			return errors.Join(oneTargetCluster(cmd, args, " --context TARGET"), target.check())
		},
		ValidArgsFunction: firstArgument(completeTargetClusters(cluster)),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			name, err := namedTargetCluster(cluster, args[0])
			if err != nil {
				return err
			}
			adder, err := target.adder(cmd.Context(), streams, cluster, onboard.Request{Name: name})
			if err != nil {
				return err
			}
			return adder.Rotate(cmd.Context(), grace)
		}),
	}
	cmd.Flags().DurationVar(&grace, "grace-period", 30*time.Second, "time between the first use of the new token and the revocation of the old token")
	target.addTo(cmd, cluster)
	return cmd
}

func newTargetRemove(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	var target targetFlags
	force := false
	cmd := &cobra.Command{
		Use:   "remove [NAMESPACE/]NAME (--context TARGET | --kubeconfig FILE)",
		Short: "Remove the objects that \"target add\" created in both clusters",
		Long: strings.TrimSpace(`
Remove the objects that "keyferry target add" created. In the management cluster, the command removes the TargetCluster,
its Secret and its grants. In the target, the command removes RBAC objects, ServiceAccounts and tokens. The command does
not remove namespaces, and does not remove a ServiceAccount that you set with --service-account.

If Pods or CredentialRequests use the TargetCluster, the command lists them and removes nothing. With --force, the
command removes the objects, and the credentials of the Pods and CredentialRequests become invalid at once.

If the target does not exist any more, omit --context and --kubeconfig. The command then removes only the objects in the
management cluster.
`) + "\n\n" + exitCodes,
		Example: "  keyferry target remove fleet/tenant-1 --context tenant-1",
		Args: func(cmd *cobra.Command, args []string) error {
			return oneTargetCluster(cmd, args, " --context TARGET")
		},
		ValidArgsFunction: firstArgument(completeTargetClusters(cluster)),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			name, err := namedTargetCluster(cluster, args[0])
			if err != nil {
				return err
			}
			return target.remove(cmd.Context(), streams, cluster, name, force)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove the TargetCluster even if Pods or CredentialRequests use it")
	target.addTo(cmd, cluster)
	return cmd
}

func (t *targetFlags) remove(ctx context.Context, streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags, name types.NamespacedName, force bool) error {
	remover := &onboard.Remover{Name: name, Report: lines(streams.Out, ""), Warn: lines(streams.ErrOut, "warning: ")}
	var err error
	if t.check() == nil {
		adder, err := t.adder(ctx, streams, cluster, onboard.Request{Name: name})
		if err != nil {
			return err
		}
		remover.Management, remover.Target, remover.Owner = adder.Management, adder.Target, adder.Owner
	} else {
		var clusterID string
		if remover.Management, clusterID, err = managementOf(ctx, cluster); err != nil {
			return err
		}
		remover.Owner = ownerOf(clusterID, name)
	}
	if err := remover.Management.Get(ctx, name, &v1alpha1.TargetCluster{}); err == nil {
		report, err := status.Read(ctx, remover.Management, status.Scope{Namespace: name.Namespace, Names: []types.NamespacedName{name}})
		if err != nil {
			return err
		}
		for _, sentence := range report.Incomplete {
			remover.Warn("%s", sentence)
		}
		users := 0
		for _, target := range report.Targets {
			for _, user := range target.Users {
				users++
				remover.Report("%s %s/%s uses it, as ServiceAccount %s", user.Kind, user.Namespace, user.Name, user.ServiceAccount)
			}
		}
		if len(report.Incomplete) > 0 && !force {
			return fmt.Errorf("TargetCluster %s: you lack the permission to list its users: get this permission, or add --force", name)
		}
		if users > 0 && !force {
			return fmt.Errorf("TargetCluster %s is in use: remove these first, or add --force", name)
		}
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading TargetCluster %s: %w", name, err)
	}
	return remover.Remove(ctx)
}
