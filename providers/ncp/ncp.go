// Package ncp makes tokens for clusters of Naver Cloud Platform's Kubernetes service, NKS. A token
// is a request to its IAM signed with an access key, which the cluster's gateway sends on; making
// one asks nobody.
//
// The form of the tokens is that of https://github.com/NaverCloudPlatform/ncp-iam-authenticator.
package ncp

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

var (
	uuid   = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	region = regexp.MustCompile(`^([A-Z][A-Z0-9]*)?$`)
)

// Config is what a Provider is made from.
type Config struct {
	// ClusterUUID and Region are the cluster's; without a region it is in KR.
	ClusterUUID string
	Region      string

	// Secret names the Secret in messages, such as fleet/tenant-1-keys. Data is its content: accessKey
	// and secretKey.
	Secret string
	Data   map[string][]byte

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider makes tokens of one access key for one cluster. They are the same for everybody.
type Provider struct {
	path      string
	accessKey string
	secretKey []byte
	now       func() time.Time
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	switch {
	case !uuid.MatchString(cfg.ClusterUUID):
		return nil, errors.New("spec.access.ncp.clusterUUID is not a UUID: copy the cluster's UUID from the console")
	case !region.MatchString(cfg.Region):
		return nil, errors.New("spec.access.ncp.region is not the code of a region, such as KR, SGN or JPN")
	}
	for _, key := range []string{"accessKey", "secretKey"} {
		if err := checkKey(cfg.Data[key]); err != nil {
			return nil, fmt.Errorf("Secret %s: key %s %w", cfg.Secret, key, err)
		}
	}
	return &Provider{
		path:      "/iam/" + stage(cfg.Region) + "/user?clusterUuid=" + cfg.ClusterUUID,
		accessKey: string(cfg.Data["accessKey"]),
		secretKey: cfg.Data["secretKey"],
		now:       cfg.Now,
	}, nil
}

// checkKey refuses what NCP would refuse without saying why.
func checkKey(value []byte) error {
	if len(value) == 0 {
		return errors.New("is missing: add accessKey and secretKey of an access key of NCP's IAM")
	}
	if strings.ContainsFunc(string(value), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("contains spaces, newlines or other characters that are not valid in a key: encode it again without them")
	}
	return nil
}

// stage is the part of IAM that a region's clusters ask.
func stage(region string) string {
	if region == "" || region == "KR" || strings.HasPrefix(region, "F") || strings.Contains(region, "CS") {
		return "v1"
	}
	return strings.ToLower(region) + "-v1"
}

// claim is what a token says, in the order in which it does.
type claim struct {
	Timestamp string `json:"timestamp"`
	AccessKey string `json:"accessKey"`
	Signature string `json:"signature"`
	Path      string `json:"path"`
}

// Issue makes a token. NCP takes it for a few minutes from now.
func (p *Provider) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	if err := ctx.Err(); err != nil {
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("making a token of NCP: %w", err))
	}
	now := p.now()
	said, err := json.Marshal(p.claim(now)) // #nosec G117 -- a token names the key that it is signed with
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%w: making a token of NCP: %w", providers.ErrRefused, err)
	}
	token := providers.NCPTokenPrefix + base64.StdEncoding.EncodeToString(said)
	return providers.Credential{Token: token, NotAfter: expiry.Token(token, now)}, nil
}

func (p *Provider) claim(now time.Time) claim {
	timestamp := strconv.FormatInt(now.UnixMilli(), 10)
	mac := hmac.New(sha256.New, p.secretKey)
	mac.Write([]byte("GET " + p.path + "\n" + timestamp + "\n" + p.accessKey))
	return claim{
		Timestamp: timestamp,
		AccessKey: p.accessKey,
		Signature: base64.StdEncoding.EncodeToString(mac.Sum(nil)),
		Path:      p.path,
	}
}

// ShareKey is empty: everybody is given the same credential.
func (p *Provider) ShareKey(providers.Request) string { return "" }
