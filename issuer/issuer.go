// Package issuer gets from a TargetCluster and an identity to a credential.
//
// It resolves what a TargetCluster and its Secrets say into an endpoint and a provider, asks the
// provider once for all who wait for the same credential, and keeps the answer until it is time to
// refresh it. It sets no status, writes no log and authorises nobody: the caller has done
// that.
package issuer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/internal/hedge"
	"github.com/keyferry/keyferry/internal/systemroots"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/clientcertificate"
)

// issueTimeout is for a provider that forgets its own.
const issueTimeout = 15 * time.Second

// Config is what an Issuer needs.
type Config struct {
	// Clusters reads TargetClusters; a cache is fine.
	Clusters client.Reader
	// Secrets reads Secrets, and ClusterProfiles, from the API server itself: a cache would need list
	// and watch on Secrets, and hold them all; and ClusterProfiles are not known to every cluster.
	Secrets client.Reader

	// Providers returns what the operator's provider file says now, the same pointer for as long as it
	// is the same; nil, also of the function, is no file.
	Providers func() *clusterprofile.ProviderFile

	// CertManager has cert-manager's CertificateRequests made, with the right to create, get, list,
	// watch and delete them. Nil: client certificates are not issued.
	CertManager clientcertificate.API

	// ClusterID tells this cluster from others that act on the same target: the UID of its kube-system
	// namespace. It marks what is created in a target. Without it, issuing with create or revocable is
	// refused.
	ClusterID string

	// MaxLife shortens the life that is reported of a credential, and so makes renewals more frequent.
	// Zero: as granted.
	MaxLife time.Duration

	// Policy says which addresses providers, targets and proxies may have, and which namespaces may
	// use the broker's own identity.
	Policy endpoint.Policy

	// SystemRoots returns the CA certificates of this system, PEM, for targets that are verified by
	// them; the same slice each time, since each answer holds it. Nil reads the certificates that
	// crypto/x509 uses, once.
	SystemRoots func() ([]byte, error)

	// LocalAudiences are those of this cluster's own API server. A token for it must not go to a
	// target.
	LocalAudiences []string

	// Verify, if set, returns an error that wraps verify.ErrRejected if the target of a credential
	// does not accept it, or takes its client for another user; an empty user is any. verify.New makes
	// one.
	Verify func(ctx context.Context, credential providers.Credential, user string) error

	// Decorate, if set, returns the Provider to call in the place of one that issues credentials:
	// tests let it fail. Nil changes nothing.
	Decorate func(providers.Provider) providers.Provider

	// Observe, if set, is called once for every time that a provider was asked. It must not block.
	Observe func(Event)

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// ClusterID returns what Config.ClusterID of the cluster that reader reads is: the UID of the
// namespace that every cluster has, and none has twice.
func ClusterID(ctx context.Context, reader client.Reader) (string, error) {
	var namespace corev1.Namespace
	if err := reader.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &namespace); err != nil {
		return "", fmt.Errorf("reading the UID of namespace %s, which identifies this cluster: %w", metav1.NamespaceSystem, err)
	}
	return string(namespace.UID), nil
}

// Event tells how it went when a provider was asked for a credential.
type Event struct {
	// One of them is set: ClusterProfile if there is no TargetCluster.
	TargetCluster  types.NamespacedName
	ClusterProfile types.NamespacedName
	// Provider is how Keyferry gets in, and Issue what it issues there.
	Provider v1alpha1.AccessType
	Issue    v1alpha1.IssueType
	// Identity is the first of those who waited for the answer.
	Identity providers.Identity
	// Took is how long the provider needed.
	Took time.Duration
	// Err is nil if a credential was issued.
	Err error
	// OneAccount is set if Err tells that the ServiceAccount which mirrors that of Identity is not
	// there: it says nothing of others.
	OneAccount bool
	// Kept is set if Err is, and an earlier credential was answered instead because it has not ended
	// yet.
	Kept bool
	// NotAfter is the end of the credential that was answered, as reported; zero if there is none, or
	// the Pod's plugin issues it.
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
	// ID names the credential in audit logs as the target's own audit log does, if the credential has
	// such a name. It is no secret.
	ID string

	// InPod is set, and Credential holds the endpoint only, if a plugin in the Pod issues the
	// credential.
	InPod *resolve.InPod

	IssuedAt  time.Time
	RefreshAt time.Time
	// Cached: the provider was not asked for this answer, or for somebody else already.
	Cached bool

	key credentialKey
	// access is the Resolution that the provider was called with, also if that failed.
	access resolutionKey
	// rejections counts the credentials in a row, up to this one, that the target rejected. reported
	// is set if a Pod said so of this one. successorRejected is set, also without a credential, if the
	// target rejected what was issued last.
	rejections        int
	reported          bool
	successorRejected bool
}

// Issuer issues credentials. It may be used concurrently.
type Issuer struct {
	cfg         Config
	resolver    *resolve.Resolver
	secrets     *memo[types.NamespacedName, secret]
	listed      *memo[string, struct{}]
	profiles    *memo[types.NamespacedName, profile]
	resolutions *memo[resolutionKey, Resolution]
	accesses    *memo[credentialKey, kept]
	credentials *memo[credentialKey, Issued]
	verified    *memo[resolutionKey, struct{}]

	// requests is nil without Config.CertManager; certManager reports whether there is one.
	requests    *clientcertificate.Requests
	certManager *memo[struct{}, struct{}]
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
	if cfg.SystemRoots == nil {
		cfg.SystemRoots = sync.OnceValues(systemroots.Read)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Event) {}
	}
	var requests *clientcertificate.Requests
	if cfg.CertManager != nil {
		requests = clientcertificate.NewRequests(cfg.CertManager, cfg.Now)
	}
	return &Issuer{
		cfg: cfg,
		resolver: resolve.New(resolve.Config{
			Policy:         cfg.Policy,
			SystemRoots:    cfg.SystemRoots,
			LocalAudiences: cfg.LocalAudiences,
			ClusterID:      cfg.ClusterID,
			Requests:       requests,
			Now:            cfg.Now,
		}),
		secrets:     newMemo[types.NamespacedName, secret](cfg.Now),
		listed:      newMemo[string, struct{}](cfg.Now),
		profiles:    newMemo[types.NamespacedName, profile](cfg.Now),
		resolutions: newMemo[resolutionKey, Resolution](cfg.Now),
		accesses:    newMemo[credentialKey, kept](cfg.Now),
		credentials: newMemo[credentialKey, Issued](cfg.Now),
		verified:    newMemo[resolutionKey, struct{}](cfg.Now),
		requests:    requests,
		certManager: newMemo[struct{}, struct{}](cfg.Now),
	}, nil
}

// TargetCluster returns what Issue issues from. Whoever calls it asks for the verb use, of the
// TargetCluster before, and of the ClusterProfile that it names after.
//
// Its errors wrap providers.ErrNotFound or providers.ErrUnavailable.
func (i *Issuer) TargetCluster(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	cluster := &v1alpha1.TargetCluster{}
	if err := i.cfg.Clusters.Get(ctx, name, cluster); apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("TargetCluster %s: %w: it does not exist", name, providers.ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("reading TargetCluster %s: %w", name, providers.Unavailable(0, err))
	}
	return cluster, nil
}

// IssueFor returns a credential of what TargetCluster or ClusterProfile returned, for req: one that
// is there and not yet due to be refreshed, or a new one.
//
// While the provider fails, a credential that has not ended goes on being returned, whatever the
// failure: a provider that is down or refuses takes nothing away that it has given. Observe hears
// of it. A provider that failed is asked again after a short time, or after as long as it asked
// for; until then everybody is told of the same failure.
//
// Its errors are an *resolve.InvalidError, or wrap resolve.ErrSubjectToken, or
// providers.ErrNotFound, ErrRefused or ErrUnavailable. The end of ctx ends the waiting, not the
// issue: others may wait for it, too.
func (i *Issuer) IssueFor(ctx context.Context, cluster *v1alpha1.TargetCluster, req providers.Request) (Issued, error) {
	resolution, err := i.Resolve(ctx, cluster)
	if err != nil {
		return Issued{}, fmt.Errorf("%s: %w", described(cluster), err)
	}
	if cluster.Spec.Issue.Type == v1alpha1.IssueFederation {
		return Issued{}, fmt.Errorf("%s: %w", described(cluster), errFederated())
	}
	if req, err = resolution.Subjected(req); err != nil {
		return Issued{}, fmt.Errorf("%s: %w", described(cluster), err)
	}
	key := credentialKey{resolution: resolution.issued, share: providers.ShareKey(resolution.Issue, req)}
	// What failed with another access credential may work with this one.
	i.credentials.retry(key, func(last Issued) bool { return last.access != resolution.key })
	asked := false
	issued, err := i.credentials.getUrgent(ctx, key, func(last answer[Issued]) bool {
		return last.aboutToExpire(i.cfg.Now(), req) && !last.value.successorRejected && (last.failures > 0 || !outlasts(last.value, req))
	}, func(ctx context.Context, last answer[Issued]) answer[Issued] {
		asked = true
		return i.ask(ctx, cluster, resolution, req, last)
	})
	if err != nil {
		return Issued{}, fmt.Errorf("%s: %w", described(cluster), err)
	}
	issued.Cached, issued.key = !asked, key
	issued.Namespace = cmp.Or(cluster.Spec.DefaultNamespace, metav1.NamespaceDefault)
	if s := cluster.Status; s.ObservedGeneration == cluster.Generation && s.Endpoint == issued.Endpoint.Server {
		issued.ClusterUID = string(s.ClusterUID)
	}
	return issued, nil
}

// Refused tells that the target rejects what IssueFor returned, which may have been revoked there.
// The next call of IssueFor issues and verifies another credential, but not within a minute of the
// last, and later with each rejection in a row. Until then the rejected one stays the answer: the
// report of one Pod takes nothing from the others that share it.
func (i *Issuer) Refused(issued Issued) {
	i.credentials.renew(issued.key, func(have *Issued) (time.Time, bool) {
		if !have.IssuedAt.Equal(issued.IssuedAt) {
			return time.Time{}, false
		}
		if !have.reported {
			have.reported, have.rejections = true, have.rejections+1
		}
		return have.IssuedAt.Add(rejectedAge(have.rejections)), true
	})
}

// credentialKey is all that a credential depends on.
type credentialKey struct {
	resolution resolutionKey
	share      string
}

// ask asks the provider for a credential. If it fails, the last one stays the answer until shortly
// before it ends.
func (i *Issuer) ask(ctx context.Context, cluster *v1alpha1.TargetCluster, resolution Resolution, req providers.Request, last answer[Issued]) answer[Issued] {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()

	asked := i.cfg.Now()
	credential, err := call(ctx, resolution.Issue, req, last.aboutToExpire(asked, req))
	now := i.cfg.Now()
	issued := Issued{}
	if err == nil {
		issued, err = i.complete(cluster, resolution, credential, now)
	}
	if err == nil {
		if last.value.reported {
			issued.rejections = last.value.rejections
		}
		err = i.verify(ctx, cluster, resolution, issued)
	}
	next := answer[Issued]{value: issued, until: issued.RefreshAt, expires: issued.NotAfter}
	if err == nil && lastsNoLonger(issued, last, req, now) {
		// Pods go on asking, and the same credential stays the same answer.
		next.failures, next.value.RefreshAt = last.failures+1, now
		if same(issued.Credential, last.value.Credential) {
			next.value.IssuedAt, next.value.RefreshAt = last.value.IssuedAt, last.value.RefreshAt
		}
	}
	event := Event{
		TargetCluster: client.ObjectKeyFromObject(cluster), Provider: cluster.Spec.Access.Type, Issue: cluster.Spec.Issue.Type,
		Identity: req.Identity, Took: now.Sub(asked), Err: err,
	}
	if r := cluster.Spec.Issue.TokenRequest; r != nil && r.ServiceAccount.Type == v1alpha1.ServiceAccountMirror {
		event.OneAccount = errors.Is(err, providers.ErrNotFound)
	}
	if resolve.OfProfile(cluster) {
		event.TargetCluster, event.ClusterProfile = types.NamespacedName{}, event.TargetCluster
	}
	if err != nil {
		next = afterFailure(last, err, now)
		event.Kept = next.err == nil
	}
	next.value.access, next.value.successorRejected = resolution.key, errors.Is(err, verify.ErrRejected)
	if resolution.InPod == nil {
		event.NotAfter = next.value.NotAfter
	}
	i.cfg.Observe(event)
	return next
}

// outlasts reports whether a credential is of use to a client whose present one is about to expire.
func outlasts(issued Issued, req providers.Request) bool {
	return issued.NotAfter.After(req.Expires.Add(expiresGrain))
}

// lastsNoLonger reports whether issued is to replace a credential that is due, and expires no later
// than that: the provider answers with what it issued before.
func lastsNoLonger(issued Issued, last answer[Issued], req providers.Request, now time.Time) bool {
	if expiry.Urgent(now, req.Expires) && !outlasts(issued, req) {
		return true
	}
	return last.err == nil && expiry.Due(now, last.value.RefreshAt) && !issued.NotAfter.After(last.expires)
}

// same reports whether a client presents the same with both.
func same(a, b providers.Credential) bool {
	return a.Token == b.Token && bytes.Equal(a.ClientCertificate, b.ClientCertificate)
}

// call has a provider issue a credential. If that is urgent, a call that hangs does not hold up the
// next one.
func call(ctx context.Context, provider providers.Provider, req providers.Request, urgent bool) (providers.Credential, error) {
	issue := func(ctx context.Context) (providers.Credential, error) { return provider.Issue(ctx, req) }
	if urgent {
		return hedge.Do(ctx, hedgeInterval, issue)
	}
	return issue(ctx)
}

// afterFailure is what is answered, and how long, when the provider failed.
func afterFailure[V any](last answer[V], err error, now time.Time) answer[V] {
	failures := last.failures + 1
	wait := max(backoff(failures), min(providers.RetryAfter(err), maxRetryAfter))
	if errors.Is(err, verify.ErrRejected) {
		wait = rejectedBackoff(failures)
	}
	retry := now.Add(wait)
	if end := last.expires.Add(-minRest); last.err == nil && end.After(now) {
		return answer[V]{value: last.value, until: earlier(retry, end), expires: last.expires, failures: failures}
	}
	return answer[V]{err: err, until: retry, expires: retry.Add(maxRetryAfter), failures: failures}
}

// complete makes of a credential what is answered.
func (i *Issuer) complete(cluster *v1alpha1.TargetCluster, resolution Resolution, credential providers.Credential, now time.Time) (Issued, error) {
	at, delivery, err := i.resolver.Deliver(cluster, resolution.Resolution, credential)
	if err != nil {
		return Issued{}, err
	}
	if !credential.NotAfter.After(now) {
		return Issued{}, fmt.Errorf("%w: the provider's credential expired at %s: check the clocks",
			providers.ErrRefused, credential.NotAfter.UTC().Format(time.RFC3339))
	}
	credential.Endpoint = at
	if longest := now.Add(i.cfg.MaxLife); i.cfg.MaxLife > 0 {
		credential.NotAfter = earlier(credential.NotAfter, longest)
	}
	return Issued{
		Credential: credential,
		Delivery:   delivery,
		ID:         credentialID(credential),
		InPod:      resolution.InPod,
		IssuedAt:   now,
		RefreshAt:  expiry.RefreshAt(now, credential.NotAfter),
	}, nil
}
