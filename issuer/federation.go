package issuer

import (
	"os"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// LocalAudiences returns what Config.LocalAudiences of the cluster is that cfg is for: a
// ServiceAccount's own token has all of them. It is nil where cfg has no file with one, as outside
// of a cluster.
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

// errFederated answers who asks for a credential all the same, such as a CredentialRequest, or the
// sidecar of a Pod from before the TargetCluster was changed.
func errFederated() error {
	return &resolve.InvalidError{Reason: resolve.ReasonFederated, Message: "spec.issue.type is Federation: there is no credential to issue, " +
		"because the target accepts tokens of this cluster: recreate the Pod to get such a token; outside of Pods, use a TargetCluster with another issue type"}
}
