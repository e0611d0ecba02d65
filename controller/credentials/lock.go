package credentials

import (
	"context"
	"errors"
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
		log.FromContext(ctx).Error(err, "cannot list the requests that a lock concerns", "lock", lock.String())
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

// lock deletes the Secrets of a locked request, and returns when to reconcile it again. Its
// credentials are revoked in the target, if they can be, and are never written again.
func (r *Requests) lock(
	ctx context.Context, request *v1alpha1.CredentialRequest, lock *locks.Lock, access locks.Access, owned map[string]*corev1.Secret, o *outcome,
) (time.Duration, error) {
	now := r.cfg.Now()
	m := r.remembered(request)
	r.remember(request, memory{version: m.version, review: m.review})
	for _, name := range slices.Sorted(maps.Keys(owned)) {
		secret := owned[name]
		err := r.cfg.Client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			return 0, err
		}
	}
	o.revocations = leave(o.revocations, v1alpha1.Revocation{}, now)
	o.issued = finding{metav1.ConditionFalse, v1alpha1.ReasonLocked, lock.Denial()}
	// Without the right to use the target, users do not learn that it is locked.
	switch _, refusal, err := r.authorize(ctx, request, now.Add(-reviewLasts), access.Objects...); {
	case errors.Is(err, errForbidden):
		o.issued = refusal
	case err != nil:
		return 0, err
	}
	o.written = finding{metav1.ConditionFalse, o.issued.reason, "the Secret was deleted"}
	if c := meta.FindStatusCondition(request.Status.Conditions, v1alpha1.ConditionIssued); c == nil || c.Reason != o.issued.reason {
		r.auditLocked(request, lock.Denial())
	}
	if lock.ExpirationTimestamp == nil {
		return resync, nil
	}
	return min(resync, lock.ExpirationTimestamp.Sub(now)), nil
}

// auditLocked records that a lock took the credential of a request.
func (r *Requests) auditLocked(request *v1alpha1.CredentialRequest, message string) {
	r.measures.issued.WithLabelValues("locked").Inc()
	r.cfg.Audit.Info("credential locked", append(auditFields(request, "locked"), "reason", v1alpha1.ReasonLocked, "message", message)...)
}
