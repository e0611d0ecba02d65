package broker

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// defaultRetryAfter is sent if the provider returned no time.
const defaultRetryAfter = 5 * time.Second

// statusError is a response without a credential. Its message is for the user: the refresher writes
// it to the termination message of its container, which `kubectl describe pod` shows.
type statusError struct {
	code    int
	reason  metav1.StatusReason
	message string
	// detail is a more specific reason for audit and details.causes; optional.
	detail     string
	retryAfter time.Duration
	// quiet skips the audit line, so that a client that exceeds its rate limit cannot flood the audit.
	quiet bool
	// cause is only for the operator's log.
	cause error
	// of is the object in the request's path, if it is known.
	of use.Object
}

func (r *statusError) Error() string { return r.message }
func (r *statusError) Unwrap() error { return r.cause }

// auditReason returns the most specific reason.
func (r *statusError) auditReason() string {
	if r.detail != "" {
		return r.detail
	}
	return string(r.reason)
}

func badRequest(message string) *statusError {
	return &statusError{code: http.StatusBadRequest, reason: metav1.StatusReasonBadRequest, message: message}
}

func unauthorized(message string) *statusError {
	return &statusError{code: http.StatusUnauthorized, reason: metav1.StatusReasonUnauthorized, message: message}
}

func forbidden(detail, message string) *statusError {
	return &statusError{code: http.StatusForbidden, reason: metav1.StatusReasonForbidden, detail: detail, message: message}
}

// locked is the error for an access that a Lock or ClusterLock denies. No other error has this
// status code, so clients can distinguish a lock from a missing permission.
func locked(message string) *statusError {
	return &statusError{code: http.StatusLocked, reason: metav1.StatusReasonForbidden, detail: v1alpha1.ReasonLocked, message: message}
}

func noSuchPath() *statusError {
	return &statusError{code: http.StatusNotFound, reason: metav1.StatusReasonNotFound, message: "no such path: this version of the broker serves POST /v1/namespaces/NAMESPACE/targetclusters/NAME/credential, and the same path with clusterprofiles"}
}

func methodNotAllowed() *statusError {
	return &statusError{code: http.StatusMethodNotAllowed, reason: metav1.StatusReasonMethodNotAllowed, message: "use POST to request a credential"}
}

func tooLarge() *statusError {
	return &statusError{code: http.StatusRequestEntityTooLarge, reason: metav1.StatusReasonRequestEntityTooLarge, message: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
}

// tooMany is the error for a client that exceeds its rate limit. Only the first of several in a row
// is audited.
func tooMany(message string, wait time.Duration, again bool) *statusError {
	return &statusError{code: http.StatusTooManyRequests, reason: metav1.StatusReasonTooManyRequests, message: message, retryAfter: wait, quiet: again}
}

func unsupportedMediaType(got string) *statusError {
	return &statusError{code: http.StatusUnsupportedMediaType, reason: metav1.StatusReasonUnsupportedMediaType, message: fmt.Sprintf("the body must be application/json, not %q", got)}
}

// unavailable is the error if a dependency of the broker fails. Only the operator's log contains
// the cause.
func unavailable(message string, cause error) *statusError {
	return &statusError{code: http.StatusServiceUnavailable, reason: metav1.StatusReasonServiceUnavailable, message: message, retryAfter: defaultRetryAfter, cause: cause}
}

// refusalFor returns the response to an error of the broker or the issuer.
func refusalFor(err error, asked use.Object) *statusError {
	if refused, ok := errors.AsType[*statusError](err); ok {
		refused.of = asked
		return refused
	}
	failure := issuer.FailureOf(err)
	refused := &statusError{code: failure.Code, reason: failure.Status, message: err.Error(), of: asked}
	switch failure.Code {
	case http.StatusForbidden, http.StatusUnprocessableEntity:
		refused.detail = failure.Reason
	case http.StatusServiceUnavailable:
		refused.retryAfter = cmp.Or(max(providers.RetryAfter(err), 0), defaultRetryAfter)
		if !errors.Is(err, providers.ErrUnavailable) {
			refused.message, refused.cause = fmt.Sprintf("%s did not return a credential within %s", asked, requestTimeout), err
		}
	case http.StatusInternalServerError:
		refused.message, refused.cause = "the broker failed to issue a credential of "+asked.String()+"; see its log", err
	}
	return refused
}

// write writes the response as a metav1.Status.
func (r *statusError) write(w http.ResponseWriter) {
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure,
		Code:     int32(r.code), //nolint:gosec // an HTTP status code
		Reason:   r.reason,
		Message:  r.message,
	}
	if r.detail != "" || r.retryAfter > 0 {
		status.Details = &metav1.StatusDetails{Group: r.of.Resource.Group, Kind: r.of.Resource.Resource, RetryAfterSeconds: r.retrySeconds()}
	}
	if r.detail != "" {
		status.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseType(r.detail), Message: r.message}}
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Type", "application/json")
	if r.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(r.retrySeconds())))
	}
	if r.code == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="keyferry"`)
	}
	w.WriteHeader(r.code)
	// An error means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(status)
}

// retrySeconds returns retryAfter in seconds, rounded up: an earlier request would fail again.
func (r *statusError) retrySeconds() int32 {
	return int32(math.Ceil(min(r.retryAfter, time.Hour).Seconds()))
}
