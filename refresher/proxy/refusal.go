package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"
)

// refusal is an error response of the proxy itself. Clients show its message to users, like that of
// an API server.
type refusal struct {
	code    int
	reason  string // of a metav1.Status; may be empty
	message string
	// retry makes clients send the same request again. Most clients do not show the message before
	// they give up, so it is only for errors that end within a moment.
	retry bool
	// retryAfter tells users when the same request may succeed; zero if it is not known.
	retryAfter time.Duration
}

// sidecar tells users where to find more information.
const sidecar = "container keyferry-refresher of this Pod"

// Requests that are rejected without contacting the target.
var (
	unauthenticated = refusal{code: http.StatusUnauthorized, reason: "Unauthorized",
		message: "the proxy in " + sidecar + " takes exactly one token, the one in /var/run/secrets/kubernetes.io/serviceaccount/token"}
	notAForwardProxy = refusal{code: http.StatusBadRequest, reason: "BadRequest",
		message: "the proxy in " + sidecar + " leads to the Pod's target cluster only: ask for a path, and exclude 127.0.0.1 from the client's proxy settings"}
	dotSegments = refusal{code: http.StatusBadRequest, reason: "BadRequest",
		message: "the proxy in " + sidecar + ` forwards no paths with the segments "." and "..": send the path that they come to`}
)

// explain returns the response to an error of forwarding a request.
func explain(err error) refusal {
	var network net.Error
	var none noCredentialError
	switch {
	case errors.As(err, &none):
		return refusal{code: http.StatusServiceUnavailable, reason: "ServiceUnavailable", message: err.Error() + " (see the log of " + sidecar + ")",
			retry: !none.problem.Refused, retryAfter: max(time.Until(none.problem.RetryAt), 0)}
	case errors.Is(err, context.Canceled):
		return refusal{code: http.StatusBadGateway, message: "the request was cancelled"} // the client has disconnected
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return refusal{code: http.StatusGatewayTimeout, reason: "Timeout", message: "the target cluster does not answer in time: " + err.Error()}
	default:
		return refusal{code: http.StatusBadGateway, message: "the target cluster cannot be reached: " + err.Error()}
	}
}

// write answers with a metav1.Status.
func (r refusal) write(w http.ResponseWriter) {
	status := map[string]any{
		"apiVersion": "v1", "kind": "Status", "metadata": struct{}{}, "status": "Failure",
		"code": r.code, "reason": r.reason, "message": r.message,
	}
	if r.retryAfter > 0 {
		status["details"] = map[string]any{"retryAfterSeconds": int(r.retryAfter.Seconds()) + 1}
	}
	body, err := json.Marshal(status)
	if err != nil {
		panic(err) // strings and numbers only
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	if r.code == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if r.retry {
		header.Set("Retry-After", "1")
	}
	w.WriteHeader(r.code)
	_, _ = w.Write(body) // an error means that the client has disconnected
}
