// Package kubeconfig takes an endpoint and a credential from a Secret that holds a kubeconfig: a
// plain one, as Cluster API, MultiKueue and multicluster-runtime keep theirs, or an Argo CD cluster
// Secret.
//
// What it reads was written by a user who may write the Secret. So it follows no file path and runs
// nothing that the Secret names, refuses what would weaken the connection, and repeats nothing of
// the content in an error but names.
package kubeconfig

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

// Config is what a Provider is made from.
type Config struct {
	// Secret names the Secret in messages, such as fleet/tenant-1-kubeconfig.
	Secret string
	// Labels and Data are the Secret's.
	Labels map[string]string
	Data   map[string][]byte
	// Key in Data. If it is empty, an Argo CD cluster Secret is known by its label, and of any other
	// Secret the key kubeconfig or else value is read.
	Key string
	// Replaced has the fields that count in place of the kubeconfig's. What the kubeconfig has in a
	// replaced server or CA is not checked, and not used.
	Replaced endpoint.Endpoint
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider hands out the credential of one kubeconfig. It is the same for everybody.
type Provider struct {
	// object names the kubeconfig in messages.
	object     string
	endpoint   endpoint.Endpoint
	credential providers.Credential
	now        func() time.Time
}

// New reads a Secret. Its error names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	parsed, err := parse(cfg)
	if err != nil {
		return nil, fmt.Errorf("Secret %s: %w", cfg.Secret, err)
	}
	return newProvider("Secret "+cfg.Secret, parsed, cfg.Now), nil
}

func newProvider(object string, parsed parsed, now func() time.Time) *Provider {
	return &Provider{
		object:     object,
		endpoint:   parsed.endpoint,
		credential: providers.Credential{Token: parsed.token, ClientCertificate: parsed.certificate, ClientKey: parsed.key, Endpoint: parsed.endpoint},
		now:        now,
	}
}

// ErrNoContext is wrapped by errors about a kubeconfig that does not have a context.
var ErrNoContext = errors.New("has no context")

// NewFromFile reads one context of a kubeconfig that is not in a Secret; empty is the current one.
// It refuses what New refuses. Its error does not name the file.
func NewFromFile(data []byte, context string) (*Provider, error) {
	return newFromFile(data, context, time.Now)
}

// Parse returns the credential in the current context of a kubeconfig, with its endpoint. It
// refuses what New refuses.
func Parse(data []byte, now time.Time) (providers.Credential, error) {
	p, err := newFromFile(data, "", func() time.Time { return now })
	if err != nil {
		return providers.Credential{}, err
	}
	return p.Issue(context.Background(), providers.Request{})
}

func newFromFile(data []byte, context string, now func() time.Time) (*Provider, error) {
	parsed, err := parseKubeconfig(data, context, endpoint.Endpoint{})
	if err == nil {
		parsed, err = parsed.checked(endpoint.Endpoint{})
	}
	if err != nil {
		return nil, err
	}
	return newProvider("the kubeconfig", parsed, now), nil
}

// Contexts returns the names of the contexts of a kubeconfig, sorted. Its error does not name the
// file.
func Contexts(data []byte) ([]string, error) {
	config, err := decode(data)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(config.Contexts)), nil
}

// Endpoint is the one in the kubeconfig, with a normalised Server and its Spelling; a replaced
// Server is empty.
func (p *Provider) Endpoint() endpoint.Endpoint { return p.endpoint }

// IsCertificate reports whether the credential is a client certificate rather than a token.
func (p *Provider) IsCertificate() bool { return len(p.credential.ClientCertificate) > 0 }

// Issue returns the credential, or an error that wraps providers.ErrRefused once it has ended.
func (p *Provider) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	if err := ctx.Err(); err != nil {
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("reading %s: %w", p.object, err))
	}
	now := p.now()
	credential, what := p.credential, "token"
	credential.NotAfter = expiry.Token(credential.Token, now)
	if p.IsCertificate() {
		what = "client certificate"
		notAfter, err := expiry.Certificate(credential.ClientCertificate)
		if err != nil { // New has read it
			return providers.Credential{}, fmt.Errorf("%w: the client certificate in %s: %w", providers.ErrRefused, p.object, err)
		}
		credential.NotAfter = notAfter
	}
	if !credential.NotAfter.After(now) {
		return providers.Credential{}, fmt.Errorf("%w: the %s in %s expired at %s: renew the kubeconfig",
			providers.ErrRefused, what, p.object, credential.NotAfter.UTC().Format(time.RFC3339))
	}
	return credential, nil
}

// ShareKey is empty: everybody is given the same credential.
func (p *Provider) ShareKey(providers.Request) string { return "" }

// parsed is what the formats have in common.
type parsed struct {
	endpoint    endpoint.Endpoint
	token       string
	certificate []byte
	key         []byte
}

func parse(cfg Config) (parsed, error) {
	if cfg.Key == "" && cfg.Labels[argoLabel] == argoCluster {
		out, err := parseArgo(cfg.Data, cfg.Replaced)
		if err != nil {
			return parsed{}, err
		}
		return out.checked(cfg.Replaced)
	}
	key, err := chooseKey(cfg)
	if err != nil {
		return parsed{}, err
	}
	out, err := parseKubeconfig(cfg.Data[key], "", cfg.Replaced)
	if err != nil {
		return parsed{}, fmt.Errorf("key %s: %w", key, err)
	}
	if out, err = out.checked(cfg.Replaced); err != nil {
		return parsed{}, fmt.Errorf("key %s: %w", key, err)
	}
	return out, nil
}

func chooseKey(cfg Config) (string, error) {
	candidates := []string{"kubeconfig", "value"}
	if cfg.Key != "" {
		candidates = []string{cfg.Key}
	}
	for _, key := range candidates {
		if len(cfg.Data[key]) > 0 {
			return key, nil
		}
	}
	there := "it is empty"
	if len(cfg.Data) > 0 {
		there = "it has " + strings.Join(slices.Sorted(maps.Keys(cfg.Data)), ", ")
	}
	return "", fmt.Errorf("there is no kubeconfig under the key %s; %s: set spec.access.kubeconfig.key",
		strings.Join(candidates, " or "), there)
}

// checked normalises what was parsed and refuses what cannot be used.
func (p parsed) checked(replaced endpoint.Endpoint) (parsed, error) {
	if replaced.Has(endpoint.FieldServer) {
		p.endpoint.Server = ""
	} else {
		server, err := endpoint.Parse(p.endpoint.Server)
		if err != nil {
			return parsed{}, fmt.Errorf("server %w", err)
		}
		p.endpoint.Spelling, p.endpoint.Server = p.endpoint.Server, server.String()
	}
	switch {
	case len(p.certificate) > 0 && len(p.key) > 0:
		if _, err := tls.X509KeyPair(p.certificate, p.key); err != nil {
			return parsed{}, errors.New("client certificate and key are malformed or do not belong together")
		}
		// API servers look at the certificate first, so it is also what decides with kubectl.
		p.token = ""
	case len(p.certificate) > 0 || len(p.key) > 0:
		return parsed{}, errors.New("the user has only one of client certificate and key")
	case p.token == "":
		return parsed{}, errors.New("the user has no credential: add a token, or a client certificate and its key")
	case strings.ContainsFunc(p.token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return parsed{}, errors.New("the token contains spaces, newlines or other characters that an HTTP header cannot contain: encode it again without them")
	}
	return p, nil
}
