package eks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/keyferry/keyferry/providers"
)

const (
	// The shortest that AWS allows, and longer than a token lasts, which is all that is signed with
	// it.
	sessionSeconds = 900

	// AWS's limit for the name of a session.
	maxSessionName = 64
)

// signer returns the credential that a token for req is signed with.
func (p *Provider) signer(ctx context.Context, req providers.Request) (aws.Credentials, error) {
	if p.cfg.Identity == Workload {
		return p.exchange(ctx, req)
	}
	own, err := p.own(ctx)
	if err != nil || p.cfg.RoleARN == "" {
		return own, err
	}
	return p.assume(ctx, own)
}

// own is the credential of the Secret, or of the process.
func (p *Provider) own(ctx context.Context) (aws.Credentials, error) {
	if p.cfg.Identity == Secret {
		return aws.Credentials{
			AccessKeyID:     string(p.cfg.Data["accessKeyID"]),
			SecretAccessKey: string(p.cfg.Data["secretAccessKey"]),
			SessionToken:    string(p.cfg.Data["sessionToken"]),
		}, nil
	}
	// The chain is walked again each time: what it finds may have been replaced, and a credential that
	// it would keep may be about to end. Metadata services are link-local, so it does not go by the
	// egress policy; nobody but the operator says where it goes.
	found, err := config.LoadDefaultConfig(ctx, config.WithRegion(p.cfg.Region))
	if err != nil {
		return aws.Credentials{}, p.chainFailure(err)
	}
	credential, err := found.Credentials.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, p.chainFailure(err)
	}
	return credential, nil
}

// assume exchanges a credential for one of the role. Everybody is given the same, so the session is
// named for the cluster.
func (p *Provider) assume(ctx context.Context, own aws.Credentials) (aws.Credentials, error) {
	answer, err := p.sts(own).AssumeRole(ctx, &sts.AssumeRoleInput{
		RoleArn:         aws.String(p.cfg.RoleARN),
		RoleSessionName: aws.String(sessionName("keyferry", p.cfg.ClusterName)),
		DurationSeconds: aws.Int32(sessionSeconds),
	})
	if err != nil {
		return aws.Credentials{}, p.failure(err, providers.Identity{}, own.SecretAccessKey, own.SessionToken)
	}
	return p.ofRole(answer.Credentials)
}

// exchange exchanges the Pod's own token for a credential of the role. The session is named for the
// ServiceAccount.
func (p *Provider) exchange(ctx context.Context, req providers.Request) (aws.Credentials, error) {
	if req.SubjectToken == "" {
		return aws.Credentials{}, fmt.Errorf("%w: %s: identity WorkloadIdentity needs a token of the Pod for the audience %s, and the request has no such token: recreate the Pod, or use another identity if there is no Pod",
			providers.ErrRefused, p.assuming(), audience)
	}
	answer, err := p.sts(aws.Credentials{}).AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          aws.String(p.cfg.RoleARN),
		RoleSessionName:  aws.String(sessionName(req.Identity.Namespace, req.Identity.ServiceAccount)),
		WebIdentityToken: aws.String(req.SubjectToken),
		DurationSeconds:  aws.Int32(sessionSeconds),
	})
	if err != nil {
		return aws.Credentials{}, p.failure(err, req.Identity, req.SubjectToken)
	}
	return p.ofRole(answer.Credentials)
}

// sts is a client that has what is said here, and nothing from elsewhere. It asks once: the caller
// called tries again.
func (p *Provider) sts(own aws.Credentials) *sts.Client {
	return sts.New(sts.Options{
		Region:       p.cfg.Region,
		Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return own, nil }),
		BaseEndpoint: aws.String(p.endpoint),
		HTTPClient:   p.http,
		Retryer:      aws.NopRetryer{},
		AppID:        "keyferry",
	})
}

func (p *Provider) ofRole(c *types.Credentials) (aws.Credentials, error) {
	if c == nil || c.Expiration == nil || aws.ToString(c.AccessKeyId) == "" || aws.ToString(c.SecretAccessKey) == "" {
		return aws.Credentials{}, providers.Unavailable(0, fmt.Errorf("%s: the answer contains no credential: check that the server is AWS STS", p.assuming()))
	}
	return aws.Credentials{
		AccessKeyID:     *c.AccessKeyId,
		SecretAccessKey: *c.SecretAccessKey,
		SessionToken:    aws.ToString(c.SessionToken),
		CanExpire:       true,
		Expires:         *c.Expiration,
	}, nil
}

// sessionName is what CloudTrail and the cluster's audit log show next to the role: both names, or,
// where that is too long, their beginning and a hash of all. A namespace has no dot, so the first
// one ends it.
func sessionName(namespace, name string) string {
	full := namespace + "." + name
	if len(full) <= maxSessionName {
		return full
	}
	sum := sha256.Sum256([]byte(full))
	hash := "-" + hex.EncodeToString(sum[:6])
	return full[:maxSessionName-len(hash)] + hash
}
