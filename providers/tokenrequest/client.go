package tokenrequest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/providers"
)

// OwnerAnnotation of an object in the target names the TargetCluster for which Keyferry created it.
const OwnerAnnotation = "keyferry.dev/owner"

const (
	// Of each target; Mirror needs one issue per ServiceAccount, and up to three requests for each.
	qps   = 50
	burst = 100

	annotationServiceAccount = "keyferry.dev/service-account"
	labelManagedBy           = "app.kubernetes.io/managed-by"
	labelPurpose             = "keyferry.dev/purpose"
	managedBy                = "keyferry"
	purposeRevocation        = "token-revocation"
)

// errBoundGone: the Secret that a token was to be bound to is another one by now, or none.
var errBoundGone = errors.New("another client deleted the Secret that tokens are bound to")

// errUnauthorized: the target does not know who asks.
var errUnauthorized = errors.New("the target does not accept the access credential: renew it")

// client acts on one target with one credential.
type client struct {
	endpoint endpoint.Endpoint
	access   providers.Credential
	http     *http.Client
	api      rest.Interface
}

func newClient(at endpoint.Endpoint, access providers.Credential, policy endpoint.Policy) (*client, error) {
	if at.Server == "" {
		return nil, fmt.Errorf("%w: the target's address is unknown: set spec.endpoint.server", providers.ErrRefused)
	}
	httpClient, err := egress.Client(policy, at, access)
	if err != nil {
		return nil, fmt.Errorf("%w: getting into %s: %w", providers.ErrRefused, at.Server, err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, authenticationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("%w: getting into %s: %w", providers.ErrRefused, at.Server, err)
		}
	}
	api, err := rest.RESTClientForConfigAndClient(&rest.Config{
		Host:    at.Server,
		APIPath: "/api",
		ContentConfig: rest.ContentConfig{
			GroupVersion:         &corev1.SchemeGroupVersion,
			NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
		},
		QPS:       qps,
		Burst:     burst,
		UserAgent: "keyferry",
		// Warnings come from somebody else's server: not for our log.
		WarningHandler: rest.NoWarnings{},
	}, httpClient)
	if err != nil {
		return nil, fmt.Errorf("%w: getting into %s: %w", providers.ErrRefused, at.Server, err)
	}
	return &client{endpoint: at, access: access, http: httpClient, api: api}, nil
}

func (c *client) is(at endpoint.Endpoint, access providers.Credential) bool {
	return c.endpoint.Equal(at) && c.access.Token == access.Token &&
		bytes.Equal(c.access.ClientCertificate, access.ClientCertificate) && bytes.Equal(c.access.ClientKey, access.ClientKey)
}

// createToken asks for a token of account.
func (c *client) createToken(ctx context.Context, account types.NamespacedName, spec authenticationv1.TokenRequestSpec) (authenticationv1.TokenRequestStatus, error) {
	var answer authenticationv1.TokenRequest
	// The client's own retries would sleep through all the time that there is.
	err := c.api.Post().Namespace(account.Namespace).Resource("serviceaccounts").Name(account.Name).SubResource("token").
		Body(&authenticationv1.TokenRequest{Spec: spec}).MaxRetries(0).Do(ctx).Into(&answer)
	switch {
	case err == nil:
		return answer.Status, nil
	case spec.BoundObjectRef != nil && (apierrors.IsConflict(err) || isNotFound(err, "secrets")):
		return authenticationv1.TokenRequestStatus{}, providers.Unavailable(time.Second, errBoundGone)
	}
	return authenticationv1.TokenRequestStatus{}, c.failure(err, failing{
		doing:   "requesting a token of ServiceAccount " + account.String(),
		needs:   "create on serviceaccounts/token named " + account.Name + " in namespace " + account.Namespace,
		missing: "ServiceAccount " + account.String() + " does not exist there: create it, or set spec.issue.tokenRequest.create",
	})
}

// ensureAccount makes sure that the account exists and is owner's.
func (c *client) ensureAccount(ctx context.Context, account types.NamespacedName, owner string) error {
	existing := &corev1.ServiceAccount{}
	fresh := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Name:        account.Name,
		Namespace:   account.Namespace,
		Labels:      map[string]string{labelManagedBy: managedBy},
		Annotations: map[string]string{OwnerAnnotation: owner},
	}}
	if err := c.ensure(ctx, "serviceaccounts", fresh, existing); err != nil {
		return err
	}
	if existing.Annotations[OwnerAnnotation] != owner {
		return fmt.Errorf("%w: ServiceAccount %s exists in %s and Keyferry did not create it for this TargetCluster, so spec.issue.tokenRequest.create does not apply: "+
			"remove create to use this ServiceAccount, or delete the ServiceAccount so that Keyferry creates it", providers.ErrRefused, account, c.endpoint.Server)
	}
	return nil
}

// ensureSecret makes sure that the Secret exists that account's tokens of owner are bound to, and
// returns a reference to it.
func (c *client) ensureSecret(ctx context.Context, account types.NamespacedName, owner string) (*authenticationv1.BoundObjectReference, error) {
	existing := &corev1.Secret{}
	fresh := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name:        secretName(account.Name, owner),
			Namespace:   account.Namespace,
			Labels:      map[string]string{labelManagedBy: managedBy, labelPurpose: purposeRevocation},
			Annotations: map[string]string{OwnerAnnotation: owner, annotationServiceAccount: account.Name},
		},
		Type:      corev1.SecretTypeOpaque,
		Immutable: ptr.To(true),
	}
	if err := c.ensure(ctx, "secrets", fresh, existing); err != nil {
		return nil, err
	}
	name := account.Namespace + "/" + existing.Name
	switch {
	case existing.Annotations[OwnerAnnotation] != owner:
		return nil, fmt.Errorf("%w: Secret %s exists in %s and Keyferry did not create it for this TargetCluster: delete the Secret in the target, or remove spec.issue.tokenRequest.revocable",
			providers.ErrRefused, name, c.endpoint.Server)
	case existing.DeletionTimestamp != nil:
		return nil, providers.Unavailable(0, fmt.Errorf("Secret %s in %s, which tokens are bound to, is being deleted", name, c.endpoint.Server))
	}
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: existing.Name, UID: existing.UID}, nil
}

// secretName tells which account's tokens the Secret revokes, and is another one for each owner.
func secretName(account, owner string) string {
	sum := sha256.Sum256([]byte(account + "\n" + owner))
	const longest = 253 - len("keyferry-") - 1 - 16
	if len(account) > longest {
		account = account[:longest]
	}
	return "keyferry-" + account + "-" + hex.EncodeToString(sum[:8])
}

// object is what ensure needs of a Kubernetes object.
type object interface {
	runtime.Object
	metav1.Object
}

// ensure reads the object that fresh names into existing, and creates it from fresh where it is
// missing. It changes nothing that is there.
func (c *client) ensure(ctx context.Context, resource string, fresh, existing object) error {
	name := fresh.GetNamespace() + "/" + fresh.GetName()
	get := func() error {
		return c.api.Get().Namespace(fresh.GetNamespace()).Resource(resource).Name(fresh.GetName()).MaxRetries(0).Do(ctx).Into(existing)
	}
	create := func() error {
		return c.api.Post().Namespace(fresh.GetNamespace()).Resource(resource).Body(fresh).MaxRetries(0).Do(ctx).Into(existing)
	}
	err := get()
	if isNotFound(err, resource) {
		if err = create(); apierrors.IsAlreadyExists(err) {
			err = get()
		}
	}
	if err == nil {
		return nil
	}
	return c.failure(err, failing{
		doing:   "making sure of " + resource + " " + name,
		needs:   "get and create on " + resource + " in namespace " + fresh.GetNamespace(),
		missing: "namespace " + fresh.GetNamespace() + " does not exist there: create it; Keyferry creates no namespaces",
	})
}
