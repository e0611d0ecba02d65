package credentials

import (
	"context"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/internal/permission"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// issue has a credential issued, once it is certain that it may be, that it can be written and that it can be revoked. Where it cannot,
// it says why in o, and returns when to try again.
func (r *Requests) issue(ctx context.Context, request *v1alpha1.CredentialRequest, t target, existing *corev1.Secret, o *outcome) (*stored.Credential, time.Duration, error) {
	m := r.remembered(request)
	if a := m.failed; a != nil && a.generation == request.Generation && a.targetVersion == t.cluster.ResourceVersion && r.cfg.Now().Before(a.until) {
		o.issued, o.written = a.issued, asItIs(existing, o.held, r.cfg.Now())
		if a.written.reason != "" {
			o.written = a.written
		}
		return nil, a.until.Sub(r.cfg.Now()), nil
	}
	failed := func(issued finding, written *finding, cause error) (*stored.Credential, time.Duration, error) {
		again := r.nextTry(request, o.held, cause)
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

	if refusal, err := r.authorize(ctx, request, &t); err != nil {
		return nil, 0, err
	} else if refusal != nil {
		r.refused(request, refusal.reason, refusal.message)
		return failed(*refusal, nil, nil)
	}
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
		r.refused(request, finding.reason, finding.message)
		return failed(finding, nil, err)
	}
	m.failed = nil
	r.remember(request, m)
	o.issued = hasIssued(request)
	return h, 0, nil
}

// authorize asks whether the ServiceAccount may use the target, now; it tells why not. It fills in who the account is.
func (r *Requests) authorize(ctx context.Context, request *v1alpha1.CredentialRequest, t *target) (*finding, error) {
	account := &corev1.ServiceAccount{}
	err := r.cfg.Reader.Get(ctx, client.ObjectKey{Namespace: request.Namespace, Name: request.Spec.ServiceAccountName}, account)
	switch {
	case apierrors.IsNotFound(err):
		return &finding{metav1.ConditionFalse, reasonServiceAccountNotFound, fmt.Sprintf(
			"ServiceAccount %s/%s, which spec.serviceAccountName names, does not exist: create it", request.Namespace, request.Spec.ServiceAccountName)}, nil
	case apierrors.IsForbidden(err):
		return refusedBy(request, err), nil
	case err != nil:
		return nil, fmt.Errorf("reading ServiceAccount %s/%s: %w", request.Namespace, request.Spec.ServiceAccountName, err)
	}
	t.ask.Identity.ServiceAccountUID = string(account.UID)

	objects := []object{{"targetclusters", v1alpha1.GroupVersion.Group, client.ObjectKeyFromObject(t.cluster)}}
	if p := t.cluster.Spec.ClusterProfile; p != nil {
		objects = append(objects, object{"clusterprofiles", "multicluster.x-k8s.io", client.ObjectKey{Namespace: p.Namespace, Name: p.Name}})
	}
	for _, o := range objects {
		allowed, err := r.mayUse(ctx, t.ask.Identity, o)
		if err != nil {
			return nil, err
		}
		if !allowed {
			return &finding{metav1.ConditionFalse, reasonForbidden, fmt.Sprintf(
				"ServiceAccount %s/%s may not use %s %s: a Role with the verb \"use\" on %s.%s in namespace %s must be bound to it: %s",
				request.Namespace, request.Spec.ServiceAccountName, o.plural, o.name, o.plural, o.group, o.name.Namespace,
				permission.GrantCommand(schema.GroupResource{Group: o.group, Resource: o.plural}, o.name,
					client.ObjectKey{Namespace: request.Namespace, Name: request.Spec.ServiceAccountName}))}, nil
		}
	}
	return nil, nil
}

type object struct {
	plural, group string
	name          client.ObjectKey
}

func (r *Requests) mayUse(ctx context.Context, id providers.Identity, o object) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   id.String(),
		UID:    id.ServiceAccountUID,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + id.Namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb:      "use",
			Group:     o.group,
			Resource:  o.plural,
			Namespace: o.name.Namespace,
			Name:      o.name.Name,
		},
	}}
	if err := r.cfg.Client.Create(ctx, review); err != nil {
		return false, fmt.Errorf("having the access of ServiceAccount %s/%s reviewed: %w", id.Namespace, id.ServiceAccount, err)
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}

// note writes down what will end the credential, and holds the request until it has, before there is such a credential: so nothing is
// left behind, whenever the controller ends.
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
			"the credential lives for %s, and in a Secret it must for %s, because it gets to its user late: have the TargetCluster issue by TokenRequest, or use it from Pods by the annotation keyferry.dev/cluster",
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

// refused tells who was not.
func (r *Requests) refused(request *v1alpha1.CredentialRequest, reason, message string) {
	r.measures.issued.WithLabelValues("refused").Inc()
	r.cfg.Audit.Info("credential refused", append(auditFields(request, "refused"), "reason", reason, "message", message)...)
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
