package secretaccess

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/use"
)

// Reader reads the Secrets that TargetClusters name. The result is Forbidden in a namespace in
// which the broker may not read Secrets: the controller may read more of them, because it writes
// those of CredentialRequests.
type Reader struct {
	client.Reader
	authorizer authorizer.UnconditionalAuthorizer
	broker     user.Info
}

// NewReader returns a Reader that creates SubjectAccessReviews for the broker's ServiceAccount. It
// caches an allowed result for a minute, like the broker.
func NewReader(reader client.Reader, reviews authorizationclient.AuthorizationV1Interface, broker types.NamespacedName) (*Reader, error) {
	delegate, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: reviews,
		AllowCacheTTL:             time.Minute,
		WebhookRetryBackoff:       &wait.Backoff{Steps: 3, Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2},
	}.New()
	if err != nil {
		return nil, err
	}
	return &Reader{Reader: reader, authorizer: delegate, broker: use.ServiceAccount(broker, "")}, nil
}

// Get implements client.Reader.
func (r *Reader) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if _, isSecret := object.(*corev1.Secret); isSecret {
		if err := r.authorize(ctx, key); err != nil {
			return err
		}
	}
	return r.Reader.Get(ctx, key, object, options...)
}

// authorize asks about all Secrets of the namespace: the permission for a single one is not that of
// a namespace that the operator has selected.
func (r *Reader) authorize(ctx context.Context, secret client.ObjectKey) error {
	decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: r.broker, Verb: "get", APIVersion: "v1", Resource: "secrets", Namespace: secret.Namespace, ResourceRequest: true,
	})
	switch {
	case err != nil:
		return fmt.Errorf("checking whether the broker may read Secrets of namespace %s: %w", secret.Namespace, err)
	case decision != authorizer.DecisionAllow:
		return apierrors.NewForbidden(corev1.Resource("secrets"), secret.Name, errors.New("the broker may not read Secrets of this namespace"))
	}
	return nil
}
