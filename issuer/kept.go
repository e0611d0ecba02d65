package issuer

import (
	"context"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

// keptAccess gets into a target with the credential that its provider issued last, until that is to
// be refreshed, and while the provider fails until it ends: each of a thousand identities has its
// token requested with it. A providers.Keeper.
type keptAccess struct {
	issuer   *Issuer
	key      resolutionKey
	spec     v1alpha1.TargetClusterSpec
	provider providers.Provider
}

// kept is an access credential and when it came.
type kept struct {
	providers.Credential
	since time.Time
}

func (k keptAccess) ShareKey(req providers.Request) string {
	return providers.ShareKey(k.provider, req)
}

func (k keptAccess) keyFor(req providers.Request) credentialKey {
	return credentialKey{resolution: k.key, share: k.ShareKey(req)}
}

// Issue returns what is kept, or asks the provider.
func (k keptAccess) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	have, err := k.issuer.accesses.getUrgent(ctx, k.keyFor(req), func(last answer[kept]) bool {
		return last.failures > 0 && last.aboutToExpire(k.issuer.cfg.Now(), req)
	}, func(ctx context.Context, last answer[kept]) answer[kept] {
		return k.ask(ctx, req, last)
	})
	return have.Credential, err
}

func (k keptAccess) ask(ctx context.Context, req providers.Request, last answer[kept]) answer[kept] {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	asked := k.issuer.cfg.Now()
	credential, err := call(ctx, k.provider, req, last.aboutToExpire(asked, req))
	now := k.issuer.cfg.Now()
	if err == nil {
		return answer[kept]{value: kept{credential, now}, until: expiry.RefreshAt(now, credential.NotAfter), expires: credential.NotAfter}
	}
	next := afterFailure(last, err, now)
	if next.err == nil { // otherwise the issue fails, and that is observed
		k.issuer.cfg.Observe(Event{
			TargetCluster: k.key.name, Provider: k.spec.Access.Type, Issue: k.spec.Issue.Type,
			Identity: req.Identity, Took: now.Sub(asked), Err: err, Kept: true, NotAfter: next.expires,
		})
	}
	return next
}

// Rejected has the provider asked again, but not more often than one that fails.
func (k keptAccess) Rejected(req providers.Request, rejected providers.Credential) {
	k.issuer.accesses.renew(k.keyFor(req), func(have *kept) (time.Time, bool) {
		return have.since.Add(maxBackoff), same(have.Credential, rejected)
	})
}
