// Package failure says how it failed to ask a provider over HTTP: as errors of package providers,
// in words that can be shown.
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

// A provider's message is repeated to this length.
const maxMessage = 400

// jwt is what every JSON Web Token looks like, those that a library has made for us among them.
var jwt = regexp.MustCompile(`eyJ[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]*){1,2}`)

// Show makes what a provider said fit to be shown: without the secrets and anything that looks like
// a JWT, in one line, and short.
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

// Status is an HTTP status code as messages show it.
func Status(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// Passing reports whether a provider that answers with the code may answer otherwise later, without
// anybody doing anything.
func Passing(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500
}

// RetryAfter reads the header of that name, which is a number of seconds or a date.
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

// Unanswered is for errors below HTTP: the network, TLS, time. The text is the same each time that
// the error is the same. It begins with doing; mend is what to do if the provider's certificate is
// not trusted.
func Unanswered(doing, mend string, err error, secrets ...string) error {
	if refused, ok := errors.AsType[*endpoint.AddressError](err); ok {
		return fmt.Errorf("%w: %s: %w", providers.ErrRefused, doing, refused)
	}
	return providers.Unavailable(0, fmt.Errorf("%s: %s", doing, why(err, mend, secrets)))
}

func why(err error, mend string, secrets []string) string {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // the URL is in what is being done
	}
	var timeout net.Error
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Sprintf("its certificate is valid only from %s to %s",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return Show(err.Error(), secrets...) + ": " + mend
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &timeout) && timeout.Timeout() {
		return "gave up waiting for an answer"
	}
	return Show(err.Error(), secrets...)
}
