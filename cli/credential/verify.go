package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer/verify"
)

// Verify asks the target who the credential belongs to, by a SelfSubjectReview, and returns the
// user name. Errors repeat nothing that the target answers but user names.
func (c Credential) Verify(ctx context.Context) (user string, err error) {
	user, err = verify.User(ctx, endpoint.Policy{AllowLinkLocal: true, AllowLocal: true}, c.Credential)
	if err != nil {
		return "", fmt.Errorf("TargetCluster %s: %s: %w: %s", c.Target, c.Endpoint.Server, err, verificationFix(err))
	}
	return user, nil
}

// verificationFix returns what to do about an error of a verification.
func verificationFix(err error) string {
	status, answered := errors.AsType[*verify.StatusError](err)
	switch {
	case errors.Is(err, verify.ErrRejected):
		return "have the target accept it (its audience, its issuer), or correct spec.access and spec.issue"
	case errors.Is(err, verify.ErrNoReview):
		return "correct spec.endpoint.server"
	case !answered:
		return "correct spec.endpoint, or try again when the target answers"
	case status.Code == http.StatusForbidden:
		return "bind ClusterRole system:basic-user to its user, or leave --verify out"
	case status.Code == http.StatusNotFound:
		return "Kubernetes has SelfSubjectReviews since 1.28: remove --verify, or correct the server"
	}
	return "see the log of its API server"
}
