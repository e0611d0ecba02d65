package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// issue has a credential issued, once it is certain that it may be, that it can be written and that
// it can be revoked. Where it cannot, it says why in o, and returns when to try again. A right that
// was reviewed before began is reviewed again.
func (r *Requests) issue(
	ctx context.Context, request *v1alpha1.CredentialRequest, t target, existing *corev1.Secret, o *outcome, began time.Time,
) (*stored.Credential, time.Duration, error) {
	if a := r.remembered(request).failed; a != nil && a.generation == request.Generation && a.targetVersion == t.cluster.ResourceVersion && r.cfg.Now().Before(a.until) {
		o.issued, o.written = a.issued, asItIs(existing, o.held, r.cfg.Now())
		if a.written.reason != "" {
			o.written = a.written
		}
		return nil, a.until.Sub(r.cfg.Now()), nil
	}
	failed := func(issued finding, written *finding, cause error) (*stored.Credential, time.Duration, error) {
		again := r.nextTry(request, o.held, cause)
		m := r.remembered(request)
		m.failed = &attempt{
			generation: request.Generation, targetVersion: t.cluster.ResourceVersion, until: r.cfg.Now().Add(again),
			issued: issued, written: *orNone(written),
		}
		r.remember(request, m)
		o.issued, o.written = issued, asItIs(existing, o.held, r.cfg.Now())
		if written != nil {
			o.written = *written
		}
		return nil, again, nil
	}

	account, refusal, err := r.authorize(ctx, request, began, use.Of(t.cluster)...)
	if errors.Is(err, errForbidden) {
		return nil, r.refuse(request, o, existing, refusal), nil
	} else if err != nil {
		return nil, 0, err
	}
	t.ask.Identity.ServiceAccountUID = account
	placeholder := &stored.Credential{Data: map[string][]byte{}}
	if obstacle, err := r.send(ctx, request, existing, stored.Desired(existing, request, placeholder), client.DryRunAll); err != nil {
		return nil, 0, err
	} else if obstacle != nil {
		return failed(notTried("the Secret cannot be written, so nothing is issued"), obstacle, nil)
	}
	revocation := t.revocation(request)
	if err := r.note(ctx, request, revocation); err != nil {
		return nil, 0, err
	}
	o.revocations = request.Status.Revocations

	h, err := r.mint(ctx, request, t)
	if err != nil {
		finding := issueFailed(err)
		r.auditRefusal(request, finding)
		return failed(finding, nil, err)
	}
	m := r.remembered(request)
	m.failed = nil
	r.remember(request, m)
	o.issued = hasIssued(request)
	return h, 0, nil
}

// note writes down what will end the credential, and holds the request until it has, before there
// is such a credential: so nothing is left behind, whenever the controller ends.
func (r *Requests) note(ctx context.Context, request *v1alpha1.CredentialRequest, revocation v1alpha1.Revocation) error {
	if revocation.Handle == "" {
		return nil
	}
	if before := request.DeepCopy(); controllerutil.AddFinalizer(request, v1alpha1.FinalizerRevocation) {
		if err := r.cfg.Client.Patch(ctx, request, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return err
		}
	}
	list, changed := claim(request.Status.Revocations, revocation)
	if !changed {
		return nil
	}
	request.Status.Revocations = list
	return r.cfg.Client.Status().Update(ctx, request)
}

// mint gets a credential and puts it into its form.
func (r *Requests) mint(ctx context.Context, request *v1alpha1.CredentialRequest, t target) (*stored.Credential, error) {
	issued, err := r.cfg.Issuer.Fresh(ctx, t.cluster, t.resolution, t.ask)
	if err != nil {
		return nil, err
	}
	now := r.cfg.Now()
	r.audit(request, issued)
	if why := stored.Obstacle(request.Spec.Type, issued.Endpoint, len(issued.ClientCertificate) > 0); why != "" {
		return nil, &resolve.InvalidError{Reason: v1alpha1.ReasonNotExpressible, Message: cannotExpress(request, why)}
	}
	life := stored.LifeOf(issued.Credential, now)
	if !stored.LongEnough(life) {
		return nil, &resolve.InvalidError{Reason: reasonLifeTooShort, Message: fmt.Sprintf(
			"the lifetime of the credential is %s, but in a Secret it must be at least %s: use a TargetCluster with issue type TokenRequest, or the annotation keyferry.dev/cluster in Pods",
			life.Round(time.Second), stored.ShortestLife)}
	}
	data, err := stored.Form(request, issued)
	if err != nil {
		return nil, &resolve.InvalidError{Reason: v1alpha1.ReasonNotExpressible, Message: err.Error()}
	}
	issuedAt := now.UTC().Truncate(time.Second)
	h := &stored.Credential{Data: data, Record: stored.Record{
		Source:   t.source,
		IssuedAt: issuedAt,
		NotAfter: issuedAt.Add(life),
		RenewAt:  issuedAt.Add(stored.RenewAfter(life, r.cfg.MaxLife, r.cfg.Chance())).Truncate(time.Second),
	}}
	if longest := issuedAt.Add(r.cfg.MaxLife); r.cfg.MaxLife > 0 && longest.Before(h.NotAfter) {
		h.NotAfter = longest
	}
	h.NotAfter = h.NotAfter.Truncate(time.Second)
	return h, nil
}

// audit tells who was given what.
func (r *Requests) audit(request *v1alpha1.CredentialRequest, issued issuer.Issued) {
	r.measures.issued.WithLabelValues("issued").Inc()
	r.cfg.Audit.Info("credential issued", append(auditFields(request, "issued"),
		"notAfter", issued.NotAfter.UTC().Format(time.RFC3339), "credentialID", issued.ID)...)
}

// auditRefusal records who was given no credential.
func (r *Requests) auditRefusal(request *v1alpha1.CredentialRequest, why finding) {
	r.measures.issued.WithLabelValues("refused").Inc()
	r.cfg.Audit.Info("credential refused", append(auditFields(request, "refused"), "reason", why.reason, "message", why.message)...)
}

func auditFields(request *v1alpha1.CredentialRequest, result string) []any {
	return []any{
		"outcome", result,
		"namespace", request.Namespace,
		"serviceAccount", request.Spec.ServiceAccountName,
		"credentialRequest", request.Namespace + "/" + request.Name,
		"targetCluster", request.Spec.TargetCluster.Namespace + "/" + request.Spec.TargetCluster.Name,
		"secret", request.Namespace + "/" + request.Spec.Secret.Name,
	}
}
