package issuer

import (
	"context"
	"errors"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
)

// Reasons of a Failure on which callers decide.
const (
	ReasonRefused     = "Refused"
	ReasonUnavailable = "Unavailable"
)

// Failure is how conditions, metrics and the broker's answers report an error of an Issuer or of a
// Provider.
type Failure struct {
	// Reason is that of conditions; for a *resolve.InvalidError its own.
	Reason string
	// Outcome is the value of the metrics' label: one of few, and never text of the error.
	Outcome string
	// Code and Status are the HTTP status code and the reason of the broker's metav1.Status.
	Code   int
	Status metav1.StatusReason
}

// FailureOf returns the row of the table for an error. The first row that matches counts; an error
// in no row breaks the contract of Provider.
func FailureOf(err error) Failure {
	if invalid, ok := errors.AsType[*resolve.InvalidError](err); ok {
		return Failure{invalid.Reason, "invalid", http.StatusUnprocessableEntity, metav1.StatusReasonInvalid}
	}
	for _, row := range []struct {
		err error
		Failure
	}{
		{resolve.ErrSubjectToken, Failure{"SubjectTokenNeeded", "refused", http.StatusForbidden, metav1.StatusReasonForbidden}},
		{providers.ErrNotFound, Failure{"NotFound", "not_found", http.StatusNotFound, metav1.StatusReasonNotFound}},
		{verify.ErrRejected, Failure{"CredentialRejected", "rejected", http.StatusBadGateway, "ProviderRefused"}},
		{providers.ErrRefused, Failure{ReasonRefused, "refused", http.StatusBadGateway, "ProviderRefused"}},
		{providers.ErrUnavailable, Failure{ReasonUnavailable, "unavailable", http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable}},
		{context.DeadlineExceeded, Failure{ReasonUnavailable, "unavailable", http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable}},
	} {
		if errors.Is(err, row.err) {
			return row.Failure
		}
	}
	return Failure{"Failed", "failed", http.StatusInternalServerError, metav1.StatusReasonInternalError}
}
