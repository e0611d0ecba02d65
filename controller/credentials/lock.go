package credentials

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// access is what a lock may deny a request.
func (r *Requests) access(ctx context.Context, request *v1alpha1.CredentialRequest) locks.Access {
	access := locks.Access{
		ServiceAccount: types.NamespacedName{Namespace: request.Namespace, Name: request.Spec.ServiceAccountName},
		Objects:        []use.Object{use.TargetCluster(targetName(request))},
	}
	cluster := &v1alpha1.TargetCluster{}
	if r.cfg.Client.Get(ctx, targetName(request), cluster) == nil {
		access.Objects = use.Of(cluster)
	}
	return access
}

// concerned returns the requests to which a Lock or ClusterLock applies, whether it has expired or
// not.
func (r *Requests) concerned(ctx context.Context, object client.Object) []reconcile.Request {
	var lock locks.Lock
	switch o := object.(type) {
	case *v1alpha1.Lock:
		lock = locks.Of(o)
	case *v1alpha1.ClusterLock:
		lock = locks.OfCluster(o)
	default:
		return nil
	}
	var list v1alpha1.CredentialRequestList
	if err := r.cfg.Client.List(ctx, &list); err != nil {
		log.FromContext(ctx).Error(err, "cannot list the CredentialRequests that a lock denies", "lock", lock.String())
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if request := &list.Items[i]; lock.Concerns(r.access(ctx, request)) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(request)})
		}
	}
	return requests
}

// lock withholds the Secrets of a locked request, and returns when to reconcile it again. Its
// credentials are revoked in the target, if they can be, and are never written again. obstacle is
// why the Secret that the request names cannot be read or is not the request's; nil if there is
// nothing. An error of one Secret does not keep the others, or the credentials in the target.
func (r *Requests) lock(
	ctx context.Context, request *v1alpha1.CredentialRequest, lock *locks.Lock, access locks.Access, secrets map[string]*corev1.Secret, obstacle *finding, o *outcome,
) time.Duration {
	now := r.cfg.Now()
	m := r.remembered(request)
	r.remember(request, memory{version: m.version, review: m.review})
	o.revocations = leave(o.revocations, v1alpha1.Revocation{}, now)
	withheld := 0
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		switch changed, err := r.withhold(ctx, secrets[name]); {
		case err != nil:
			problems = append(problems, fmt.Errorf("deleting the credential in Secret %s/%s: %w", request.Namespace, name, err))
		case changed:
			withheld++
		}
	}
	o.issued = finding{metav1.ConditionFalse, v1alpha1.ReasonLocked, lock.Denial()}
	o.written = finding{metav1.ConditionFalse, v1alpha1.ReasonLocked, "no Secret holds a credential: the controller writes one when no lock denies it"}
	if obstacle != nil {
		o.written = *obstacle
	}
	// Without the right to use the target, users do not find out that there is a lock: the conditions
	// are the same as without it.
	_, refusal, err := r.authorize(ctx, request, now.Add(-reviewLasts), access.Objects...)
	switch {
	case err != nil && obstacle != nil:
		o.issued = secretObstructed()
	case errors.Is(err, errForbidden):
		o.issued, o.written = refusal, asItIs(nil, nil, now)
	case err != nil:
		o.issued, o.written = notTried(err.Error()), asItIs(nil, nil, now)
		problems = append(problems, err)
	}
	if c := meta.FindStatusCondition(request.Status.Conditions, v1alpha1.ConditionIssued); withheld > 0 || c == nil || c.Reason != o.issued.reason {
		r.auditLocked(request, lock.Denial())
	}
	next := resync
	if err := errors.Join(problems...); err != nil {
		log.FromContext(ctx).Error(err, "cannot delete all that a lock denies", "lock", lock.String())
		if o.written.reason == v1alpha1.ReasonLocked {
			o.written.message = "a Secret still holds a credential: " + err.Error()
		}
		next = min(next, r.nextTry(request, nil, nil))
	}
	if lock.ExpirationTimestamp != nil {
		next = min(next, lock.ExpirationTimestamp.Sub(now))
	}
	return next
}

// withhold deletes the Secret of a locked request, or the credential in the Secret if it is Argo
// CD's. If the Secret has finalizers, it exists for longer, so withhold removes its data first. It
// reports whether the Secret held data that it does not hold any more.
func (r *Requests) withhold(ctx context.Context, secret *corev1.Secret) (bool, error) {
	data := stored.Withheld(secret)
	keep := data != nil && secret.DeletionTimestamp.IsZero()
	if !keep {
		data = nil
	}
	changed := !maps.EqualFunc(data, secret.Data, bytes.Equal)
	if changed && (keep || len(secret.Finalizers) > 0) {
		secret = secret.DeepCopy()
		secret.Data = data
		if err := r.cfg.Client.Update(ctx, secret); err != nil {
			return false, client.IgnoreNotFound(err)
		}
	}
	if keep || !secret.DeletionTimestamp.IsZero() {
		return changed, nil
	}
	err := r.cfg.Client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
	return err == nil, client.IgnoreNotFound(err)
}

// auditLocked records that a lock took the credential of a request.
func (r *Requests) auditLocked(request *v1alpha1.CredentialRequest, message string) {
	r.measures.issued.WithLabelValues("locked").Inc()
	r.cfg.Audit.Info("credential locked", append(auditFields(request, "locked"), "reason", v1alpha1.ReasonLocked, "message", message)...)
}
