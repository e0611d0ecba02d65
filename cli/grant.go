package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/targetinfo"
	"github.com/keyferry/keyferry/internal/use"
)

const (
	// API servers need a moment to apply changed RBAC.
	effectInterval = 200 * time.Millisecond
	effectTimeout  = 5 * time.Second
)

func newGrant(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	return newGrantCommand(streams, cluster, grants{
		verb:  "grant",
		short: "Allow ServiceAccounts to use a TargetCluster",
		long: `
Allow ServiceAccounts to use one TargetCluster. Pods of these ServiceAccounts may then have the annotation
keyferry.dev/cluster with this TargetCluster. With --cluster-profile, allow ServiceAccounts to use a ClusterProfile.

In the TargetCluster's namespace, the command creates a Role with the verb use on this TargetCluster only, and a
RoleBinding for each ServiceAccount. The command waits until the permission takes effect. If you run the command again,
it changes nothing.

The objects have the label app.kubernetes.io/managed-by: keyferry. If an object with the same name lacks the label, the
command fails and does not change the object.

You need permission to create Roles and RoleBindings in the TargetCluster's namespace, and the verb use on the
TargetCluster. The ClusterRoles admin and keyferry-targetcluster-owner together contain these permissions. For
ClusterProfiles, the ClusterRoles admin and keyferry-clusterprofile-user contain the permissions.`,
		example: `
  # Pods of the ServiceAccount web in the namespace app may use fleet/tenant-1
  keyferry grant fleet/tenant-1 app/web

  # Pods of the ServiceAccount web may use the ClusterProfile inventory/tenant-9
  keyferry grant --cluster-profile inventory/tenant-9 app/web

  # Print the objects, to store them in Git
  keyferry grant fleet/tenant-1 app/web app/worker --dry-run=client -o yaml`,
		run: (*grants).grant,
	})
}

func newRevoke(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	return newGrantCommand(streams, cluster, grants{
		verb:  "revoke",
		short: "Revoke the permission that grant gave",
		long: `
Delete the RBAC objects that "keyferry grant" created for these ServiceAccounts. Within a minute, Keyferry stops issuing
credentials to the ServiceAccounts. Issued credentials stay valid until they expire (1 hour by default).

With --cluster-profile, the object is a ClusterProfile. If another RoleBinding or ClusterRoleBinding still allows a
ServiceAccount to use the object, the command fails and does not delete the other binding.`,
		example: `
  keyferry revoke fleet/tenant-1 app/web`,
		run: (*grants).revoke,
	})
}

// grants is one of the commands grant and revoke, and then one call of it.
type grants struct {
	verb, short, long, example string
	run                        func(*grants, context.Context) error

	streams        genericiooptions.IOStreams
	preview        preview
	clusterProfile bool
	target         use.Object
	accounts       []types.NamespacedName
	client         client.Client
}

func newGrantCommand(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags, g grants) *cobra.Command {
	g.streams = streams
	cmd := &cobra.Command{
		Use:     g.verb + " [NAMESPACE/]TARGETCLUSTER [NAMESPACE/]SERVICEACCOUNT...",
		Short:   g.short,
		Long:    strings.TrimSpace(g.long) + "\n\n" + exitCodes,
		Example: strings.Trim(g.example, "\n"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("the command needs a TargetCluster and at least one ServiceAccount: %s fleet/tenant-1 app/web", cmd.CommandPath())
			}
			return errors.Join(g.parse(args, ""), g.preview.check())
		},
		ValidArgsFunction: g.completeArguments(cluster),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			if err := g.parse(args, namespace); err != nil {
				return err
			}
			if !g.preview.isDryRun() {
				if _, g.client, err = connect(cluster); err != nil {
					return err
				}
			}
			return g.run(&g, cmd.Context())
		}),
	}
	g.preview.addTo(cmd)
	cmd.Flags().BoolVar(&g.clusterProfile, "cluster-profile", false, "the first argument is a ClusterProfile, not a TargetCluster")
	return cmd
}

// parse reads the arguments; namespace is that of names that have none.
func (g *grants) parse(args []string, namespace string) error {
	kind, object := "TargetCluster", use.TargetCluster
	if g.clusterProfile {
		kind, object = "ClusterProfile", use.ClusterProfile
	}
	name, err := parseName(kind, args[0], namespace)
	if err != nil {
		return err
	}
	g.target = object(name)
	g.accounts = nil
	for _, arg := range args[1:] {
		account, err := parseName("ServiceAccount", arg, namespace)
		if err != nil {
			return err
		}
		g.accounts = append(g.accounts, account)
	}
	return nil
}

// objects are the Role and the RoleBindings.
func (g *grants) objects() []client.Object {
	objects := []client.Object{use.Role(g.target)}
	for _, account := range g.accounts {
		objects = append(objects, use.Binding(account, g.target))
	}
	return objects
}

func (g *grants) grant(ctx context.Context) error {
	if g.preview.isDryRun() {
		return g.preview.write(g.streams.Out, managed.Created, section{objects: g.objects()})
	}
	if err := g.checkTarget(ctx); err != nil {
		return err
	}
	for _, object := range g.objects() {
		outcome, err := managed.Apply(ctx, g.client, object)
		if err != nil {
			return g.explain(err)
		}
		printf(g.streams.Out, "%s %s\n", managed.Name(object), outcome)
	}
	for _, account := range g.accounts {
		g.warnIfAbsent(ctx, account)
		if may, err := g.await(ctx, account, true); err != nil {
			return err
		} else if !may {
			return fmt.Errorf("ServiceAccount %s still may not use %s: another authorizer of the API server denies the access", account, g.target)
		}
	}
	return nil
}

// checkTarget fails for an object that does not exist, and warns about a right that the
// ServiceAccounts need besides.
func (g *grants) checkTarget(ctx context.Context) error {
	tc := &v1alpha1.TargetCluster{}
	var object client.Object = tc
	if g.clusterProfile {
		profile := &metav1.PartialObjectMetadata{}
		profile.SetGroupVersionKind(g.target.Resource.GroupVersion().WithKind(g.target.Kind))
		object = profile
	}
	switch err := g.client.Get(ctx, g.target.NamespacedName, object); {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no %s: create it first, or correct the name (kubectl get %s -n %s)", g.target, g.target.Resource.GroupResource(), g.target.Namespace)
	case meta.IsNoMatchError(err) && g.clusterProfile:
		return fmt.Errorf("this cluster has no ClusterProfiles: install the CustomResourceDefinition %s", g.target.Resource.GroupResource())
	case meta.IsNoMatchError(err):
		return targetinfo.ErrNoTargetClusters
	case apierrors.IsForbidden(err):
		return nil // the RBAC objects are valid in any case
	case err != nil:
		return fmt.Errorf("reading %s: %w", g.target, err)
	}
	for _, further := range use.Of(tc)[1:] {
		for _, account := range g.accounts {
			printf(g.streams.ErrOut, "warning: %s names %s, on which ServiceAccount %s needs the verb use, too: %s\n",
				g.target, further, account, use.GrantCommand(account, further))
		}
	}
	return nil
}

// warnIfAbsent finds misspelt ServiceAccounts. Granting before a ServiceAccount exists is allowed.
func (g *grants) warnIfAbsent(ctx context.Context, account types.NamespacedName) {
	if err := g.client.Get(ctx, account, &corev1.ServiceAccount{}); apierrors.IsNotFound(err) {
		printf(g.streams.ErrOut, "warning: ServiceAccount %s does not exist yet\n", account)
	}
}

// explain adds to the API server's refusal of a grant which right you lack.
func (g *grants) explain(err error) error {
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not currently held") {
		return err
	}
	role := "keyferry-targetcluster-owner"
	if g.clusterProfile {
		role = "keyferry-clusterprofile-user"
	}
	return fmt.Errorf("you can grant only permissions that you have, and you do not have the verb use on %s: "+
		"ask an administrator to bind the ClusterRole %s to you in namespace %s: %w", g.target, role, g.target.Namespace, err)
}

func (g *grants) revoke(ctx context.Context) error {
	if g.preview.isDryRun() {
		return g.preview.write(g.streams.Out, managed.Deleted, section{objects: g.objects()[1:]})
	}
	for _, account := range g.accounts {
		object := use.Binding(account, g.target)
		outcome, err := managed.Delete(ctx, g.client, object)
		if err != nil {
			return err
		}
		printf(g.streams.Out, "%s %s\n", managed.Name(object), outcome)
	}
	if err := g.deleteUnusedRole(ctx); err != nil {
		return err
	}
	var problems []error
	for _, account := range g.accounts {
		may, err := g.await(ctx, account, false)
		if err == nil && may {
			err = fmt.Errorf("ServiceAccount %s may still use %s, because of a RoleBinding or ClusterRoleBinding that keyferry grant did not create. "+
				"To find the binding: kubectl get rolebindings,clusterrolebindings -n %s -o wide", account, g.target, g.target.Namespace)
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// deleteUnusedRole deletes the Role once no RoleBinding names it.
func (g *grants) deleteUnusedRole(ctx context.Context) error {
	role := use.Role(g.target)
	bindings := &rbacv1.RoleBindingList{}
	if err := g.client.List(ctx, bindings, client.InNamespace(g.target.Namespace)); err != nil {
		return fmt.Errorf("reading RoleBindings in namespace %s: %w", g.target.Namespace, err)
	}
	for i := range bindings.Items {
		if ref := bindings.Items[i].RoleRef; ref.Kind == "Role" && ref.Name == role.Name {
			return nil
		}
	}
	outcome, err := managed.Delete(ctx, g.client, role)
	if outcome == managed.Deleted {
		printf(g.streams.Out, "%s %s\n", managed.Name(role), outcome)
	}
	return err
}

// await waits until the API server answers as wanted to whether the ServiceAccount may use the
// target, and returns its last answer. Users who may not ask get the wanted one.
func (g *grants) await(ctx context.Context, account types.NamespacedName, wanted bool) (may bool, err error) {
	err = wait.PollUntilContextTimeout(ctx, effectInterval, effectTimeout, true, func(context.Context) (bool, error) {
		review := &authorizationv1.LocalSubjectAccessReview{Spec: use.Review(account, "", g.target)}
		review.Namespace = g.target.Namespace
		switch err := g.client.Create(ctx, review); {
		case apierrors.IsForbidden(err):
			may = wanted
		case err != nil:
			return false, fmt.Errorf("checking whether ServiceAccount %s may use %s: %w", account, g.target, err)
		default:
			may = review.Status.Allowed
		}
		return may == wanted, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return may, nil
	}
	return may, err
}

// completeArguments completes the object, and then ServiceAccounts.
func (g *grants) completeArguments(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	targets, profiles, accounts := completeTargetClusters(cluster), completeClusterProfiles(cluster), completeServiceAccounts(cluster)
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch {
		case len(args) > 0:
			return accounts(cmd, args[1:], begun)
		case g.clusterProfile:
			return profiles(cmd, args, begun)
		}
		return targets(cmd, args, begun)
	}
}

// printf prints progress. What cannot be printed does not change what is done.
func printf(out io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(out, format, args...)
}
