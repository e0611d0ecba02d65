// Package tokenapi asks HTTP APIs that answer with an ExecCredential
// (client.authentication.k8s.io) for tokens. The providers that have such an API are each a package
// of their own, which says what to ask for.
package tokenapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/providers"
)

const (
	// One request; the provider has to ask a cloud.
	timeout = 10 * time.Second
	// Of an answer. A kubeconfig has some kilobytes.
	maxAnswer = 256 << 10
)

// Config is what a Provider is made from.
type Config struct {
	// Name is the name of the provider in messages, such as CB-Spider, and Subject what is asked for,
	// such as cluster tenant-1.
	Name    string
	Subject string
	// Field is the field of a TargetCluster that says all this, such as spec.access.spider.
	Field string

	// URL of the provider: http or https, perhaps with a path.
	URL string
	// Path and Query are what is asked there, not escaped. No segment may be empty or lead elsewhere.
	Path  []string
	Query url.Values
	// Header is sent besides.
	Header http.Header

	// Secret names the Secret in messages, such as fleet/spider; it is empty if there is none. Data is
	// its content: username and password, or token; ca.crt, a PEM bundle that verifies the provider.
	Secret string
	Data   map[string][]byte

	// Egress says which addresses may be connected to.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider asks one provider for tokens of one cluster. They are the same for everybody.
type Provider struct {
	cfg    Config
	server *url.URL // that messages show
	url    string   // that is asked

	credentials credentials
	http        *http.Client
	timeout     time.Duration
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	server, err := parseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("%s.url %w", cfg.Field, err)
	}
	path, err := escape(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Field, err)
	}
	asked := server.String() + path
	if len(cfg.Query) > 0 {
		asked += "?" + cfg.Query.Encode()
	}
	credentials, err := readCredentials(cfg.Data)
	if err != nil {
		return nil, fmt.Errorf("Secret %s: %w", cfg.Secret, err)
	}
	client, err := egress.Client(cfg.Egress, endpoint.Endpoint{CertificateAuthority: cfg.Data["ca.crt"]}, providers.Credential{Token: credentials.token})
	if err != nil {
		return nil, fmt.Errorf("Secret %s: key ca.crt: %w", cfg.Secret, err)
	}
	return &Provider{cfg: cfg, server: server, url: asked, credentials: credentials, http: client, timeout: timeout}, nil
}

// Server is that of the provider.
func (p *Provider) Server() *url.URL { return p.server }

// Warning says in a sentence what is unsafe about asking; it is empty if nothing is.
func (p *Provider) Warning() string {
	if p.server.Scheme == "https" {
		return ""
	}
	return p.cfg.Field + ".url is plain http: anybody on the way to " + p.cfg.Name + " can read and change credentials and tokens; use https"
}

// ShareKey is empty: everybody is given the same credential.
func (p *Provider) ShareKey(providers.Request) string { return "" }

// Issue asks the provider for a token.
func (p *Provider) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, http.NoBody)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%w: %s: the URL is malformed", providers.ErrRefused, p.doing())
	}
	for name, values := range p.cfg.Header {
		req.Header[name] = values
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "keyferry")
	if p.credentials.username != "" {
		req.SetBasicAuth(p.credentials.username, p.credentials.password)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return providers.Credential{}, p.unanswered(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return providers.Credential{}, p.failure(resp, body) // as far as it was read
	case err != nil:
		return providers.Credential{}, p.unanswered(err)
	case len(body) > maxAnswer:
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("%s: the answer is longer than %d KiB: check that the URL is the URL of the API", p.doing(), maxAnswer>>10))
	}
	credential, err := Read(body, p.cfg.Now())
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%s: %w", p.doing(), err)
	}
	return credential, nil
}

// doing begins each message.
func (p *Provider) doing() string {
	return "asking " + p.cfg.Name + " at " + p.server.String() + " for a token of " + p.cfg.Subject
}

// parseURL reads the URL of a provider. Its errors do not repeat it, it may hold a password.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("is not a URL with a host, such as https://203.0.113.7:1024")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("has the scheme %q; http and https are allowed", u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("must have no user, query or fragment: write the user into the Secret")
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u, nil
}

func escape(path []string) (string, error) {
	var escaped strings.Builder
	for _, segment := range path {
		if slices.Contains([]string{"", ".", ".."}, segment) {
			return "", fmt.Errorf("%q is not a valid name", segment)
		}
		escaped.WriteString("/" + url.PathEscape(segment))
	}
	return escaped.String(), nil
}

// credentials are what the provider wants to see: a user with a password, a token, or nothing.
type credentials struct {
	username string
	password string
	token    string
}

func readCredentials(data map[string][]byte) (credentials, error) {
	c := credentials{username: string(data["username"]), password: string(data["password"]), token: string(data["token"])}
	for key, value := range map[string]string{"username": c.username, "password": c.password} {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return credentials{}, fmt.Errorf("key %s contains a newline or another control character: encode it again without this character", key)
		}
	}
	switch {
	case c.token != "" && (c.username != "" || c.password != ""):
		return credentials{}, errors.New("the Secret must contain either username and password, or token: remove one of them")
	case (c.username == "") != (c.password == ""):
		return credentials{}, errors.New("the Secret contains only one of username and password: add the missing key")
	case strings.Contains(c.username, ":"):
		return credentials{}, errors.New("key username contains a colon, which is not allowed: remove the colon")
	case c.token != "" && !isToken(c.token):
		return credentials{}, errors.New("key token contains spaces, newlines or other characters that an HTTP header cannot contain: encode it again without them")
	case c.token == "" && c.username == "" && len(data) > 0 && len(data["ca.crt"]) == 0:
		return credentials{}, errors.New("the Secret has none of the keys username and password, token, and ca.crt: add the keys that the provider requires")
	}
	return c, nil
}

// secrets are what no message may hold, in case that the provider repeats them.
func (c credentials) secrets() []string {
	return []string{c.password, c.token, base64.StdEncoding.EncodeToString([]byte(c.username + ":" + c.password))}
}
