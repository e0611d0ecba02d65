package issuer

import (
	"context"
	"errors"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// certManagerAge is how late it may be noticed that cert-manager was installed or removed.
const certManagerAge = 10 * time.Second

// checkCertManager refuses, with an *resolve.InvalidError, client certificates where nobody can
// sign them.
func (i *Issuer) checkCertManager(ctx context.Context, cluster *v1alpha1.TargetCluster) error {
	if cluster.Spec.Issue.Type != v1alpha1.IssueClientCertificate {
		return nil
	}
	if i.requests == nil {
		return &resolve.InvalidError{Reason: resolve.ReasonNotSupported,
			Message: "spec.issue.type ClientCertificate: certificates are signed by cert-manager in a cluster, and cannot be issued from files: ask the broker"}
	}
	_, err := i.certManager.get(ctx, struct{}{}, func(ctx context.Context, _ answer[struct{}]) answer[struct{}] {
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		until := i.cfg.Now().Add(certManagerAge)
		return answer[struct{}]{err: i.requests.Installed(ctx), until: until, expires: until}
	})
	if errors.Is(err, providers.ErrNotFound) {
		return &resolve.InvalidError{Reason: resolve.ReasonCertManagerMissing,
			Message: "spec.issue.type ClientCertificate: certificates are signed by cert-manager, which this cluster does not have: install it, with its CRDs"}
	}
	return err
}
