package issuer

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/jwt"
)

// Reasons of an InvalidError of issue type Federation.
const (
	ReasonFederated     = "Federated"
	ReasonAudienceTaken = "AudienceTaken"
)

// LocalAudiences returns what Config.LocalAudiences of the cluster is that cfg is for: a ServiceAccount's own token has all of them. It is nil
// where cfg has no file with one, as outside of a cluster.
func LocalAudiences(cfg *rest.Config) []string {
	token, err := os.ReadFile(cfg.BearerTokenFile)
	if err != nil {
		return nil
	}
	claims, err := jwt.Read(strings.TrimSpace(string(token)))
	if err != nil {
		return nil
	}
	return claims.Audience
}

// federation completes the Resolution of a target that accepts tokens of this cluster. Nothing is issued, and nothing stands between a Pod
// and the target, so in-cluster clients must be able to express the endpoint.
func (i *Issuer) federation(cluster *v1alpha1.TargetCluster, resolution Resolution) (Resolution, error) {
	audience := cluster.Spec.Issue.Federation.Audience
	switch {
	case audience == wire.Audience:
		return resolution, &InvalidError{Reason: ReasonAudienceTaken, Message: fmt.Sprintf(
			"spec.issue.federation.audience %q is that of Keyferry's broker: the target could ask it for credentials as the Pods: choose one that nobody else accepts, such as the target's host", audience)}
	case slices.Contains(i.cfg.LocalAudiences, audience):
		return resolution, &InvalidError{Reason: ReasonAudienceTaken, Message: fmt.Sprintf(
			"spec.issue.federation.audience %q is that of this cluster's own API server: the target could act here as the Pods: choose one that nobody else accepts, such as the target's host", audience)}
	}
	if obstacle := DirectObstacle(resolution.Endpoint, false); obstacle != "" {
		return resolution, &InvalidError{Reason: ReasonDirectNotPossible, Message: "spec.issue.type Federation goes without a proxy in the Pod, and " + obstacle +
			": set an endpoint that needs none, or use another spec.issue.type"}
	}
	var err error
	resolution.Delivery, resolution.DeliveryReason, err = decideDelivery(v1alpha1.DeliveryDirect, resolution.Endpoint, false)
	return resolution, err
}

// checkFederation refuses a union without its value, and with an access credential, also where no API server has looked at it.
func checkFederation(spec v1alpha1.TargetClusterSpec) error {
	if spec.Issue.Federation == nil || spec.Issue.Federation.Audience == "" {
		return unsupported("spec.issue.type Federation without spec.issue.federation.audience", "set it")
	}
	if spec.Access.Type != v1alpha1.AccessNone {
		return unsupported(fmt.Sprintf("spec.issue.type Federation with spec.access.type %s", spec.Access.Type), "use access type None")
	}
	return nil
}

// errFederated answers who asks for a credential all the same, such as a CredentialRequest, or the sidecar of a Pod from before the
// TargetCluster was changed.
func errFederated() error {
	return &InvalidError{Reason: ReasonFederated, Message: "spec.issue.type is Federation: there is no credential to issue, " +
		"since the target accepts tokens of this cluster: recreate the Pod, so that the kubelet gives it one; whoever is no Pod needs a TargetCluster of another type"}
}
