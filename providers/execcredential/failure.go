package execcredential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/egress"
)

// A source's message is repeated to this length.
const maxMessage = 400

// failure tells from an answer that is none what kind of failure it is.
func (p *Provider) failure(resp *http.Response, body []byte) error {
	said := p.said(resp.StatusCode, body)
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: %s: %s: check %s, also the path of its url, and that %s has this API",
			providers.ErrNotFound, p.doing(), said, p.cfg.Field, p.cfg.Source)
	case code == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s: %s: %s", providers.ErrRefused, p.doing(), said, p.credentialsMend())
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return providers.Unavailable(p.retryAfter(resp.Header), fmt.Errorf("%s: %s", p.doing(), said))
	case code >= 300 && code < 400:
		return fmt.Errorf("%w: %s: it redirects, which is not followed: set %s.url to the address that it redirects to", providers.ErrRefused, p.doing(), p.cfg.Field)
	}
	return fmt.Errorf("%w: %s: %s", providers.ErrRefused, p.doing(), said)
}

func (p *Provider) credentialsMend() string {
	switch {
	case p.cfg.Secret == "":
		return "set " + p.cfg.Field + ".credentials"
	case p.credentials == credentials{}:
		return "add username and password, or token, to Secret " + p.cfg.Secret
	case p.credentials.token != "":
		return "renew the token in Secret " + p.cfg.Secret
	}
	return "check username and password in Secret " + p.cfg.Secret
}

// said is the code of an answer and the message in it, fit to be shown: short, in one line, without our credentials.
func (p *Provider) said(code int, body []byte) string {
	said := strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
		return said
	}
	return said + ": " + p.repeat(answer.Message)
}

func (p *Provider) repeat(text string) string {
	text = strings.Join(strings.FieldsFunc(p.credentials.hide(text), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// retryAfter reads the header of that name, which is a number of seconds or a date.
func (p *Provider) retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(p.cfg.Now()))
	}
	return 0
}

// unanswered is for errors below the API: the network, TLS, time.
func (p *Provider) unanswered(err error) error {
	if refused, ok := errors.AsType[*egress.AddressError](err); ok {
		return fmt.Errorf("%w: %s: %w", providers.ErrRefused, p.doing(), refused)
	}
	return providers.Unavailable(0, fmt.Errorf("%s: %s", p.doing(), p.why(err)))
}

// why is the reason of an error, the same each time that it is the same error.
func (p *Provider) why(err error) string {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // the URL is in what p is doing
	}
	mend := "check ca.crt in the Secret of " + p.cfg.Field + ".credentials, and the host of " + p.cfg.Field + ".url"
	var timeout net.Error
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Sprintf("its certificate is valid only from %s to %s",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return p.repeat(err.Error()) + ": " + mend
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &timeout) && timeout.Timeout() {
		return "gave up waiting for an answer"
	}
	return p.repeat(err.Error())
}
