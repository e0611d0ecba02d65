// Package tokenrequest issues tokens of a ServiceAccount in the target, by the TokenRequest API. It
// gets into the target with the credential of another Provider.
package tokenrequest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/providers"
)

const (
	// All requests of one issue together.
	timeout = 10 * time.Second
	// Kubernetes grants no life under this.
	shortest = 10 * time.Minute
	// Less apart, two clocks are taken to agree: an answer is under way for some time, too.
	clocksAgree = time.Minute
)

// Config is what a Provider is made from.
type Config struct {
	// Access is how to get into the target.
	Access providers.Provider
	// Endpoint is where the target is. Fields that are zero come from the credential of Access.
	Endpoint endpoint.Endpoint
	// Egress says which addresses may be connected to.
	Egress endpoint.Policy

	// ServiceAccount is whose token it is. Zero: the one with the namespace and name of the asking
	// workload's own.
	ServiceAccount types.NamespacedName
	// Create makes the ServiceAccount where it is missing. One that is there and does not bear the
	// mark of Owner is then refused: it is somebody else's.
	Create bool
	// Revocable binds the tokens to a Secret next to the ServiceAccount, which is made where it is
	// missing.
	Revocable bool
	// Owner marks what is made in the target; required with Create and Revocable. It must be another
	// one for each configuration that anybody has for the same target, and stay the same.
	Owner string

	// Audiences of the tokens; empty means those of the target's API server.
	Audiences []string
	// Duration to ask for. What the target grants counts.
	Duration time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider issues tokens.
type Provider struct {
	cfg Config

	mu     sync.Mutex
	client *client
}

// New returns a Provider, or an error that says what cfg lacks.
func New(cfg Config) (*Provider, error) {
	switch {
	case cfg.Access == nil:
		return nil, errors.New("tokenrequest: Access is required")
	case cfg.Duration < shortest:
		return nil, fmt.Errorf("tokenrequest: Duration is %v, and Kubernetes issues no token for less than 10m", cfg.Duration)
	case (cfg.ServiceAccount.Namespace == "") != (cfg.ServiceAccount.Name == ""):
		return nil, errors.New("tokenrequest: ServiceAccount needs both a namespace and a name, or neither")
	case cfg.Owner == "" && (cfg.Create || cfg.Revocable):
		return nil, errors.New("tokenrequest: Create and Revocable need an Owner")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Provider{cfg: cfg}, nil
}

// Issue asks the target for a token.
func (p *Provider) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	access, err := p.cfg.Access.Issue(ctx, req)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("getting into the target: %w", err)
	}
	credential, err := p.issue(ctx, req, access)
	if keeper, ok := p.cfg.Access.(providers.Keeper); ok && errors.Is(err, errUnauthorized) {
		keeper.Rejected(req, access)
	}
	return credential, err
}

// issue asks the target for a token, with access to it.
func (p *Provider) issue(ctx context.Context, req providers.Request, access providers.Credential) (providers.Credential, error) {
	at := p.cfg.Endpoint.Or(access.Endpoint)
	target, err := p.clientFor(at, access)
	if err != nil {
		return providers.Credential{}, err
	}
	account := p.account(req.Identity)
	if p.cfg.Create {
		if err := target.ensureAccount(ctx, account, p.cfg.Owner); err != nil {
			return providers.Credential{}, err
		}
	}
	asked := p.cfg.Now()
	status, err := p.token(ctx, target, account, req)
	if err != nil {
		return providers.Credential{}, err
	}
	notAfter := endOf(status, asked)
	switch now := p.cfg.Now(); {
	case status.Token == "":
		return providers.Credential{}, fmt.Errorf("%w: %s returned no token for ServiceAccount %s", providers.ErrRefused, at.Server, account)
	case !notAfter.After(now):
		return providers.Credential{}, fmt.Errorf("%w: %s issued a token for ServiceAccount %s that expired at %s, and the time is now %s: check the clocks",
			providers.ErrRefused, at.Server, account, notAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return providers.Credential{Token: status.Token, NotAfter: notAfter, Endpoint: at}, nil
}

// endOf returns when a token that was asked for ends, by the clock here. Where the target's clock
// is another, its times are only compared with each other: how long it has granted the token for
// does not depend on what time it is.
func endOf(status authenticationv1.TokenRequestStatus, asked time.Time) time.Time {
	notAfter := status.ExpirationTimestamp.Time
	claims, err := jwt.Read(status.Token)
	if err != nil || claims.IssuedAt <= 0 {
		return notAfter
	}
	ahead := time.Unix(int64(claims.IssuedAt), 0).Sub(asked)
	if ahead.Abs() < clocksAgree {
		return notAfter
	}
	return notAfter.Add(-ahead)
}

// ShareKey tells apart for whom the account is, and to whom access is given. A ServiceAccount here
// that was deleted and made again is another one, even if the name is the same.
func (p *Provider) ShareKey(req providers.Request) string {
	access := providers.ShareKey(p.cfg.Access, req)
	if p.cfg.ServiceAccount.Name != "" {
		return access
	}
	return access + "|" + req.Identity.String() + ":" + req.Identity.ServiceAccountUID
}

func (p *Provider) account(id providers.Identity) types.NamespacedName {
	if p.cfg.ServiceAccount.Name != "" {
		return p.cfg.ServiceAccount
	}
	return types.NamespacedName{Namespace: id.Namespace, Name: id.ServiceAccount}
}

// token asks for a token; a revocable one once more if its Secret is deleted in between.
func (p *Provider) token(ctx context.Context, target *client, account types.NamespacedName, req providers.Request) (authenticationv1.TokenRequestStatus, error) {
	if !p.cfg.Revocable {
		return target.createToken(ctx, account, p.spec(req, nil))
	}
	owner := p.owner(req)
	bound, err := target.ensureSecret(ctx, account, owner)
	if err != nil {
		return authenticationv1.TokenRequestStatus{}, err
	}
	status, err := target.createToken(ctx, account, p.spec(req, bound))
	if !errors.Is(err, errBoundGone) {
		return status, err
	}
	if bound, err = target.ensureSecret(ctx, account, owner); err != nil {
		return authenticationv1.TokenRequestStatus{}, err
	}
	return target.createToken(ctx, account, p.spec(req, bound))
}

func (p *Provider) spec(req providers.Request, bound *authenticationv1.BoundObjectReference) authenticationv1.TokenRequestSpec {
	duration := p.cfg.Duration
	if req.Duration > 0 {
		duration = min(duration, max(req.Duration, shortest))
	}
	return authenticationv1.TokenRequestSpec{
		Audiences:         p.cfg.Audiences,
		ExpirationSeconds: ptr.To(int64(duration / time.Second)),
		BoundObjectRef:    bound,
	}
}

// clientFor returns the client of the last issue, and so its connections, if the way into the
// target is still the same. Otherwise the last one is given up, so that a renewed credential leaves
// no connections behind.
func (p *Provider) clientFor(at endpoint.Endpoint, access providers.Credential) (*client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil && p.client.is(at, access) {
		return p.client, nil
	}
	fresh, err := newClient(at, access, p.cfg.Egress)
	if err != nil {
		return nil, err
	}
	if p.client != nil {
		p.client.http.CloseIdleConnections()
	}
	p.client = fresh
	return fresh, nil
}
