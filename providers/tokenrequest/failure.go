package tokenrequest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
)

// A target's message is repeated to this length.
const maxMessage = 400

// failing says what could not be done, and the fixes.
type failing struct {
	doing string
	// needs is the right that doing takes.
	needs string
	// missing is the fix where something is not found.
	missing string
}

// failure tells from an error of the API client what kind of failure it is.
func (c *client) failure(err error, f failing) error {
	where := f.doing + " at " + c.endpoint.Server
	status, answered := errors.AsType[*apierrors.StatusError](err)
	if !answered {
		return c.unanswered(err, where)
	}
	message := c.repeat(status.Status().Message)
	switch code := int(status.Status().Code); {
	case code == http.StatusNotFound && knowsResource(status.Status()):
		return fmt.Errorf("%w: %s: %s", providers.ErrNotFound, where, f.missing)
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: %s: the server does not have the Kubernetes API: check its address and path", providers.ErrNotFound, where)
	case code == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s: %w", providers.ErrRefused, where, errUnauthorized)
	case code == http.StatusForbidden:
		return fmt.Errorf("%w: %s: %s: the access credential needs the permission %s", providers.ErrRefused, where, message, f.needs)
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return providers.Unavailable(retryAfter(err), fmt.Errorf("%s: %s", where, message))
	case code >= 300 && code < 400:
		return fmt.Errorf("%w: %s: the server redirects, and Keyferry follows no redirects: use the address to which it redirects", providers.ErrRefused, where)
	}
	return fmt.Errorf("%w: %s: %s", providers.ErrRefused, where, message)
}

// unanswered is for errors below the API: the network, TLS, time.
func (c *client) unanswered(err error, where string) error {
	if refused, ok := errors.AsType[*endpoint.AddressError](err); ok {
		return fmt.Errorf("%w: %s: %w", providers.ErrRefused, where, refused)
	}
	why := "there was no answer that can be read" // the decoder says more, but may quote the answer
	if failed, ok := errors.AsType[*url.Error](err); ok {
		why = c.repeat(failed.Err.Error())
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		why = "gave up waiting"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		why += ": check that the certificate authority is this server's, and the server's name"
	}
	return providers.Unavailable(0, fmt.Errorf("%s: %s", where, why))
}

// repeat makes of another's text one that can be shown: short, in one line, and without the access
// token, which a target could send back.
func (c *client) repeat(text string) string {
	if c.access.Token != "" {
		text = strings.ReplaceAll(text, c.access.Token, "[credential]")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

func retryAfter(err error) time.Duration {
	seconds, ok := apierrors.SuggestsClientDelay(err)
	if !ok || seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// isNotFound reports whether err says that an object of this resource is missing, and not another
// one or the API.
func isNotFound(err error, resource string) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || status.Status().Reason != metav1.StatusReasonNotFound {
		return false
	}
	details := status.Status().Details
	return details != nil && details.Kind == resource && details.Name != ""
}

// knowsResource reports whether a 404 is about an object, rather than about a path that the server
// does not know.
func knowsResource(status metav1.Status) bool {
	return status.Details != nil && status.Details.Name != "" && !hasUnexpectedResponse(status.Details)
}

// hasUnexpectedResponse: the client made up the status, for an answer that was none.
func hasUnexpectedResponse(details *metav1.StatusDetails) bool {
	for _, cause := range details.Causes {
		if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
			return true
		}
	}
	return false
}
