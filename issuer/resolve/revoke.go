package resolve

import (
	"context"
	"fmt"

	"github.com/keyferry/keyferry/providers"
)

// Revocation is that of providers.Revoker; empty where the credential for req cannot be revoked.
func (r Resolution) Revocation(req providers.Request) string {
	if revoker, ok := r.Issue.(providers.Revoker); ok {
		return revoker.Revocation(req)
	}
	return ""
}

// Revoke is that of providers.Revoker.
func (r Resolution) Revoke(ctx context.Context, req providers.Request, name string) error {
	revoker, ok := r.Issue.(providers.Revoker)
	if !ok {
		return fmt.Errorf("%w: the TargetCluster does not issue revocable credentials any more, so Keyferry cannot revoke the earlier ones: delete %s in the target",
			providers.ErrRefused, name)
	}
	return revoker.Revoke(ctx, req, name)
}
