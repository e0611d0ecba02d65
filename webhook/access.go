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

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// MayUse reports whether a ServiceAccount has the verb use on an object.
type MayUse func(ctx context.Context, serviceAccount types.NamespacedName, object use.Object) (bool, error)

// requester is a Pod that requests a cluster.
type requester struct {
	serviceAccount types.NamespacedName
	// pod is the name of the Pod. It is empty for a Pod template, and if the API server has not
	// generated the name yet.
	pod string
}

// checkUse denies a Pod whose ServiceAccount may not use an object, or for which there is a lock.
// annotation is the annotation that names the object.
//
// Callers check before they read the object: otherwise a user who may create Pods could find out
// which objects exist in other namespaces, and read their conditions. For the same reason, locks
// are checked last.
func (h *Handler) checkUse(ctx context.Context, annotation string, r requester, object use.Object) error {
	may, err := h.MayUse(ctx, r.serviceAccount, object)
	if err != nil {
		return fmt.Errorf("checking whether ServiceAccount %s may use %s: %w", r.serviceAccount, object, err)
	}
	if !may {
		return forbidden("Forbidden", "annotation %s: %s", annotation, use.Denial(r.serviceAccount, object))
	}
	access := locks.Access{ServiceAccount: r.serviceAccount, Pod: r.pod, Objects: []use.Object{object}}
	lock, err := h.FindLock(ctx, access)
	if err != nil {
		return fmt.Errorf("checking whether %s is locked: %w", access, err)
	}
	if lock != nil {
		return forbidden("Locked", "annotation %s: %s", annotation, lock.Denial())
	}
	return nil
}

// checkUseOfProfile is checkUse of the ClusterProfile that a TargetCluster names.
func (h *Handler) checkUseOfProfile(ctx context.Context, annotation string, r requester, cluster *v1alpha1.TargetCluster) error {
	if cluster.Spec.ClusterProfile == nil {
		return nil
	}
	return h.checkUse(ctx, annotation, r, use.ClusterProfile(types.NamespacedName(*cluster.Spec.ClusterProfile)))
}

// NewMayUse returns a MayUse that creates SubjectAccessReviews.
//
// It caches an allowed result for 10 seconds, long enough for the Pods of one rollout; the broker
// checks again at each issue. It does not cache a denied result, so a new RoleBinding takes effect
// at once.
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
