// Package failure turns failed HTTP requests to providers into errors of package providers, with
// messages that contain no secrets.
package failure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
)

// maxMessage limits the length of a provider's message.
const maxMessage = 400

// jwt matches JSON Web Tokens, including those that a library created.
var jwt = regexp.MustCompile(`eyJ[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]*){1,2}`)

// Show returns a provider's message for users: without secrets and JWTs, in one line, and
// shortened.
func Show(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[credential]")
		}
	}
	text = jwt.ReplaceAllLiteralString(text, "[credential]")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// Status returns an HTTP status code for messages.
func Status(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// Passing reports whether a provider that returned the code may return another one later by itself.
func Passing(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500
}

// RetryAfter parses the header Retry-After, which is a number of seconds or a date.
func RetryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}

// Unanswered returns an error for a failure below HTTP, such as a network, TLS or timeout error.
// The text is the same for each occurrence of the same error. It begins with doing, and ends with
// fix if the provider's certificate is not trusted.
func Unanswered(doing, fix string, err error, secrets ...string) error {
	if refused, ok := errors.AsType[*endpoint.AddressError](err); ok {
		return fmt.Errorf("%w: %s: %w", providers.ErrRefused, doing, refused)
	}
	return providers.Unavailable(0, fmt.Errorf("%s: %s", doing, why(err, fix, secrets)))
}

func why(err error, fix string, secrets []string) string {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // doing contains the URL
	}
	var timeout net.Error
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Sprintf("the server's certificate is valid only from %s to %s",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return Show(err.Error(), secrets...) + ": " + fix
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &timeout) && timeout.Timeout() {
		return "gave up waiting for an answer"
	}
	return Show(err.Error(), secrets...)
}
