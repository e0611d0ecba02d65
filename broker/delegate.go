package broker

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// reviewTimeout limits one call of the API server. A request has time for two calls and an issue.
const reviewTimeout = 5 * time.Second

// ReviewTTLs are the times for which the API server's responses are cached. Longer times reduce the
// load on the API server, and delay the effect of a revocation.
type ReviewTTLs struct {
	// ValidToken and InvalidToken are for TokenReviews. Zero disables caching.
	ValidToken, InvalidToken time.Duration
	// Allowed and Denied are for SubjectAccessReviews.
	Allowed, Denied time.Duration
}

// DefaultReviewTTLs returns the documented defaults. Negative responses are cached only briefly, to
// limit the load of a client that retries in a loop: the missing permission may be added at any
// moment.
func DefaultReviewTTLs() ReviewTTLs {
	return ReviewTTLs{
		ValidToken:   3 * time.Minute,
		InvalidToken: 2 * time.Second,
		Allowed:      time.Minute,
		Denied:       2 * time.Second,
	}
}

// Delegate returns an authenticator and an authorizer that use TokenReviews and
// SubjectAccessReviews of this cluster's API server. Their errors mean that the API server did not
// respond.
func Delegate(cfg *rest.Config, ttls ReviewTTLs) (authenticator.Token, authorizer.UnconditionalAuthorizer, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = reviewTimeout
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("building the client for reviews: %w", err)
	}
	backoff := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 2}

	// authenticatorfactory would cache negative responses as long as positive ones, and so delay a Pod
	// whose token was checked too early. Without implicit audiences, a token is valid only if the API
	// server itself returns the audience.
	tokens, err := webhook.NewFromInterface(clients.AuthenticationV1(), nil, backoff, reviewTimeout, webhook.AuthenticatorMetrics{
		RecordRequestTotal:   func(context.Context, string) {},
		RecordRequestLatency: func(context.Context, string, float64) {},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("building the authenticator: %w", err)
	}
	access, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: clients.AuthorizationV1(),
		AllowCacheTTL:             ttls.Allowed,
		DenyCacheTTL:              ttls.Denied,
		WebhookRetryBackoff:       &backoff,
	}.New()
	if err != nil {
		return nil, nil, fmt.Errorf("building the authorizer: %w", err)
	}
	return cache.New(tokens, false, ttls.ValidToken, ttls.InvalidToken), access, nil
}
