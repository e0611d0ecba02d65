// Package issuer gets from a TargetCluster and an identity to a credential.
//
// It resolves what a TargetCluster and its Secrets say into an endpoint and a source, asks the source once for all who
// wait for the same credential, and keeps the answer until it is time to refresh it. It sets no status, writes no log
// and authorises nobody: whoever calls it has done that.
package issuer

import (
	"context"
	"errors"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers"
)

// Config is what an Issuer needs.
type Config struct {
	// Clusters reads TargetClusters; a cache is fine.
	Clusters client.Reader
	// Secrets reads Secrets from the API server itself: a cache would need list and watch on Secrets, and hold them all.
	Secrets client.Reader

	// ClusterID tells this cluster from others that act on the same target: the UID of its kube-system namespace. It
	// marks what is created in a target. Without it, issuing with create or revocable is refused.
	ClusterID string

	// MaxLife shortens the life that is reported of a credential, and so makes renewals more frequent. Zero: as granted.
	MaxLife time.Duration

	// AllowLinkLocal lets targets and proxies have link-local addresses, where clouds keep their metadata services.
	AllowLinkLocal bool
	// AllowLocalAddresses lets targets and proxies have loopback and unspecified addresses: this process's own host.
	AllowLocalAddresses bool

	// Observe, if set, is called once for every time that a source was asked. It must not block.
	Observe func(Event)

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Event tells how it went when a source was asked for a credential.
type Event struct {
	TargetCluster types.NamespacedName
	// Identity is the first of those who waited for the answer.
	Identity providers.Identity
	// Took is how long the source needed.
	Took time.Duration
	// Err is nil if a credential was issued.
	Err error
	// Kept is set if Err is, and an earlier credential was answered instead because it has not ended yet.
	Kept bool
	// NotAfter is the end of the credential that was answered, as reported; zero if there is none.
	NotAfter time.Time
}

// Issued is a credential with all that a client needs to use it.
type Issued struct {
	// Credential has NotAfter as reported, and a complete Endpoint with a normalised Server.
	providers.Credential

	// Namespace is the TargetCluster's default namespace.
	Namespace string
	// Delivery is Direct or Proxy, never Auto.
	Delivery v1alpha1.Delivery
	// ClusterUID is the target's, if the TargetCluster's status knows it for this very endpoint.
	ClusterUID string
	// ID names the credential in audit logs as the target's own audit log does, if the credential has such a name.
	// It is no secret.
	ID string

	IssuedAt  time.Time
	RefreshAt time.Time
}

// Resolution is what a TargetCluster and its Secrets come to.
type Resolution struct {
	// Endpoint is complete, as far as it is known before a credential is issued.
	Endpoint providers.Endpoint
	// Access is how Keyferry itself gets in.
	Access providers.Provider
	// Delivery is Direct or Proxy, and DeliveryReason says why in a sentence.
	Delivery       v1alpha1.Delivery
	DeliveryReason string

	key   resolutionKey
	issue providers.Provider
}

// resolutionKey is all that a Resolution depends on.
type resolutionKey struct {
	uid        types.UID
	generation int64
	secrets    string
}

// Reasons of an InvalidError, for the condition Resolved.
const (
	ReasonSecretNotFound         = "SecretNotFound"
	ReasonSecretForbidden        = "SecretForbidden"
	ReasonInvalidKubeconfig      = "InvalidKubeconfig"
	ReasonInvalidEndpoint        = "InvalidEndpoint"
	ReasonAddressRefused         = "AddressRefused"
	ReasonNoCertificateAuthority = "NoCertificateAuthority"
	ReasonDirectNotPossible      = "DirectNotPossible"
	ReasonNotSupported           = "NotSupported"
)

// InvalidError says that a TargetCluster or its Secrets make no sense: nothing helps until somebody changes them.
type InvalidError struct {
	// Reason is one of the reasons above.
	Reason string
	// Message names the object, the field and the mend.
	Message string
}

func (e *InvalidError) Error() string { return e.Message }

// Issuer issues credentials. It may be used concurrently.
type Issuer struct {
	cfg Config
}

// New returns an Issuer, or an error that says what cfg lacks.
func New(cfg Config) (*Issuer, error) {
	switch {
	case cfg.Clusters == nil:
		return nil, errors.New("issuer: Clusters is required")
	case cfg.Secrets == nil:
		return nil, errors.New("issuer: Secrets is required")
	case cfg.MaxLife < 0:
		return nil, errors.New("issuer: MaxLife must not be negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Issuer{cfg: cfg}, nil
}

// Issue returns a credential of the TargetCluster for req: one that is there and not yet due to be refreshed, or a new one.
//
// While the source fails, a credential that has not ended goes on being returned, whatever the failure: a source that is
// down or refuses takes nothing away that it has given. Observe hears of it.
//
// Its errors are an *InvalidError, or wrap providers.ErrNotFound (also of the TargetCluster itself), ErrRefused or
// ErrUnavailable. The end of ctx ends the waiting, not the issue: others may wait for it, too.
func (i *Issuer) Issue(ctx context.Context, cluster types.NamespacedName, req providers.Request) (Issued, error) {
	return Issued{}, errors.New("not built yet")
}

// Resolve returns what a TargetCluster and its Secrets come to. It reads Secrets, at most some seconds late, and does not
// contact the target. Its errors are an *InvalidError, next to which the Resolution is filled as far as it is known, or wrap
// providers.ErrUnavailable.
func (i *Issuer) Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (Resolution, error) {
	return Resolution{}, errors.New("not built yet")
}

// DialContext connects to a target or its proxy, except to an address that targets must not have. Whatever else
// connects to an address that a TargetCluster names, such as a probe, does it through this.
func (i *Issuer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nil, errors.New("not built yet")
}
