package webhook

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// MayUse reports whether a ServiceAccount has the verb use on an object.
type MayUse func(ctx context.Context, serviceAccount types.NamespacedName, object use.Object) (bool, error)

// requester is a Pod that requests a cluster.
type requester struct {
	serviceAccount types.NamespacedName
	// pod is its name; empty if the API server has not generated it yet, and for a Pod template.
	pod string
}

// checkUse denies a Pod whose ServiceAccount may not use an object, or that a lock denies it.
// annotation is the one that led to the object.
//
// It comes before the object is read: otherwise users who may create a Pod could find out by trial
// which objects there are in other namespaces, and read their conditions. For the same reason locks
// come last.
func (h *Handler) checkUse(ctx context.Context, annotation string, r requester, object use.Object) error {
	may, err := h.MayUse(ctx, r.serviceAccount, object)
	if err != nil {
		return fmt.Errorf("asking whether ServiceAccount %s may use %s: %w", r.serviceAccount, object, err)
	}
	if !may {
		return forbidden("Forbidden", "annotation %s: %s", annotation, use.Denial(r.serviceAccount, object))
	}
	access := locks.Access{ServiceAccount: r.serviceAccount, Pod: r.pod, Objects: []use.Object{object}}
	lock, err := h.FindLock(ctx, access)
	if err != nil {
		return fmt.Errorf("asking whether %s is locked: %w", access, err)
	}
	if lock != nil {
		return forbidden("Locked", "annotation %s: %s", annotation, lock.Denial(access))
	}
	return nil
}

// NewMayUse returns the MayUse that asks the API server.
//
// A yes is kept for 10 seconds, long enough for the Pods of one rollout; the broker asks again at
// each issue anyway. A no is not kept, so that a new RoleBinding acts at once.
func NewMayUse(reviews authorizationclient.AuthorizationV1Interface) (MayUse, error) {
	delegate, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: reviews,
		AllowCacheTTL:             10 * time.Second,
		WebhookRetryBackoff:       &wait.Backoff{Steps: 3, Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2},
	}.New()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, account types.NamespacedName, object use.Object) (bool, error) {
		decision, _, err := delegate.Authorize(ctx, use.Attributes(account, "", object))
		return err == nil && decision == authorizer.DecisionAllow, err
	}, nil
}
