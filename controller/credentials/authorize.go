package credentials

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
)

var (
	// errForbidden reports that the ServiceAccount may not use the target, or does not exist.
	errForbidden = errors.New("the ServiceAccount may not use the target")
	// errReview reports that the API server of this cluster could not review its rights.
	errReview = errors.New("the API server could not review the permissions of the ServiceAccount")
)

// review is what the API server answered about a request's ServiceAccount.
type review struct {
	at         time.Time
	generation int64
	// account is the UID of the ServiceAccount.
	account string
	// allowed is what it may use.
	allowed []use.Object
}

// authorize checks that the request's ServiceAccount exists and may use the objects, and returns
// its UID. Answers of the API server since that time count. The error is errForbidden, with a
// finding, or errReview. The finding is the same whether an object exists or not.
func (r *Requests) authorize(ctx context.Context, request *v1alpha1.CredentialRequest, since time.Time, objects ...use.Object) (string, finding, error) {
	m := r.remembered(request)
	known := m.review
	m.review = review{}
	r.remember(request, m) // so a refusal or an error leaves nothing
	account := client.ObjectKey{Namespace: request.Namespace, Name: request.Spec.ServiceAccountName}
	if known.generation != request.Generation || known.at.Before(since) {
		known = review{at: r.cfg.Now(), generation: request.Generation}
		found := &corev1.ServiceAccount{}
		err := r.cfg.Reader.Get(ctx, account, found)
		switch {
		case apierrors.IsNotFound(err):
			return "", finding{metav1.ConditionFalse, reasonServiceAccountNotFound, fmt.Sprintf(
				"ServiceAccount %s, which is set in spec.serviceAccountName, does not exist: create it", account)}, errForbidden
		case apierrors.IsForbidden(err):
			return "", *refusedBy(request, err), errForbidden
		case err != nil:
			return "", finding{}, fmt.Errorf("%w: reading ServiceAccount %s: %w", errReview, account, err)
		}
		known.account = string(found.UID)
	}
	for _, o := range objects {
		if slices.Contains(known.allowed, o) {
			continue
		}
		allowed, err := use.Allowed(ctx, r.cfg.Client, account, known.account, o)
		if err != nil {
			return "", finding{}, fmt.Errorf("%w: %w", errReview, err)
		}
		if !allowed {
			return "", finding{metav1.ConditionFalse, reasonForbidden, use.Denial(account, o)}, errForbidden
		}
		known.allowed = append(slices.Clone(known.allowed), o)
	}
	m.review, m.refused = known, nil
	r.remember(request, m)
	return known.account, finding{}, nil
}

// refuse audits that the ServiceAccount may not use the target, and returns when to review that
// again. The Secret stays as it is.
func (r *Requests) refuse(request *v1alpha1.CredentialRequest, o *outcome, existing *corev1.Secret, why finding) time.Duration {
	r.auditRefusal(request, why)
	again := r.nextTry(request, o.held, nil)
	m := r.remembered(request)
	m.refused = &attempt{generation: request.Generation, until: r.cfg.Now().Add(again), issued: why}
	r.remember(request, m)
	o.issued, o.written = why, asItIs(existing, o.held, r.cfg.Now())
	return again
}
