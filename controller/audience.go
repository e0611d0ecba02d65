package controller

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer/resolve"
)

func federated(cluster *v1alpha1.TargetCluster) bool {
	return cluster.Spec.Issue.Type == v1alpha1.IssueFederation
}

// checkAudience has a federated target not resolve if another one, at another endpoint, has its
// audience: each of the two could act at the other with the tokens that Pods show it.
func (t *TargetClusters) checkAudience(ctx context.Context, cluster *v1alpha1.TargetCluster, seen observation) (observation, error) {
	if !federated(cluster) || seen.resolved.status != metav1.ConditionTrue {
		return seen, nil
	}
	var all v1alpha1.TargetClusterList
	if err := t.cfg.Client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return seen, fmt.Errorf("listing TargetClusters for their audiences: %w", err)
	}
	if isExchanged(cluster.Spec.Issue.Federation.Audience, all.Items) {
		return notResolved(&resolve.InvalidError{Reason: resolve.ReasonAudienceTaken, Message: fmt.Sprintf(
			"spec.issue.federation.audience %q is also the audience of another TargetCluster's provider, where the target could act as the Pods: "+
				"choose another audience, and configure the target to accept it", cluster.Spec.Issue.Federation.Audience)}), nil
	}
	holder := audienceHolder(cluster, seen.endpoint, all.Items)
	if holder == nil {
		return seen, nil
	}
	other := "a TargetCluster of another namespace" // whose name is for users of that namespace only
	if holder.Namespace == cluster.Namespace {
		other = "TargetCluster " + client.ObjectKeyFromObject(holder).String()
	}
	return notResolved(&resolve.InvalidError{Reason: resolve.ReasonAudienceTaken, Message: fmt.Sprintf(
		"spec.issue.federation.audience: %q is the audience of %s, which has another endpoint: each target could use the Pods' tokens at the other target: "+
			"choose another audience, and configure the target to accept it", cluster.Spec.Issue.Federation.Audience, other)}), nil
}

// isExchanged reports whether the provider of a TargetCluster exchanges tokens with the audience.
func isExchanged(audience string, all []v1alpha1.TargetCluster) bool {
	audience = resolve.CanonicalAudience(audience)
	return slices.ContainsFunc(all, func(other v1alpha1.TargetCluster) bool {
		return resolve.CanonicalAudience(other.Status.SubjectTokenAudience) == audience
	})
}

// audienceHolder returns the TargetCluster that the audience of cluster belongs to; nil if that is
// cluster. It belongs to the one that resolves as it is now, so that nobody loses it to a newcomer,
// or else to the oldest.
func audienceHolder(cluster *v1alpha1.TargetCluster, endpoint string, all []v1alpha1.TargetCluster) *v1alpha1.TargetCluster {
	audience := resolve.CanonicalAudience(cluster.Spec.Issue.Federation.Audience)
	for i := range all {
		other := &all[i]
		if other.UID == cluster.UID || !federated(other) || resolve.CanonicalAudience(other.Spec.Issue.Federation.Audience) != audience {
			continue
		}
		if serverOf(other) != endpoint && precedes(other, cluster) {
			return other
		}
	}
	return nil
}

func precedes(a, b *v1alpha1.TargetCluster) bool {
	if x, y := resolves(a), resolves(b); x != y {
		return x
	}
	if x, y := a.CreationTimestamp, b.CreationTimestamp; !x.Equal(&y) {
		return x.Before(&y)
	}
	return a.UID < b.UID
}

func resolves(cluster *v1alpha1.TargetCluster) bool {
	return cluster.Status.ObservedGeneration == cluster.Generation && meta.IsStatusConditionTrue(cluster.Status.Conditions, v1alpha1.ConditionResolved)
}

// serverOf returns the server of a target as its status will have it, empty if that is not known.
func serverOf(cluster *v1alpha1.TargetCluster) string {
	if cluster.Spec.Endpoint == nil || cluster.Spec.Endpoint.Server == "" {
		return cluster.Status.Endpoint
	}
	server, err := endpoint.Parse(cluster.Spec.Endpoint.Server)
	if err != nil {
		return ""
	}
	return server.String()
}
