package resolve

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/providers"
)

// ErrSubjectToken says that the provider exchanges a token of the client, and the request has
// none, or one of another audience.
var ErrSubjectToken = errors.New("the provider exchanges a token of the Pod")

// Subjected returns what the provider is asked: with the subject token if it exchanges one, and
// then only with one of the right audience. A provider would say less of what is wrong, and what it
// says would count for all Pods of the ServiceAccount.
func (r Resolution) Subjected(req providers.Request) (providers.Request, error) {
	switch {
	case r.SubjectAudience == "":
		req.SubjectToken = ""
		return req, nil
	case req.SubjectToken != "":
		claims, err := jwt.Read(req.SubjectToken)
		if err == nil && slices.Contains(claims.Audience, r.SubjectAudience) {
			return req, nil
		}
		return req, fmt.Errorf("%w for the audience %q, but the Pod's token is for %q: recreate the Pod to get a token with this audience",
			ErrSubjectToken, r.SubjectAudience, claims.Audience)
	case req.Identity.PodName == "":
		return req, fmt.Errorf("%w for the audience %q, but the request does not come from a Pod: use the TargetCluster in a Pod, or set another identity in spec.access",
			ErrSubjectToken, r.SubjectAudience)
	}
	return req, fmt.Errorf("%w for the audience %q, but the Pod sent no such token: recreate the Pod to get a token with this audience",
		ErrSubjectToken, r.SubjectAudience)
}
