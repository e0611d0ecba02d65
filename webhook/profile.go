package webhook

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

// profileTarget returns the target of a Pod that names a ClusterProfile directly, without a
// TargetCluster.
func (h *Handler) profileTarget(ctx context.Context, r requester, name types.NamespacedName) (injector.Target, error) {
	const annotation = injector.AnnotationClusterProfile
	if err := h.checkUse(ctx, annotation, r, use.ClusterProfile(name)); err != nil {
		return injector.Target{}, err
	}
	profile, err := h.profile(ctx, annotation, name)
	if err != nil {
		return injector.Target{}, err
	}
	target, err := ProfileTarget(h.Providers(), profile, h.Policy)
	if err != nil {
		return injector.Target{}, invalid("NotResolved", "annotation %s: not resolved: %s: %v", annotation, clusterprofile.Reason(err), err)
	}
	return target, nil
}

// ProfileTarget resolves a ClusterProfile for the injector. An error names the ClusterProfile, the
// field and the fix; clusterprofile.Reason returns its reason.
func ProfileTarget(file *clusterprofile.ProviderFile, profile *inventory.ClusterProfile, policy endpoint.Policy) (injector.Target, error) {
	resolved, err := file.Target(profile, policy)
	if err != nil {
		return injector.Target{}, err
	}
	target := injector.Target{
		Endpoint:       resolved.Endpoint.Server,
		Delivery:       string(resolved.Delivery),
		DeliveryReason: resolved.DeliveryReason,
		Namespace:      metav1.NamespaceDefault,
	}
	if resolved.Plugin.RunIn == v1alpha1.RunInPod {
		target.Plugin = injected(resolved.Plugin)
	}
	return target, nil
}

// targetPlugin returns the plugin that runs in the Pods of a TargetCluster; nil if there is none.
func (h *Handler) targetPlugin(ctx context.Context, annotation string, tc *v1alpha1.TargetCluster) (*injector.Plugin, error) {
	if !RunsInPod(tc) {
		return nil, nil
	}
	var profile *inventory.ClusterProfile
	if ref := tc.Spec.ClusterProfile; ref != nil {
		var err error
		if profile, err = h.profile(ctx, annotation, types.NamespacedName(*ref)); err != nil {
			return nil, err
		}
	}
	plugin, err := TargetPlugin(h.Providers(), tc, profile)
	if err != nil {
		return nil, invalid("NotResolved", "annotation %s: %v", annotation, err)
	}
	return plugin, nil
}

// RunsInPod reports whether the plugin of a TargetCluster runs in its Pods.
func RunsInPod(tc *v1alpha1.TargetCluster) bool {
	return tc.Spec.Access.Exec != nil && tc.Spec.Access.Exec.RunIn == v1alpha1.RunInPod
}

// TargetPlugin returns the plugin that runs in the Pods of a TargetCluster. profile is the
// ClusterProfile that the TargetCluster names, or nil. An error names the TargetCluster, the field
// and the fix.
func TargetPlugin(file *clusterprofile.ProviderFile, tc *v1alpha1.TargetCluster, profile *inventory.ClusterProfile) (*injector.Plugin, error) {
	plugin, err := file.Named(tc.Spec.Access.Exec.Provider, RunsInPod(tc), profile)
	if err != nil {
		return nil, fmt.Errorf("TargetCluster %s/%s: %w", tc.Namespace, tc.Name, err)
	}
	return injected(plugin), nil
}

// profile reads a ClusterProfile from the API server, not from a cache: few Pods need one, and the
// Pod keeps the plugin that is configured now.
func (h *Handler) profile(ctx context.Context, annotation string, name types.NamespacedName) (*inventory.ClusterProfile, error) {
	profile := &inventory.ClusterProfile{}
	switch err := h.Live.Get(ctx, name, profile); {
	case meta.IsNoMatchError(err):
		return nil, invalid("NotFound", "annotation %s: this cluster has no ClusterProfiles (%s): install their CustomResourceDefinition", annotation, inventory.GroupVersion)
	case apierrors.IsNotFound(err):
		return nil, invalid("NotFound", "annotation %s: there is no ClusterProfile %s: create it, or correct its name (kubectl get clusterprofiles -n %s lists them)",
			annotation, name, name.Namespace)
	case err != nil:
		return nil, fmt.Errorf("reading ClusterProfile %s: %w", name, err)
	}
	return profile, nil
}

func injected(plugin clusterprofile.Plugin) *injector.Plugin {
	env := make([]corev1.EnvVar, 0, len(plugin.Env))
	for _, v := range plugin.Env {
		env = append(env, corev1.EnvVar{Name: v.Name, Value: v.Value})
	}
	return &injector.Plugin{
		Image:              plugin.Image,
		Command:            plugin.Command,
		Args:               plugin.Args,
		Env:                env,
		APIVersion:         plugin.APIVersion,
		ProvideClusterInfo: plugin.ProvideClusterInfo,
	}
}
