// Package providers is the contract between Keyferry and the providers of credentials: one method,
// three kinds of error.
//
// Each provider is a package in a directory of this one. Its constructor takes the configuration
// and the Secrets that the configuration names. A provider imports no other provider; a provider
// that needs another (TokenRequest calls the target with an access credential) takes a Provider.
//
// This package imports the standard library, and package endpoint, only.
package providers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/keyferry/keyferry/endpoint"
)

// A Provider issues credentials for one target.
//
// Issue may be called concurrently. It returns a credential that can be used as it is and whose
// NotAfter is set, or an error that wraps exactly one of ErrNotFound, ErrRefused and ErrUnavailable
// and names the object, field or address that it is about. It keeps no state that one request could
// leave to another, logs nothing, and never puts a secret into an error. It ends when ctx does,
// with ErrUnavailable. The package providertest holds every Provider to this.
type Provider interface {
	Issue(ctx context.Context, req Request) (Credential, error)
}

// A Sharer is a Provider whose credentials do not depend on all of the request. Requests with the
// same ShareKey may be answered with the same credential; the empty key means that it is the same
// for everybody. The credential of a Provider that is no Sharer is given to nobody but the Pod that
// asked.
type Sharer interface {
	Provider
	ShareKey(req Request) string
}

// A Revoker is a Provider that can end credentials before their time.
type Revoker interface {
	Provider
	// Revocation names what Issue binds the credential for req to; empty if it binds it to nothing.
	// The name is known before there is a credential, so that it can be noted first, and holds nothing
	// secret.
	Revocation(req Request) string
	// Revoke ends all credentials that were bound to what has this name, if it belongs to the Holder
	// of req; what is another's, or no longer there, is left as it is, without an error.
	Revoke(ctx context.Context, req Request, name string) error
}

// A Keeper is a Provider that answers with what it issued before, as long as that is good. Rejected
// tells it that the target does not accept a credential that it was given for req.
type Keeper interface {
	Provider
	Rejected(req Request, c Credential)
}

// A Hosted is a Provider that connects to a server that its configuration names. If the policy for
// egress rejects the server's address, the TargetCluster is not resolved.
type Hosted interface {
	Provider
	Server() *url.URL
}

// A Warner is a Provider that may be configured in a way that works and is dangerous. Warning is a
// sentence about it for the TargetCluster's status; empty if there is none.
type Warner interface {
	Provider
	Warning() string
}

// ShareKey returns the key under which p's answer to req may be shared: what p says if it is a
// Sharer, else one that only requests of the same Pod (or, where no Pod asks, of the same
// ServiceAccount) have in common.
func ShareKey(p Provider, req Request) string {
	if s, ok := p.(Sharer); ok {
		return s.ShareKey(req)
	}
	id := req.Identity
	return strings.Join([]string{"unshared", id.Namespace, id.ServiceAccount, id.ServiceAccountUID, id.PodName, id.PodUID}, "/")
}

// Request says for whom a credential is.
type Request struct {
	Identity Identity

	// SubjectToken is a token of the Pod for the provider's own audience, which workload identity
	// exchanges. Empty where the provider needs none. It has been verified to be of the same Pod and
	// is never stored.
	SubjectToken string

	// Duration is the longest life that is wanted of the credential; zero leaves it to the Provider,
	// and so does a Provider that cannot choose. What is asked for with a Duration or a Holder is
	// shared with nobody.
	Duration time.Duration

	// Expires is when the credential expires that this one is to replace; the zero time if there is
	// none, or if that is not known. It changes how persistently a credential is requested, never
	// which one is issued.
	Expires time.Time

	// Holder tells apart whose credentials are revoked together, where the Provider is a Revoker;
	// empty: those of all who have none.
	Holder string
}

// Identity is an authenticated workload of this cluster.
type Identity struct {
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	// PodName and PodUID are empty where no Pod asks.
	PodName string
	PodUID  string
}

// String returns the name by which RBAC knows the identity.
func (id Identity) String() string {
	return "system:serviceaccount:" + id.Namespace + ":" + id.ServiceAccount
}

// Credential is what a client presents to a target's API server: a token, or a certificate and its
// key, never both.
type Credential struct {
	Token string

	// ClientCertificate and ClientKey are PEM.
	ClientCertificate []byte
	ClientKey         []byte

	// NotAfter is when the credential ends; never zero.
	NotAfter time.Time

	// Endpoint is set if the provider knows where the target is.
	Endpoint endpoint.Endpoint
}

// Errors of a Provider, to be found with errors.Is.
var (
	// ErrNotFound: something that the configuration names does not exist at the provider.
	ErrNotFound = errors.New("not found")
	// ErrRefused: the provider answered, and will answer the same until somebody changes something.
	ErrRefused = errors.New("refused")
	// ErrUnavailable: the provider did not answer, or said that it cannot now; see RetryAfter.
	ErrUnavailable = errors.New("unavailable")
)

// Unavailable returns an error that wraps ErrUnavailable and err, and carries the time after which
// the provider asked to be tried again; zero leaves it to the caller.
func Unavailable(retryAfter time.Duration, err error) error {
	return &unavailable{retryAfter: retryAfter, err: err}
}

// RetryAfter returns the time that an error made by Unavailable carries, or zero.
func RetryAfter(err error) time.Duration {
	if u, ok := errors.AsType[*unavailable](err); ok {
		return u.retryAfter
	}
	return 0
}

type unavailable struct {
	retryAfter time.Duration
	err        error
}

func (u *unavailable) Error() string   { return fmt.Sprintf("%v: %v", ErrUnavailable, u.err) }
func (u *unavailable) Unwrap() []error { return []error{ErrUnavailable, u.err} }
