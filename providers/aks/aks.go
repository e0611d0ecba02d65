// Package aks gets tokens of Microsoft Entra, which clusters of Azure Kubernetes Service take: for
// an application's secret or certificate, or for a Pod's own token by workload identity.
package aks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/providers"
)

const (
	// For both requests of one Issue.
	timeout = 12 * time.Second

	// scope is that of the application that all clusters of AKS are, to Entra.
	scope = "6dae42f8-4368-4678-94ff-3960e28e3630/.default"
	// audience is what Entra takes as the audience of a Pod's token, whatever the tenant.
	audience = "api://AzureADTokenExchange"

	publicCloud = "https://login.microsoftonline.com"
)

// microsofts are the authorities of Azure's clouds. A Pod's token goes to no other: it would be
// valid there for every holder.
var microsofts = []string{
	"login.microsoftonline.com",
	"login.microsoftonline.us",
	"login.partner.microsoftonline.cn", "login.chinacloudapi.cn",
	"login.sovcloud-identity.fr", "login.sovcloud-identity.de", "login.sovcloud-identity.sg",
}

var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// Identity says as whom Entra is asked.
type Identity string

const (
	// Secret is an application, by its secret or certificate. It is the default.
	Secret Identity = "Secret"
	// WorkloadIdentity is an application or managed identity that trusts the Pod's ServiceAccount.
	WorkloadIdentity Identity = "WorkloadIdentity"
)

// Config is what a Provider is made from.
type Config struct {
	Identity Identity

	// ClientID and TenantID are for WorkloadIdentity.
	ClientID string
	TenantID string

	// AuthorityHost is the https URL of a sovereign cloud's Entra; empty is the public cloud's.
	AuthorityHost string

	// Secret names the Secret in messages, such as fleet/tenant-1-app. Data is its content: clientID,
	// tenantID, and clientSecret or tls.crt and tls.key. For identity Secret.
	Secret string
	Data   map[string][]byte

	// Egress says which addresses may be connected to.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider gets tokens of one application.
type Provider struct {
	cfg       Config
	app       application
	authority *url.URL
	transport http.RoundTripper
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	authority, err := readAuthority(cfg)
	if err != nil {
		return nil, fmt.Errorf("spec.access.aks.authorityHost %w", err)
	}
	app, err := readApplication(cfg)
	if err != nil {
		return nil, err
	}
	client, err := egress.Client(cfg.Egress, endpoint.Endpoint{}, providers.Credential{})
	if err != nil {
		return nil, err
	}
	return &Provider{cfg: cfg, app: app, authority: authority, transport: client.Transport}, nil
}

func readAuthority(cfg Config) (*url.URL, error) {
	u, err := url.Parse(cmp.Or(cfg.AuthorityHost, publicCloud))
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("is not a URL with a host, such as https://login.microsoftonline.us")
	case u.Scheme != "https":
		return nil, errors.New("is not an https URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return nil, errors.New("must have no user, path, query or fragment: set the tenant in tenantID, or in the key tenantID of the Secret")
	case cfg.Identity == WorkloadIdentity && !slices.Contains(microsofts, strings.ToLower(u.Host)):
		return nil, fmt.Errorf("is not a host of Microsoft, and Keyferry sends a Pod's token only to these hosts: %s", strings.Join(microsofts, ", "))
	}
	return &url.URL{Scheme: "https", Host: u.Host}, nil
}

// Server is that of Entra.
func (p *Provider) Server() *url.URL { return p.authority }

// ShareKey is empty for an application by its secret or certificate. With workload identity a token
// was got by one ServiceAccount.
func (p *Provider) ShareKey(req providers.Request) string {
	if !p.app.assertion {
		return ""
	}
	id := req.Identity
	return strings.Join([]string{id.Namespace, id.ServiceAccount, id.ServiceAccountUID}, "/")
}

// Issue asks for a new token. The library keeps those that it got, so it is made again each time.
func (p *Provider) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if p.app.assertion && req.SubjectToken == "" {
		return providers.Credential{}, fmt.Errorf("%w: identity WorkloadIdentity needs a token of the Pod for audience %s, and the Pod sent no such token: recreate the Pod",
			providers.ErrRefused, audience)
	}
	token, err := p.ask(ctx, req)
	if err != nil {
		return providers.Credential{}, err
	}
	// The library counts from the time of this machine; Entra grants whole seconds.
	life := time.Until(token.ExpiresOn).Round(time.Second)
	return providers.Credential{Token: token.AccessToken, NotAfter: p.cfg.Now().Add(life)}, nil
}
