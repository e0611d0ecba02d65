// Package gke gets OAuth 2.0 access tokens of Google Cloud, which clusters of Google Kubernetes
// Engine take: for a key of a service account, for a Pod's own token by workload identity
// federation, or from the metadata server of the machine.
package gke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

// For all requests of one Issue, of which there are two at most.
const timeout = 12 * time.Second

// scopes are those that gke-gcloud-auth-plugin asks for. Clusters know a service account by its
// email address.
var scopes = []string{"https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"}

var (
	providerName = regexp.MustCompile(`^projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$`)
	email        = regexp.MustCompile(`^[0-9A-Za-z._-]+@[0-9A-Za-z.-]+$`)
)

// Identity says as whom Google is asked.
type Identity string

const (
	// Secret is a service account's key. It is the default.
	Secret Identity = "Secret"
	// WorkloadIdentity is the Pod's own.
	WorkloadIdentity Identity = "WorkloadIdentity"
	// Ambient is that of the machine or Pod that this process runs in.
	Ambient Identity = "Ambient"
)

// Config is what a Provider is made from.
type Config struct {
	Identity Identity

	// WorkloadIdentityProvider is the resource name of the provider that exchanges the Pod's token,
	// for WorkloadIdentity.
	WorkloadIdentityProvider string

	// Impersonate is the email of the service account to act as; empty if the identity acts as itself.
	Impersonate string

	// Secret names the Secret in messages, such as fleet/tenant-1-key. Data is its content: key.json.
	// For identity Secret.
	Secret string
	Data   map[string][]byte

	// Egress says which addresses may be connected to. It is not asked about the metadata server.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider gets tokens of one identity.
type Provider struct {
	cfg   Config
	asker asker
	// transport reaches Google, and metadata the metadata server.
	transport, metadata http.RoundTripper
}

// asker is an identity.
type asker interface {
	// ask returns the question for the identity's own token.
	ask(req providers.Request) (question, error)
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	asker, err := newAsker(cfg)
	switch {
	case err != nil:
		return nil, err
	case cfg.Impersonate != "" && !email.MatchString(cfg.Impersonate):
		return nil, errors.New("spec.access.gke.impersonate is not the email address of a service account, such as NAME@PROJECT.iam.gserviceaccount.com")
	}
	client, err := egress.Client(cfg.Egress, endpoint.Endpoint{}, providers.Credential{})
	if err != nil {
		return nil, err
	}
	return &Provider{cfg: cfg, asker: asker, transport: client.Transport, metadata: &http.Transport{
		// The metadata server is link-local, and never behind a proxy.
		DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		DisableKeepAlives: true,
	}}, nil
}

func newAsker(cfg Config) (asker, error) {
	switch cfg.Identity {
	case Secret, "":
		if cfg.Secret == "" {
			return nil, errors.New("spec.access.gke.credentials is missing: set the name of the Secret with the service account's key")
		}
		key, err := readKey(cfg)
		if err != nil {
			return nil, fmt.Errorf("Secret %s: key key.json %w", cfg.Secret, err)
		}
		return key, nil
	case WorkloadIdentity:
		if !providerName.MatchString(cfg.WorkloadIdentityProvider) {
			return nil, errors.New("spec.access.gke.workloadIdentityProvider is not the name of a provider, such as projects/123456789/locations/global/workloadIdentityPools/POOL/providers/PROVIDER, with the project's number")
		}
		return workload{provider: cfg.WorkloadIdentityProvider}, nil
	case Ambient:
		return machine{}, nil
	}
	return nil, errors.New("spec.access.gke.identity must be Secret, WorkloadIdentity or Ambient")
}

// ShareKey is empty for an identity that is the same for everybody. With workload identity each
// ServiceAccount is one.
func (p *Provider) ShareKey(req providers.Request) string {
	if _, ok := p.asker.(workload); !ok {
		return ""
	}
	id := req.Identity
	return strings.Join([]string{id.Namespace, id.ServiceAccount, id.ServiceAccountUID}, "/")
}

// Issue asks for a new token. No token is kept here, nor in the libraries that ask.
func (p *Provider) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	q, err := p.asker.ask(req)
	if err != nil {
		return providers.Credential{}, err
	}
	token, err := p.answer(ctx, q)
	if err == nil && p.cfg.Impersonate != "" {
		token, err = p.answer(ctx, p.impersonate(token, q))
	}
	if err != nil {
		return providers.Credential{}, err
	}
	now := p.cfg.Now()
	if token.Expiry.IsZero() {
		return providers.Credential{Token: token.AccessToken, NotAfter: expiry.Token(token.AccessToken, now)}, nil
	}
	// The libraries count from the time of this machine; Google grants whole seconds.
	return providers.Credential{Token: token.AccessToken, NotAfter: now.Add(time.Until(token.Expiry).Round(time.Second))}, nil
}

// impersonate is the question for a token of the service account to act as, asked with the token
// that q got. Google's libraries have this for some identities only.
func (p *Provider) impersonate(own *oauth2.Token, q question) question {
	role := "roles/iam.serviceAccountTokenCreator"
	if _, ok := p.asker.(workload); ok {
		role = "roles/iam.workloadIdentityUser"
	}
	return question{
		doing:   "asking Google at https://iamcredentials.googleapis.com for a token of " + p.cfg.Impersonate + " (spec.access.gke.impersonate)",
		secrets: append(q.secrets, own.AccessToken),
		refused: "give the identity " + role + " on that service account, and enable iamcredentials.googleapis.com in its project",
		missing: "check the email of the service account",
		get: func(ctx context.Context, _ *http.Client) (*oauth2.Token, error) {
			body, err := json.Marshal(map[string]any{"scope": scopes, "lifetime": "3600s"})
			if err != nil {
				return nil, err
			}
			url := "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + p.cfg.Impersonate + ":generateAccessToken"
			resp, err := oauth2.NewClient(ctx, oauth2.StaticTokenSource(own)).Post(url, "application/json", bytes.NewReader(body)) //nolint:noctx // the transport has it
			if err != nil {
				return nil, err
			}
			defer func() { _ = resp.Body.Close() }()
			var answer struct {
				AccessToken string    `json:"accessToken"`
				ExpireTime  time.Time `json:"expireTime"`
			}
			err = json.NewDecoder(resp.Body).Decode(&answer)
			return &oauth2.Token{AccessToken: answer.AccessToken, Expiry: answer.ExpireTime}, err
		},
	}
}
