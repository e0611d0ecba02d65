package issuer

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
)

// verify asks the target whether it accepts a new credential: once an hour for each Resolution, and
// whenever the target has rejected the last one. Its error wraps providers.ErrRefused and
// verify.ErrRejected. A target that cannot say counts as one that accepts it.
func (i *Issuer) verify(ctx context.Context, cluster *v1alpha1.TargetCluster, resolution Resolution, issued Issued) error {
	if i.cfg.Verify == nil || resolution.InPod != nil {
		return nil
	}
	ask := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
		defer cancel()
		return i.cfg.Verify(ctx, issued.Credential, userOf(cluster.Spec.Issue.Type, issued.Credential))
	}
	var err error
	if issued.rejections > 0 {
		err = ask(ctx)
	} else {
		_, err = i.verified.get(ctx, resolution.issued, func(ctx context.Context, _ answer[struct{}]) answer[struct{}] {
			err, age := ask(ctx), verifiedAge
			switch {
			case errors.Is(err, verify.ErrRejected):
				return answer[struct{}]{err: err}
			case err != nil:
				age = unverifiedAge
			}
			until := i.cfg.Now().Add(age)
			return answer[struct{}]{until: until, expires: until}
		})
	}
	if !errors.Is(err, verify.ErrRejected) {
		return nil
	}
	return fmt.Errorf("%w: %s: %w: %s", providers.ErrRefused, issued.Endpoint.Server, err, rejectedFix(cluster.Spec.Issue.Type))
}

// userOf returns the user that a credential is for, as far as it says so; empty if it does not.
func userOf(issue v1alpha1.IssueType, c providers.Credential) string {
	switch issue { //nolint:exhaustive // what an access credential says, the target may map to any user
	case v1alpha1.IssueTokenRequest:
		claims, err := jwt.Read(c.Token)
		if err != nil {
			return ""
		}
		return claims.Subject
	case v1alpha1.IssueClientCertificate:
		block, _ := pem.Decode(c.ClientCertificate)
		if block == nil {
			return ""
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return ""
		}
		return certificate.Subject.CommonName
	}
	return ""
}

// rejectedFix says what to do about a target that rejects what was issued for it.
func rejectedFix(issue v1alpha1.IssueType) string {
	switch issue { //nolint:exhaustive // nothing is issued with Federation
	case v1alpha1.IssueTokenRequest:
		return "set spec.endpoint.server to an address that accepts tokens of ServiceAccounts " +
			"(of Rancher the authorized cluster endpoint, of GKE one with enable_k8s_tokens_via_dns), or spec.issue.type to Access"
	case v1alpha1.IssueClientCertificate:
		return "configure the target to trust the CA of spec.issue.clientCertificate.issuerRef"
	}
	return "renew the credential that spec.access names"
}
