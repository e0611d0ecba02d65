package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/onboard"
	"github.com/keyferry/keyferry/issuer"
)

// targetImport is one call of keyferry target import.
type targetImport struct {
	streams genericiooptions.IOStreams
	cluster *genericclioptions.ConfigFlags

	file         string
	contexts     []string
	registration registration
}

func newTargetImport(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	i := &targetImport{streams: streams, cluster: cluster}
	cmd := &cobra.Command{
		Use:   "import -f KUBECONFIG",
		Short: "Register the clusters of all contexts of a kubeconfig as TargetClusters",
		Long: strings.TrimSpace(`
Register the cluster of each context of a kubeconfig as a TargetCluster, as "keyferry target add" does. --context
selects contexts.

The name of a TargetCluster is the name of its context, in lower case. The command replaces characters that names cannot
contain with "-". --namespace sets the namespace of the TargetClusters. The command skips contexts of the management
cluster itself.

If a context fails, the command still registers the other contexts, and the exit code is 1. If you run the command
again, it changes only the objects that differ.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  # Register all clusters of the file as TargetClusters in the namespace fleet. Pods get the ClusterRole view
  keyferry target import -f clusters.kubeconfig -n fleet --role view

  # Register two of the clusters
  keyferry target import -f clusters.kubeconfig -n fleet --context tenant-1 --context tenant-2

  # Print the objects, to store them in Git
  keyferry target import -f clusters.kubeconfig -n fleet --dry-run=client -o yaml
`, "\n"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 || i.file == "" {
				return fmt.Errorf("set -f to a kubeconfig, without other arguments: %s -f KUBECONFIG -n fleet", cmd.CommandPath())
			}
			_, err := i.registration.requestFor(types.NamespacedName{Name: "a"})
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              failing(func(cmd *cobra.Command, _ []string) error { return i.run(cmd.Context()) }),
	}
	cmd.Flags().StringVarP(&i.file, "filename", "f", "", "kubeconfig with the targets")
	cmd.Flags().StringArrayVar(&i.contexts, "context", nil, "context of the kubeconfig to register; may be repeated (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("context", i.completeContexts) // the flag is there
	addManagementContext(cmd, cluster)
	i.registration.addTo(cmd)
	return cmd
}

// completeContexts completes those of the file.
func (i *targetImport) completeContexts(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	contexts, err := onboard.Contexts(i.file)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return matching(contexts, i.contexts, begun), cobra.ShellCompDirectiveNoFileComp
}

// imported is a context, and its TargetCluster.
type imported struct {
	context string
	target  types.NamespacedName
	// adder is nil if the context cannot be registered.
	adder *onboard.Adder
}

func (i *targetImport) run(ctx context.Context) error {
	namespace, _, err := i.cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return err
	}
	all, err := i.plan(namespace)
	if err != nil {
		return err
	}
	management, clusterID, err := managementOf(ctx, i.cluster)
	if err != nil {
		return err
	}
	failed := map[string]bool{}
	fail := func(entry *imported, err error) {
		failed[entry.context] = true
		printf(i.streams.ErrOut, "error: context %s: %v\n", entry.context, err)
	}
	var begun []*imported
	for n := range all {
		entry := &all[n]
		err := i.begin(ctx, entry, management, clusterID)
		switch {
		case errors.Is(err, errManagement):
			printf(i.streams.ErrOut, "context %s: %v: it is left out\n", entry.context, err)
		case err != nil:
			fail(entry, err)
		default:
			begun = append(begun, entry)
		}
	}
	if i.registration.preview.isDryRun() {
		err = i.print(begun)
	} else {
		i.finish(ctx, begun, fail)
	}
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("%d of %d contexts failed", len(failed), len(all))
	}
	return err
}

// plan names the TargetClusters, before anything is made.
func (i *targetImport) plan(namespace string) ([]imported, error) {
	contexts, err := onboard.Contexts(i.file)
	if err != nil {
		return nil, err
	}
	if len(contexts) == 0 {
		return nil, fmt.Errorf("kubeconfig %s has no contexts", i.file)
	}
	for _, name := range i.contexts {
		if !slices.Contains(contexts, name) {
			return nil, fmt.Errorf("kubeconfig %s has no context %q: it has %s", i.file, name, strings.Join(contexts, ", "))
		}
	}
	if len(i.contexts) > 0 {
		contexts = slices.Compact(slices.Sorted(slices.Values(i.contexts)))
	}
	plan := make([]imported, 0, len(contexts))
	taken := map[string]string{}
	for _, context := range contexts {
		name := targetName(context)
		if other, ok := taken[name]; ok {
			return nil, fmt.Errorf("the contexts %q and %q would both become TargetCluster %s/%s: rename one context (kubectl config rename-context), or register one context with keyferry target add",
				other, context, namespace, name)
		}
		taken[name] = context
		plan = append(plan, imported{context: context, target: types.NamespacedName{Namespace: namespace, Name: name}})
	}
	return plan, nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9.]+`)

// targetName is the name of a context as the name of an object.
func targetName(context string) string {
	return strings.Trim(notInNames.ReplaceAllString(strings.ToLower(context), "-"), "-.")
}

var errManagement = errors.New("it is the management cluster")

// begin makes the objects of one context; as a dry run it only checks them.
func (i *targetImport) begin(ctx context.Context, entry *imported, management client.Client, clusterID string) error {
	if _, err := parseTargetCluster(entry.target.String(), ""); err != nil {
		return fmt.Errorf("%w: register it with keyferry target add", err)
	}
	request, err := i.registration.requestFor(entry.target)
	if err != nil {
		return err
	}
	administrator, err := onboard.ReadKubeconfig(ctx, []string{i.file}, entry.context)
	if err != nil {
		return err
	}
	if entry.adder, err = newAdder(i.streams, administrator, management, clusterID, request, entry.target.Name+": "); err != nil {
		return err
	}
	if err := errors.Join(entry.adder.Complete(), i.registration.apply(entry.adder)); err != nil {
		return err
	}
	if id, err := issuer.ClusterID(ctx, entry.adder.Target); err == nil && id == clusterID {
		return errManagement
	}
	if i.registration.preview.isDryRun() {
		return entry.adder.Check(ctx)
	}
	return entry.adder.Register(ctx)
}

// finish waits for all; the timeout is for all together.
func (i *targetImport) finish(ctx context.Context, begun []*imported, fail func(*imported, error)) {
	deadline := time.Now().Add(i.registration.timeout)
	var ready []string
	for _, entry := range begun {
		entry.adder.Timeout = max(time.Until(deadline), time.Second)
		if err := entry.adder.Finish(ctx); err != nil {
			fail(entry, err)
			continue
		}
		ready = append(ready, entry.target.String())
	}
	if len(ready) > 0 {
		printf(i.streams.Out, "\nAllow a ServiceAccount to use them, and annotate its Pods:\n\n")
		for _, target := range ready {
			printf(i.streams.Out, "  keyferry grant %s NAMESPACE/SERVICEACCOUNT\n", target)
		}
	}
}

func (i *targetImport) print(begun []*imported) error {
	var all []section
	for _, entry := range begun {
		objects, err := sections(entry.adder)
		if err != nil {
			return err
		}
		for n := range objects {
			objects[n].comment = "# Context " + entry.context + "\n" + objects[n].comment
		}
		all = append(all, objects...)
	}
	return i.registration.preview.write(i.streams.Out, managed.Created, all...)
}
