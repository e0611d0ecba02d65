package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/internal/events"
	"github.com/keyferry/keyferry/issuer"
)

// Reasons of conditions, besides those that the issuer gives when a TargetCluster does not resolve.
const (
	reasonIssued                 = "Issued"
	reasonNotTried               = "NotTried"
	reasonForbidden              = "Forbidden"
	reasonServiceAccountNotFound = "ServiceAccountNotFound"
	reasonTargetNotFound         = "TargetClusterNotFound"
	reasonLifeTooShort           = "LifeTooShort"

	reasonWritten            = "Written"
	reasonNothingToWrite     = "NothingToWrite"
	reasonEnded              = "CredentialEnded"
	reasonEdited             = "SecretEdited"
	reasonNamespaceNotServed = "NamespaceNotServed"
	reasonSecretConflict     = "SecretConflict"
	reasonSecretForbidden    = "SecretForbidden"
	reasonSecretRejected     = "SecretRejected"

	reasonReady = "Ready"
)

// finding is one condition's worth.
type finding struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

// outcome is what one look at a request brought.
type outcome struct {
	issued, written finding
	// revoked has a reason if something could not be revoked.
	revoked finding
	// held is what the Secret holds; nil if that is nothing that can be used.
	held        *stored.Credential
	revocations []v1alpha1.Revocation
}

func hasIssued(request *v1alpha1.CredentialRequest) finding {
	return finding{metav1.ConditionTrue, reasonIssued, fmt.Sprintf("a credential of TargetCluster %s/%s was issued for ServiceAccount %s",
		request.Spec.TargetCluster.Namespace, request.Spec.TargetCluster.Name, request.Spec.ServiceAccountName)}
}

func notTried(why string) finding { return finding{metav1.ConditionUnknown, reasonNotTried, why} }

// secretObstructed is for a Secret that cannot be written.
func secretObstructed() finding {
	return notTried("the Secret cannot be written, so nothing is issued")
}

// issueFailed says why there is no credential. Its message is the issuer's sentence.
func issueFailed(err error) finding {
	f := finding{metav1.ConditionFalse, issuer.FailureOf(err).Reason, err.Error()}
	if errors.Is(err, errNoTarget) {
		f.reason = reasonTargetNotFound
	}
	return f
}

// asItIs is what is to be said of a Secret that is left as it is.
func asItIs(existing *corev1.Secret, held *stored.Credential, now time.Time) finding {
	switch {
	case existing == nil:
		return finding{metav1.ConditionFalse, reasonNothingToWrite, "there is no credential to write"}
	case held == nil:
		return finding{metav1.ConditionFalse, reasonEdited, "the content of the Secret was changed, and there is no credential to write"}
	case !held.Alive(now):
		return finding{metav1.ConditionFalse, reasonEnded, "the credential in the Secret has expired, and there is no new credential"}
	}
	return finding{metav1.ConditionTrue, reasonWritten, "the Secret holds the credential"}
}

// nextStatus is the status of a request after a look at it.
func nextStatus(request *v1alpha1.CredentialRequest, o outcome, now time.Time) v1alpha1.CredentialRequestStatus {
	status := *request.Status.DeepCopy()
	status.ObservedGeneration = request.Generation
	status.Revocations = o.revocations
	status.Secret, status.IssuedAt, status.ExpirationTimestamp, status.RenewAt = "", nil, nil, nil
	if h := o.held; h != nil {
		status.Secret = request.Spec.Secret.Name
		status.IssuedAt, status.ExpirationTimestamp, status.RenewAt = &metav1.Time{Time: h.IssuedAt}, &metav1.Time{Time: h.NotAfter}, &metav1.Time{Time: h.RenewAt}
		if o.issued.status != metav1.ConditionTrue && h.Alive(now) {
			o.issued.message += "; the credential in the Secret expires at " + h.NotAfter.Format(time.RFC3339)
		}
	}
	for _, c := range []struct {
		kind string
		finding
	}{
		{v1alpha1.ConditionIssued, o.issued},
		{v1alpha1.ConditionSecretWritten, o.written},
		{v1alpha1.ConditionReady, sum(o.issued, o.written)},
	} {
		setCondition(&status, c.kind, request.Generation, c.finding, now)
	}
	setRevoked(&status, request.Generation, o.revoked, now)
	return status
}

// setRevoked sets the condition Revoked, or takes it away where there is nothing to tell.
func setRevoked(status *v1alpha1.CredentialRequestStatus, generation int64, f finding, now time.Time) {
	if f.reason == "" {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionRevoked)
		return
	}
	setCondition(status, v1alpha1.ConditionRevoked, generation, f, now)
}

func setCondition(status *v1alpha1.CredentialRequestStatus, kind string, generation int64, f finding, now time.Time) {
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type:               kind,
		Status:             f.status,
		Reason:             f.reason,
		Message:            events.Limit(f.message),
		ObservedGeneration: generation,
		LastTransitionTime: metav1.NewTime(now),
	})
}

// sum is the condition Ready.
func sum(findings ...finding) finding {
	for _, status := range []metav1.ConditionStatus{metav1.ConditionFalse, metav1.ConditionUnknown} {
		for _, f := range findings {
			if f.status == status {
				return f
			}
		}
	}
	return finding{metav1.ConditionTrue, reasonReady, "the Secret contains a credential, and Keyferry renews it"}
}

func isReady(conditions []metav1.Condition) bool {
	return meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionReady)
}

// tell tells metrics, log and Events what has changed; of a condition that stays as it is, nobody
// hears twice.
func (r *Requests) tell(ctx context.Context, request *v1alpha1.CredentialRequest, before, after v1alpha1.CredentialRequestStatus) {
	r.measures.set(request, after)
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionRevoked} {
		was, is := meta.FindStatusCondition(before.Conditions, kind), meta.FindStatusCondition(after.Conditions, kind)
		if is == nil || was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		event, reason := corev1.EventTypeWarning, is.Reason
		if is.Status == metav1.ConditionTrue {
			event = corev1.EventTypeNormal
			if was != nil {
				reason = v1alpha1.EventRecovered
			}
		}
		log.FromContext(ctx).Info("credential request changed", "condition", kind, "status", is.Status, "reason", is.Reason, "message", is.Message)
		r.cfg.Events.Eventf(request, nil, event, reason, "Keep", "%s", is.Message)
	}
}
