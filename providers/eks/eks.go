// Package eks makes tokens for clusters of Amazon EKS. A token is a presigned request to AWS STS,
// which the cluster sends on to learn who signed it; making one asks nobody, unless a role has to
// be assumed first.
//
// The form of the tokens is that of https://github.com/kubernetes-sigs/aws-iam-authenticator. A
// Provider is made of its Config alone: nothing in the environment or the files of the process has
// a part in it, except with identity Ambient.
package eks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

const (
	// Of all that is asked of AWS for one token.
	timeout = 10 * time.Second

	// The audience of tokens that STS exchanges.
	audience = "sts.amazonaws.com"
)

// Identity says as whom AWS is asked.
type Identity string

// The identities.
const (
	// Secret is an access key in a Secret.
	Secret Identity = "Secret"
	// Workload is the Pod's own token, exchanged for a role.
	Workload Identity = "WorkloadIdentity"
	// Ambient is the process's own: whatever the default chain of the AWS SDK finds.
	Ambient Identity = "Ambient"
)

var (
	// Names in EKS have no dots. IDs of clusters elsewhere that run aws-iam-authenticator may.
	clusterName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,252}$`)
	region      = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-\d+$`)
	roleARN     = regexp.MustCompile(`^arn:([a-z0-9-]+):iam::\d{12}:role/[\x21-\x7e]+$`)
)

// Config is what a Provider is made from.
type Config struct {
	// ClusterName and Region are the cluster's.
	ClusterName string
	Region      string
	// FIPS has the FIPS endpoint of STS asked, by Keyferry and by the cluster.
	FIPS bool

	// Identity is Secret if it is empty.
	Identity Identity
	// RoleARN is the role to assume. Without one the identity acts as itself; Workload needs one.
	RoleARN string

	// Secret names the Secret in messages, such as fleet/tenant-1-keys. Data is its content:
	// accessKeyID, secretAccessKey, sessionToken.
	Secret string
	Data   map[string][]byte

	// Egress says which addresses STS may be reached at.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider makes tokens for one cluster.
type Provider struct {
	cfg      Config
	endpoint string // of STS, such as https://sts.eu-central-1.amazonaws.com
	http     *http.Client
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Identity == "" {
		cfg.Identity = Secret
	}
	if err := check(cfg); err != nil {
		return nil, err
	}
	service, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), sts.EndpointParameters{
		Region:  &cfg.Region,
		UseFIPS: &cfg.FIPS,
	})
	if err != nil {
		return nil, fmt.Errorf("spec.access.eks.region: this version does not support AWS STS in the region %s", cfg.Region)
	}
	client, err := egress.Client(cfg.Egress, endpoint.Endpoint{}, providers.Credential{})
	if err != nil {
		return nil, fmt.Errorf("spec.access.eks: %w", err)
	}
	return &Provider{cfg: cfg, endpoint: service.URI.String(), http: client}, nil
}

func check(cfg Config) error {
	switch {
	case !clusterName.MatchString(cfg.ClusterName):
		return errors.New("spec.access.eks.clusterName is not the name of a cluster: use the last part of the cluster's ARN, or, outside of EKS, the clusterID of aws-iam-authenticator")
	case !region.MatchString(cfg.Region):
		return errors.New("spec.access.eks.region is not a region such as eu-central-1")
	case cfg.Identity == Workload && cfg.RoleARN == "":
		return errors.New("spec.access.eks.roleARN is missing: identity WorkloadIdentity needs the role that the Pod's token is exchanged for")
	}
	if err := checkRole(cfg.RoleARN, cfg.Region); err != nil {
		return fmt.Errorf("spec.access.eks.roleARN %w", err)
	}
	switch cfg.Identity {
	case Workload, Ambient:
		return nil
	case Secret:
		return checkKeys(cfg)
	}
	return fmt.Errorf("spec.access.eks.identity is %q: use Secret, WorkloadIdentity or Ambient", cfg.Identity)
}

func checkRole(role, region string) error {
	if role == "" {
		return nil
	}
	match := roleARN.FindStringSubmatch(role)
	if match == nil {
		return errors.New("is not the ARN of a role such as arn:aws:iam::123456789012:role/keyferry")
	}
	if want := partition(region); match[1] != want {
		return fmt.Errorf("is a role in partition %s, but region %s is in partition %s: use a role and a region of the same partition", match[1], region, want)
	}
	return nil
}

// partition is the part of AWS that a region is in, which shares nothing with the others.
func partition(region string) string {
	for prefix, name := range map[string]string{
		"cn-":      "aws-cn",
		"us-gov-":  "aws-us-gov",
		"us-iso-":  "aws-iso",
		"us-isob-": "aws-iso-b",
		"eu-isoe-": "aws-iso-e",
		"us-isof-": "aws-iso-f",
		"eusc-":    "aws-eusc",
	} {
		if strings.HasPrefix(region, prefix) {
			return name
		}
	}
	return "aws"
}

// checkKeys refuses what AWS would refuse without saying why.
func checkKeys(cfg Config) error {
	for _, key := range []string{"accessKeyID", "secretAccessKey", "sessionToken"} {
		value := cfg.Data[key]
		if len(value) == 0 && key != "sessionToken" {
			return fmt.Errorf("Secret %s: key %s is missing: the Secret needs accessKeyID and secretAccessKey and, for temporary credentials, sessionToken", cfg.Secret, key)
		}
		if strings.ContainsFunc(string(value), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return fmt.Errorf("Secret %s: key %s contains spaces, newlines or other characters that are not valid in a key: encode it again without them", cfg.Secret, key)
		}
	}
	return nil
}

// ShareKey is empty where everybody is given the same credential, and else names the
// ServiceAccount, whose own it is.
func (p *Provider) ShareKey(req providers.Request) string {
	if p.cfg.Identity != Workload {
		return ""
	}
	id := req.Identity
	return strings.Join([]string{id.Namespace, id.ServiceAccount, id.ServiceAccountUID}, "/")
}

// Issue makes a token. It ends when EKS no longer takes it, or with the credential that it is
// signed with if that is earlier.
func (p *Provider) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	signer, err := p.signer(ctx, req)
	if err != nil {
		return providers.Credential{}, err
	}
	if err := ctx.Err(); err != nil {
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("creating a token for EKS cluster %s: %w", p.cfg.ClusterName, err))
	}
	now := p.cfg.Now()
	token, err := p.token(ctx, signer, now)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%w: creating a token for EKS cluster %s: %w", providers.ErrRefused, p.cfg.ClusterName, err)
	}
	notAfter := expiry.Token(token, now)
	if signer.CanExpire && signer.Expires.Before(notAfter) {
		notAfter = signer.Expires
	}
	return providers.Credential{Token: token, NotAfter: notAfter}, nil
}
