package tokenapi

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/keyferry/keyferry/internal/failure"
	"github.com/keyferry/keyferry/providers"
)

// failure tells from an answer that is none what kind of failure it is.
func (p *Provider) failure(resp *http.Response, body []byte) error {
	said := p.said(resp.StatusCode, body)
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: %s: %s: check %s and the path of its url, and check that %s has this API",
			providers.ErrNotFound, p.doing(), said, p.cfg.Field, p.cfg.Name)
	case code == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s: %s: %s", providers.ErrRefused, p.doing(), said, p.credentialsMend())
	case failure.Passing(code):
		return providers.Unavailable(failure.RetryAfter(resp.Header, p.cfg.Now()), fmt.Errorf("%s: %s", p.doing(), said))
	case code >= 300 && code < 400:
		return fmt.Errorf("%w: %s: the server redirects, and Keyferry follows no redirects: set %s.url to the address to which the server redirects", providers.ErrRefused, p.doing(), p.cfg.Field)
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

// said is the code of an answer and the message in it, fit to be shown.
func (p *Provider) said(code int, body []byte) string {
	said := failure.Status(code)
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
		return said
	}
	return said + ": " + failure.Show(answer.Message, p.credentials.secrets()...)
}

// unanswered is for errors below the API: the network, TLS, time.
func (p *Provider) unanswered(err error) error {
	fix := "check ca.crt in the Secret of " + p.cfg.Field + ".credentials, and the host of " + p.cfg.Field + ".url"
	return failure.Unanswered(p.doing(), fix, err, p.credentials.secrets()...)
}
