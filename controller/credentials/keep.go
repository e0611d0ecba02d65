package credentials

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/secretwatch"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// target is what a credential comes from.
type target struct {
	cluster    *v1alpha1.TargetCluster
	resolution issuer.Resolution
	// source is the digest of it, for a request.
	source string
	// ask is what is asked of it.
	ask providers.Request
}

// revocation is what ends the credential that the target is asked for; without a handle if nothing
// does.
func (t target) revocation(request *v1alpha1.CredentialRequest) v1alpha1.Revocation {
	return v1alpha1.Revocation{
		TargetCluster:      request.Spec.TargetCluster,
		ServiceAccountName: request.Spec.ServiceAccountName,
		Handle:             t.resolution.Revocation(t.ask),
	}
}

// keep sees to the Secret of a request, and returns what its status becomes and when to look again.
// Errors are those of this cluster's API server; all others are in the status.
func (r *Requests) keep(ctx context.Context, request *v1alpha1.CredentialRequest) (v1alpha1.CredentialRequestStatus, time.Duration, error) {
	o, next, err := r.look(ctx, request)
	if err != nil {
		return request.Status, 0, err
	}
	if o.revocations, o.revoked = r.revokeLeft(ctx, request, o.revocations); o.revoked.reason != "" {
		next = min(next, revokeAgain)
	}
	return nextStatus(request, o, r.cfg.Now()), next, nil
}

// look has the Secret hold what it should.
func (r *Requests) look(ctx context.Context, request *v1alpha1.CredentialRequest) (outcome, time.Duration, error) {
	now := r.cfg.Now()
	o := outcome{revocations: request.Status.Revocations}
	owned, existing, obstacle, err := r.secret(ctx, request)
	if err != nil {
		return o, 0, err
	}
	access := r.access(ctx, request)
	lock, err := r.cfg.FindLock(ctx, access)
	if err != nil {
		return o, 0, err
	}
	if lock != nil {
		if existing != nil {
			owned[existing.Name] = existing
		}
		next := r.lock(ctx, request, lock, access, owned, obstacle, &o)
		return o, next, nil
	}
	if obstacle != nil {
		o.issued, o.written = secretObstructed(), *obstacle
		return o, r.nextTry(request, nil, nil), nil
	}
	if existing != nil {
		o.held = stored.Read(existing)
	}
	if refused := r.remembered(request).refused; refused != nil && refused.generation == request.Generation && now.Before(refused.until) {
		o.issued, o.written = refused.issued, asItIs(existing, o.held, now)
		return o, refused.until.Sub(now), nil
	}
	t, failure, err := r.target(ctx, request)
	switch {
	case errors.Is(err, errForbidden):
		again := r.refuse(request, &o, existing, failure)
		return o, again, nil
	case errors.Is(err, errReview):
		return o, 0, err
	case err != nil:
		r.auditRefusal(request, failure)
		o.issued, o.written = failure, asItIs(existing, o.held, now)
		return o, r.nextTry(request, o.held, err), nil
	}

	known := r.remembered(request)
	do := decide(situation{
		now: now, source: t.source, missing: existing == nil, stored: o.held,
		kept: known.kept, overdue: known.kept != nil && expiry.Due(now, known.due),
	})
	use, next := do.use, time.Duration(0)
	o.issued = hasIssued(request)
	if use == nil {
		if o.held != nil {
			t.ask.Expires = o.held.NotAfter
		}
		if use, next, err = r.issue(ctx, request, t, existing, &o, now); err != nil {
			return o, 0, err
		}
		if use == nil && o.held == nil && o.issued.reason == issuer.ReasonUnavailable {
			use = do.fallback // better than none, while the source is down
		}
	}
	if use == nil {
		return o, next, nil
	}
	r.keepInMind(request, use)
	if o.written, err = r.put(ctx, request, existing, use); err != nil {
		return o, 0, err
	}
	if o.written.status != metav1.ConditionTrue {
		return o, r.nextTry(request, o.held, nil), nil
	}
	o.held = use
	if o.issued.status != metav1.ConditionTrue {
		return o, next, nil
	}
	// Only now is what was there before not used any more.
	o.revocations = leave(o.revocations, t.revocation(request), now)
	return o, r.nextLook(request, use), r.deleteFormer(ctx, request, owned)
}

// secret returns the Secrets that are the request's, and among them the one that it names, if it is
// there; or a finding that tells why that one may not be written.
func (r *Requests) secret(ctx context.Context, request *v1alpha1.CredentialRequest) (owned map[string]*corev1.Secret, existing *corev1.Secret, obstacle *finding, err error) {
	owned, err = r.cfg.Secrets.Of(ctx, request)
	switch {
	case errors.Is(err, secretwatch.ErrSyncing):
		return nil, nil, nil, errMeanwhile
	case errors.Is(err, secretwatch.ErrNotListed), errors.Is(err, secretwatch.ErrForbidden):
		return nil, nil, &finding{metav1.ConditionFalse, reasonNamespaceNotServed, fmt.Sprintf(
			"%v: add %s to the chart value credentialRequests.namespaces", err, request.Namespace)}, nil
	case err != nil:
		return nil, nil, nil, err
	}
	if known := owned[request.Spec.Secret.Name]; known != nil {
		return owned, known, nil, nil
	}
	// It may be there without the label.
	existing = &corev1.Secret{}
	err = r.cfg.Reader.Get(ctx, client.ObjectKey{Namespace: request.Namespace, Name: request.Spec.Secret.Name}, existing)
	switch {
	case apierrors.IsNotFound(err):
		return owned, nil, nil, nil
	case apierrors.IsForbidden(err):
		return owned, nil, refusedBy(request, err), nil
	case err != nil:
		return nil, nil, nil, err
	case !stored.Mine(existing, request):
		return owned, nil, clash(request, existing), nil
	}
	return owned, existing, nil, nil
}

// clash says whose the Secret is.
func clash(request *v1alpha1.CredentialRequest, existing *corev1.Secret) *finding {
	whose := "was not created by this CredentialRequest"
	if c := metav1.GetControllerOf(existing); c != nil {
		whose = fmt.Sprintf("belongs to %s %s", c.Kind, c.Name)
	}
	return &finding{metav1.ConditionFalse, reasonSecretConflict, fmt.Sprintf(
		"Secret %s/%s %s, so Keyferry does not change this Secret: set another spec.secret.name, delete the Secret, or, if no other client writes the Secret, add the label %s=%s",
		existing.Namespace, existing.Name, whose, v1alpha1.LabelCredentialRequest, request.Name)}
}

// target returns what the credential comes from, for a ServiceAccount that may use it: nothing is
// read or resolved before that is known. Its error is that of the finding, errForbidden if the
// ServiceAccount may not use it, or errReview if that could not be checked.
func (r *Requests) target(ctx context.Context, request *v1alpha1.CredentialRequest) (target, finding, error) {
	name := targetName(request)
	since := r.cfg.Now().Add(-reviewLasts)
	if _, refusal, err := r.authorize(ctx, request, since, use.TargetCluster(name)); err != nil {
		return target{}, refusal, err
	}
	cluster, err := r.cluster(ctx, name)
	if err != nil {
		return target{}, issueFailed(err), err
	}
	if _, refusal, err := r.authorize(ctx, request, since, use.Of(cluster)...); err != nil {
		return target{}, refusal, err
	}
	resolution, err := r.resolve(ctx, cluster)
	if err != nil {
		return target{}, issueFailed(err), err
	}
	t := target{
		cluster:    cluster,
		resolution: resolution,
		source:     stored.Source(request, cluster, resolution),
		ask:        asked(request, request.Spec.ServiceAccountName),
	}
	if request.Spec.Duration != nil {
		t.ask.Duration = request.Spec.Duration.Duration
	}
	refuse := func(reason, message string) (target, finding, error) {
		return target{}, finding{metav1.ConditionFalse, reason, message}, fmt.Errorf("%w: %s", providers.ErrRefused, message)
	}
	certificate := cluster.Spec.Issue.Type == v1alpha1.IssueClientCertificate
	if why := stored.Obstacle(request.Spec.Type, resolution.Endpoint, certificate); why != "" {
		return refuse(v1alpha1.ReasonNotExpressible, cannotExpress(request, why))
	}
	if resolution.SubjectAudience != "" {
		return refuse(resolve.ReasonNotSupported, fmt.Sprintf(
			"TargetCluster %s needs a Pod's token, but a CredentialRequest has no Pod: set another identity in the TargetCluster, or use it in Pods with the annotation keyferry.dev/cluster", name))
	}
	return t, finding{}, nil
}

func cannotExpress(request *v1alpha1.CredentialRequest, why string) string {
	return fmt.Sprintf("spec.type %s is not possible for this target: %s: use type kubeconfig", request.Spec.Type, why)
}

func targetName(request *v1alpha1.CredentialRequest) client.ObjectKey {
	return client.ObjectKey{Namespace: request.Spec.TargetCluster.Namespace, Name: request.Spec.TargetCluster.Name}
}

// cluster reads a TargetCluster.
func (r *Requests) cluster(ctx context.Context, name client.ObjectKey) (*v1alpha1.TargetCluster, error) {
	cluster := &v1alpha1.TargetCluster{}
	err := r.cfg.Client.Get(ctx, name, cluster)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("TargetCluster %s: %w: create it, or fix spec.targetCluster", name, errNoTarget)
	case err != nil:
		return nil, fmt.Errorf("reading TargetCluster %s: %w", name, providers.Unavailable(0, err))
	}
	return cluster, nil
}

func (r *Requests) resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (issuer.Resolution, error) {
	resolution, err := r.cfg.Issuer.Resolve(ctx, cluster)
	if err != nil {
		return issuer.Resolution{}, fmt.Errorf("TargetCluster %s: %w", client.ObjectKeyFromObject(cluster), err)
	}
	return resolution, nil
}

// errNoTarget says that there is no TargetCluster.
var errNoTarget = fmt.Errorf("%w", providers.ErrNotFound)

// asked is the request for a credential of a CredentialRequest. No other request has its holder,
// whatever its name.
func asked(request *v1alpha1.CredentialRequest, account string) providers.Request {
	return providers.Request{
		Identity: providers.Identity{Namespace: request.Namespace, ServiceAccount: account},
		Holder:   request.Namespace + "/" + request.Name + "/" + string(request.UID),
	}
}

// put writes what h holds to the Secret, if something of it differs.
func (r *Requests) put(ctx context.Context, request *v1alpha1.CredentialRequest, existing *corev1.Secret, h *stored.Credential) (finding, error) {
	secret := stored.Desired(existing, request, h)
	if existing != nil && stored.Same(existing, secret) {
		return finding{metav1.ConditionTrue, reasonWritten, "the Secret holds the credential"}, nil
	}
	if obstacle, err := r.send(ctx, request, existing, secret); obstacle != nil || err != nil {
		return *orNone(obstacle), err
	}
	return finding{metav1.ConditionTrue, reasonWritten, "the Secret holds the credential"}, nil
}

func orNone(f *finding) *finding {
	if f == nil {
		return &finding{}
	}
	return f
}

// send creates or updates a Secret, or tells what is in the way. What was read must still be there
// as it was read.
func (r *Requests) send(ctx context.Context, request *v1alpha1.CredentialRequest, existing, secret *corev1.Secret, dryRun ...client.CreateOption) (*finding, error) {
	var err error
	switch {
	case existing == nil:
		err = r.cfg.Client.Create(ctx, secret, dryRun...)
	case len(dryRun) > 0:
		err = r.cfg.Client.Update(ctx, secret, client.DryRunAll)
	default:
		err = r.cfg.Client.Update(ctx, secret)
	}
	switch {
	case err == nil, len(dryRun) > 0 && apierrors.IsBadRequest(err): // a webhook that knows no dry runs
		return nil, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return nil, errMeanwhile
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err), apierrors.IsBadRequest(err):
		return refusedBy(request, err), nil
	}
	return nil, err
}

// refusedBy tells what the API server has against the Secret: it has been given no credential when
// it is first asked.
func refusedBy(request *v1alpha1.CredentialRequest, err error) *finding {
	if apierrors.IsForbidden(err) {
		return &finding{metav1.ConditionFalse, reasonSecretForbidden, fmt.Sprintf(
			"%v: if the controller lacks this permission, add %s to the chart value credentialRequests.namespaces", err, request.Namespace)}
	}
	return &finding{metav1.ConditionFalse, reasonSecretRejected, err.Error()}
}

// deleteFormer deletes the request's Secrets of other names, from when spec.secret.name was
// another.
func (r *Requests) deleteFormer(ctx context.Context, request *v1alpha1.CredentialRequest, owned map[string]*corev1.Secret) error {
	for _, name := range slices.Sorted(maps.Keys(owned)) {
		secret := owned[name]
		c := metav1.GetControllerOf(secret)
		if name == request.Spec.Secret.Name || c == nil || c.UID != request.UID {
			continue
		}
		err := r.cfg.Client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}
