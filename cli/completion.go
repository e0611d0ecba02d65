package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/metadata"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/internal/use"
)

const (
	// A shell that waits for completions is dead to its user.
	completionTimeout = 3 * time.Second
	// More names than that help nobody.
	mostCompletions = 500
)

// completeClusterFlags completes kubectl's flags.
func completeClusterFlags(root *cobra.Command, cluster *genericclioptions.ConfigFlags) {
	for flag, complete := range map[string]cobra.CompletionFunc{
		"namespace": completeObjects(cluster, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "", nameOnly),
		"context":   completeContexts(cluster),
		"cluster":   completeKubeconfig(cluster, func(c clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(c.Clusters)) }),
		"user":      completeKubeconfig(cluster, func(c clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(c.AuthInfos)) }),
	} {
		_ = root.RegisterFlagCompletionFunc(flag, complete) // the flags are there
	}
}

// completePods completes the name of a Pod of the namespace that flags and kubeconfig name.
func completePods(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completeObjects(cluster, schema.GroupVersionResource{Version: "v1", Resource: "pods"}, namespace, nameOnly)(cmd, args, begun)
	}
}

// completeTargetClusters completes NAMESPACE/NAME.
func completeTargetClusters(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	return completeObjects(cluster, use.TargetCluster(types.NamespacedName{}).Resource, metav1.NamespaceAll, fullName)
}

// completeClusterProfiles completes NAMESPACE/NAME.
func completeClusterProfiles(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	return completeObjects(cluster, use.ClusterProfile(types.NamespacedName{}).Resource, metav1.NamespaceAll, fullName)
}

// completeServiceAccounts completes NAMESPACE/NAME.
func completeServiceAccounts(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	return completeObjects(cluster, schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}, metav1.NamespaceAll, fullName)
}

func fullName(o *metav1.PartialObjectMetadata) string { return o.Namespace + "/" + o.Name }

func nameOnly(o *metav1.PartialObjectMetadata) string { return o.Name }

// firstArgument completes one argument, and no further ones.
func firstArgument(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, begun)
	}
}

// completeObjects completes what of says of objects. Where they cannot be read there is nothing to
// offer.
func completeObjects(cluster *genericclioptions.ConfigFlags, resource schema.GroupVersionResource, namespace string, of func(*metav1.PartialObjectMetadata) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		cfg, err := cluster.ToRESTConfig()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := metadata.NewForConfig(cfg)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := client.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{Limit: mostCompletions})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]string, len(list.Items))
		for i := range list.Items {
			names[i] = of(&list.Items[i])
		}
		return matching(names, args, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeContexts completes the contexts of the kubeconfig.
func completeContexts(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	return completeKubeconfig(cluster, func(c clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(c.Contexts)) })
}

// completeKubeconfig completes names of the kubeconfig.
func completeKubeconfig(cluster *genericclioptions.ConfigFlags, names func(clientcmdapi.Config) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		config, err := cluster.ToRawKubeConfigLoader().RawConfig()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return matching(names(config), nil, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// matching are the names that begin so, and are not given yet.
func matching(names, given []string, begun string) []cobra.Completion {
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, begun) || slices.Contains(given, name) })
}
