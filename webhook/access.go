package webhook

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/permission"
)

// Used is an object that it takes the verb use on.
type Used struct {
	Kind     string
	Resource schema.GroupVersionResource
	types.NamespacedName
}

func usedTargetCluster(name types.NamespacedName) Used {
	return Used{"TargetCluster", v1alpha1.GroupVersion.WithResource("targetclusters"), name}
}

func usedClusterProfile(name types.NamespacedName) Used {
	return Used{"ClusterProfile", inventory.GroupVersion.WithResource("clusterprofiles"), name}
}

// String names the object for messages.
func (u Used) String() string { return u.Kind + " " + u.NamespacedName.String() }

// MayUse tells whether a ServiceAccount has the verb use on an object.
type MayUse func(ctx context.Context, serviceAccount types.NamespacedName, object Used) (bool, error)

// checkUse denies what the ServiceAccount has no right to use. annotation is the one that led to the object.
//
// It comes before the object is read: otherwise everyone who may create a Pod could find out by trial which there are in other
// namespaces, and read their conditions.
func (h *Handler) checkUse(ctx context.Context, annotation string, serviceAccount types.NamespacedName, object Used) error {
	may, err := h.MayUse(ctx, serviceAccount, object)
	if err != nil {
		return fmt.Errorf("asking whether ServiceAccount %s may use %s: %w", serviceAccount, object, err)
	}
	if may {
		return nil
	}
	resource := object.Resource
	return forbidden("Forbidden", "annotation %s: ServiceAccount %s may not use %s: grant the verb %q on %s.%s %q in namespace %s: %s "+
		"(check with: kubectl auth can-i use %s/%s -n %s --as system:serviceaccount:%s:%s)",
		annotation, serviceAccount, object, permission.Verb, resource.Resource, resource.Group, object.Name, object.Namespace,
		permission.GrantCommand(resource.GroupResource(), object.NamespacedName, serviceAccount), canI(resource), object.Name, object.Namespace, serviceAccount.Namespace, serviceAccount.Name)
}

// canI is a resource as kubectl finds it whatever else has its name.
func canI(resource schema.GroupVersionResource) string {
	if resource.Group == v1alpha1.GroupVersion.Group {
		return resource.Resource
	}
	return resource.GroupResource().String()
}

// NewMayUse returns the MayUse that asks the API server.
//
// A yes is kept for 10 seconds, long enough for the Pods of one rollout; the broker asks again at each issue anyway. A no is
// not kept, so that a new RoleBinding acts at once.
func NewMayUse(reviews authorizationclient.AuthorizationV1Interface) (MayUse, error) {
	delegate, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: reviews,
		AllowCacheTTL:             10 * time.Second,
		WebhookRetryBackoff:       &wait.Backoff{Steps: 3, Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2},
	}.New()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, account types.NamespacedName, object Used) (bool, error) {
		decision, _, err := delegate.Authorize(ctx, authorizer.AttributesRecord{
			User: &user.DefaultInfo{
				Name:   serviceaccount.MakeUsername(account.Namespace, account.Name),
				Groups: append(serviceaccount.MakeGroupNames(account.Namespace), user.AllAuthenticated),
			},
			Verb:            permission.Verb,
			APIGroup:        object.Resource.Group,
			APIVersion:      object.Resource.Version,
			Resource:        object.Resource.Resource,
			Namespace:       object.Namespace,
			Name:            object.Name,
			ResourceRequest: true,
		})
		return err == nil && decision == authorizer.DecisionAllow, err
	}, nil
}
