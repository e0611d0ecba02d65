package resolve

import (
	"fmt"
	"slices"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint"
)

// federation completes the Resolution of a target that accepts tokens of this cluster. Nothing is issued, and nothing stands between a Pod
// and the target, so in-cluster clients must be able to express the endpoint.
func (r *Resolver) federation(cluster *v1alpha1.TargetCluster, resolution Resolution) (Resolution, error) {
	audience := cluster.Spec.Issue.Federation.Audience
	switch {
	case audience == wire.Audience:
		return resolution, &InvalidError{Reason: ReasonAudienceTaken, Message: fmt.Sprintf(
			"spec.issue.federation.audience %q is that of Keyferry's broker: the target could ask it for credentials as the Pods: choose one that nobody else accepts, such as the target's host", audience)}
	case slices.Contains(r.cfg.LocalAudiences, audience):
		return resolution, &InvalidError{Reason: ReasonAudienceTaken, Message: fmt.Sprintf(
			"spec.issue.federation.audience %q is that of this cluster's own API server: the target could act here as the Pods: choose one that nobody else accepts, such as the target's host", audience)}
	}
	if obstacle := endpoint.Obstacle(resolution.Endpoint, false); obstacle != "" {
		return resolution, &InvalidError{Reason: ReasonDirectNotPossible, Message: "spec.issue.type Federation goes without a proxy in the Pod, and " + obstacle +
			": set an endpoint that needs none, or use another spec.issue.type"}
	}
	if err := checkAuthority(resolution.Endpoint); err != nil {
		return resolution, err
	}
	var err error
	resolution.Delivery, resolution.DeliveryReason, err = deliver(v1alpha1.DeliveryDirect, resolution.Endpoint, false)
	return resolution, err
}
