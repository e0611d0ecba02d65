package webhook

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// verbUse is the right to have credentials of a TargetCluster.
const verbUse = "use"

// NewMayUse returns the function that asks the API server whether a ServiceAccount may use a TargetCluster.
//
// A yes is kept for 10 seconds, long enough for the Pods of one rollout; the broker asks again at each issue anyway. A no is
// not kept, so that a new RoleBinding acts at once.
func NewMayUse(reviews authorizationclient.AuthorizationV1Interface) (func(ctx context.Context, serviceAccount, target types.NamespacedName) (bool, error), error) {
	delegate, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: reviews,
		AllowCacheTTL:             10 * time.Second,
		WebhookRetryBackoff:       &wait.Backoff{Steps: 3, Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2},
	}.New()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, account, target types.NamespacedName) (bool, error) {
		decision, _, err := delegate.Authorize(ctx, authorizer.AttributesRecord{
			User: &user.DefaultInfo{
				Name:   serviceaccount.MakeUsername(account.Namespace, account.Name),
				Groups: append(serviceaccount.MakeGroupNames(account.Namespace), user.AllAuthenticated),
			},
			Verb:            verbUse,
			APIGroup:        v1alpha1.GroupVersion.Group,
			APIVersion:      v1alpha1.GroupVersion.Version,
			Resource:        "targetclusters",
			Namespace:       target.Namespace,
			Name:            target.Name,
			ResourceRequest: true,
		})
		return err == nil && decision == authorizer.DecisionAllow, err
	}, nil
}
