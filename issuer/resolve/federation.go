package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
)

// federation completes the Resolution of a target that accepts tokens of this cluster. Nothing is
// issued, and nothing stands between a Pod and the target, so in-cluster clients must be able to
// express the endpoint.
func (r *Resolver) federation(cluster *v1alpha1.TargetCluster, resolution Resolution) (Resolution, error) {
	if err := r.checkAudience(cluster.Spec.Issue.Federation.Audience); err != nil {
		return resolution, err
	}
	if obstacle := endpoint.Obstacle(resolution.Endpoint, false); obstacle != "" {
		return resolution, &InvalidError{Reason: ReasonDirectNotPossible, Message: "spec.issue.type Federation has no proxy in the Pod, but " + obstacle +
			": set an endpoint that needs none, or use another spec.issue.type"}
	}
	if resolution.Endpoint.SystemRoots { // the ConfigMap of a namespace is too small for the system's roots of several targets
		return resolution, &InvalidError{Reason: ReasonNotSupported, Message: "spec.issue.type Federation does not support wellKnownCACertificates: " +
			"set spec.endpoint.certificateAuthorityData to the CA that has issued the server's certificate"}
	}
	if err := checkAuthority(resolution.Endpoint); err != nil {
		return resolution, err
	}
	var err error
	resolution.Delivery, resolution.DeliveryReason, err = deliver(v1alpha1.DeliveryDirect, resolution.Endpoint, false)
	return resolution, err
}
