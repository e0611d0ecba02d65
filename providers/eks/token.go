package eks

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/keyferry/keyferry/providers"
)

const (
	// The authenticator takes no longer ones.
	maxToken = 4096

	// clusterHeader holds the cluster's name and is signed, so that a token for one cluster is of no
	// use at another.
	clusterHeader = "X-K8s-Aws-Id"

	// The SHA-256 of an empty body.
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// token signs the request that the cluster will send to STS.
func (p *Provider) token(ctx context.Context, signer aws.Credentials, now time.Time) (string, error) {
	// STS does not look at X-Amz-Expires; 60 is what everybody sends.
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		p.endpoint+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", http.NoBody)
	if err != nil {
		return "", errors.New("the URL of AWS STS is malformed")
	}
	request.Header.Set(clusterHeader, p.cfg.ClusterName)
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, signer, request, emptyHash, "sts", p.cfg.Region, now)
	if err != nil {
		return "", errors.New("signing the request to AWS STS failed")
	}
	token := providers.EKSTokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(signed))
	if len(token) > maxToken {
		return "", fmt.Errorf("with a session token of %d bytes, the token for EKS is longer than the %d bytes that EKS accepts: use a role with fewer session tags and a shorter session policy",
			len(signer.SessionToken), maxToken)
	}
	return token, nil
}
