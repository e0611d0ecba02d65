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

// reviewTimeout bounds one call of the API server; two of them and an issue fit into a request.
const reviewTimeout = 5 * time.Second

// ReviewTTLs say how long the API server's answers are believed. They are the latency with which a
// withdrawal takes effect, and what a Pod that asks every minute costs the API server.
type ReviewTTLs struct {
	// ValidToken and InvalidToken are for TokenReviews. Zero is not to cache.
	ValidToken, InvalidToken time.Duration
	// Allowed and Denied are for SubjectAccessReviews.
	Allowed, Denied time.Duration
}

// DefaultReviewTTLs are those that the documentation states. A refusal is believed only long enough
// to keep a client that asks in a loop from passing the load on: what was missing may be there a
// moment later.
func DefaultReviewTTLs() ReviewTTLs {
	return ReviewTTLs{
		ValidToken:   3 * time.Minute,
		InvalidToken: 2 * time.Second,
		Allowed:      time.Minute,
		Denied:       2 * time.Second,
	}
}

// Delegate returns an authenticator and an authorizer that ask this cluster's API server, by
// TokenReview and SubjectAccessReview. Their errors mean that it did not answer.
func Delegate(cfg *rest.Config, ttls ReviewTTLs) (authenticator.Token, authorizer.UnconditionalAuthorizer, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = reviewTimeout
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("building the client for reviews: %w", err)
	}
	backoff := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 2}

	// Not authenticatorfactory: that caches refusals as long as successes, and would keep a Pod
	// waiting whose token was seen too early. Without implicit audiences, a token counts only if the
	// API server itself names the audience.
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
