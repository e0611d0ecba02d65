package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/events"
)

// release revokes the credentials of a request that is being deleted, and lets it go. Its Secret
// goes with it, as its dependent.
func (r *Requests) release(ctx context.Context, request *v1alpha1.CredentialRequest) (v1alpha1.CredentialRequestStatus, time.Duration, error) {
	after := *request.Status.DeepCopy()
	if !controllerutil.ContainsFinalizer(request, v1alpha1.FinalizerRevocation) {
		return request.Status, 0, nil
	}
	left, revoked := r.revokeLeft(ctx, request, leave(after.Revocations, v1alpha1.Revocation{}, request.DeletionTimestamp.Time))
	if len(left) > 0 {
		after.Revocations = left
		setRevoked(&after, request.Generation, revoked, r.cfg.Now())
		return after, r.nextTry(request, nil, nil), nil
	}
	before := request.DeepCopy()
	controllerutil.RemoveFinalizer(request, v1alpha1.FinalizerRevocation)
	err := r.cfg.Client.Patch(ctx, request, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return request.Status, 0, err
}

// revokeLeft revokes what is no longer used, and returns the list without what is settled: revoked,
// or given up. If something is left to be revoked, a finding tells why.
func (r *Requests) revokeLeft(ctx context.Context, request *v1alpha1.CredentialRequest, list []v1alpha1.Revocation) ([]v1alpha1.Revocation, finding) {
	var rest []v1alpha1.Revocation
	var why finding
	for _, revocation := range list {
		if revocation.Since == nil {
			rest = append(rest, revocation)
			continue
		}
		err := r.revoke(ctx, request, revocation)
		where := fmt.Sprintf("%s in the target of TargetCluster %s/%s", revocation.Handle, revocation.TargetCluster.Namespace, revocation.TargetCluster.Name)
		deadline := revocation.Since.Add(r.cfg.RevocationTimeout)
		switch {
		case err == nil:
			log.FromContext(ctx).Info("credential revoked", "targetCluster", revocation.TargetCluster.Namespace+"/"+revocation.TargetCluster.Name, "handle", revocation.Handle)
		case errors.Is(err, errNoTarget), !r.cfg.Now().Before(deadline):
			r.cfg.Events.Eventf(request, nil, corev1.EventTypeWarning, v1alpha1.EventRevocationGivenUp, "Revoke", "%s", events.Limit(fmt.Sprintf(
				"The last credential could not be revoked: delete %s, or wait until the credential expires: %v", where, err)))
		default:
			rest = append(rest, revocation)
			why = finding{metav1.ConditionFalse, issueFailed(err).reason, fmt.Sprintf(
				"a credential that is no longer used could not be revoked: Keyferry tries again until %s, then you have to delete %s: %v", deadline.UTC().Format(time.RFC3339), where, err)}
		}
	}
	return rest, why
}

func (r *Requests) revoke(ctx context.Context, request *v1alpha1.CredentialRequest, revocation v1alpha1.Revocation) error {
	cluster, err := r.cluster(ctx, client.ObjectKey{Namespace: revocation.TargetCluster.Namespace, Name: revocation.TargetCluster.Name})
	if err != nil {
		return err
	}
	resolution, err := r.resolve(ctx, cluster)
	if err != nil {
		return err
	}
	return resolution.Revoke(ctx, asked(request, revocation.ServiceAccountName), revocation.Handle)
}
