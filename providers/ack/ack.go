// Package ack gets temporary kubeconfigs of clusters of Alibaba Cloud's Container Service for
// Kubernetes (ACK), with the operation DescribeClusterUserKubeconfig
// (https://www.alibabacloud.com/help/en/ack/ack-managed-and-ack-dedicated/developer-reference/api-cs-2015-12-15-describeclusteruserkubeconfig).
package ack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/internal/failure"
	"github.com/keyferry/keyferry/providers"
)

const (
	// The API accepts these durations.
	minDuration = 15 * time.Minute
	maxDuration = 72 * time.Hour
	// DefaultDuration is the lifetime of kubeconfigs without a Duration.
	DefaultDuration = time.Hour

	timeout = 10 * time.Second
	// maxAnswer limits the size of answers. A kubeconfig has some kilobytes.
	maxAnswer = 256 << 10
)

var (
	clusterID = regexp.MustCompile(`^[0-9a-z]+$`)
	region    = regexp.MustCompile(`^[a-z]{2}(-[a-z0-9]+)+$`)
)

// Config is the configuration of a Provider.
type Config struct {
	// ClusterID and Region are those of the cluster.
	ClusterID string
	Region    string
	// PrivateIPAddress requests the kubeconfig with the cluster's private address.
	PrivateIPAddress bool
	// Duration is the lifetime of the kubeconfigs, in whole minutes from 15 minutes to 3 days; zero is
	// DefaultDuration.
	Duration time.Duration

	// Secret names the Secret in messages, such as fleet/tenant-1-keys. Data is its content:
	// accessKeyID and accessKeySecret.
	Secret string
	Data   map[string][]byte

	// Parse returns the credential and the endpoint of a kubeconfig. Its errors repeat no secret.
	Parse func(kubeconfig []byte, now time.Time) (providers.Credential, error)
	// Egress rejects addresses.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Provider gets kubeconfigs of one cluster with one access key. They are the same for all Pods.
type Provider struct {
	cfg  Config
	host string
	http *http.Client
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Duration == 0 {
		cfg.Duration = DefaultDuration
	}
	switch {
	case !clusterID.MatchString(cfg.ClusterID):
		return nil, errors.New("spec.access.ack.clusterID: invalid ID: copy the ID of the cluster from the console")
	case !region.MatchString(cfg.Region):
		return nil, fmt.Errorf("spec.access.ack.region: invalid region %.64q (example: cn-hangzhou)", cfg.Region)
	case cfg.Duration < minDuration || cfg.Duration > maxDuration || cfg.Duration%time.Minute != 0:
		return nil, fmt.Errorf("spec.access.ack.duration: invalid duration %s: use whole minutes from 15m to 72h", cfg.Duration)
	}
	for _, key := range []string{"accessKeyID", "accessKeySecret"} {
		if value := cfg.Data[key]; len(value) == 0 {
			return nil, fmt.Errorf("Secret %s: key %s is missing: add the access key of a RAM user", cfg.Secret, key)
		} else if strings.ContainsFunc(string(value), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, fmt.Errorf("Secret %s: key %s contains spaces, newlines or other characters that are not valid in an access key: remove these characters", cfg.Secret, key)
		}
	}
	client, err := egress.Client(cfg.Egress, endpoint.Endpoint{}, providers.Credential{})
	if err != nil {
		return nil, err
	}
	return &Provider{cfg: cfg, host: "cs." + cfg.Region + ".aliyuncs.com", http: client}, nil
}

// ShareKey is empty: all requests get the same credential.
func (p *Provider) ShareKey(providers.Request) string { return "" }

// Issue requests a kubeconfig, and returns its credential and endpoint.
func (p *Provider) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	doing := "requesting a kubeconfig of cluster " + p.cfg.ClusterID + " from " + p.host
	request, err := p.request(ctx)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%w: %s: the URL is malformed", providers.ErrRefused, doing)
	}
	response, err := p.http.Do(request)
	if err != nil {
		return providers.Credential{}, p.unanswered(doing, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case response.StatusCode != http.StatusOK:
		return providers.Credential{}, fmt.Errorf("%s: %w", doing, p.failure(response, body))
	case err != nil:
		return providers.Credential{}, p.unanswered(doing, err)
	case len(body) > maxAnswer:
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("%s: the answer is longer than %d KiB", doing, maxAnswer>>10))
	}
	credential, err := p.read(body)
	if err != nil {
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("%s: %w", doing, err))
	}
	return credential, nil
}

// request returns the signed request.
func (p *Provider) request(ctx context.Context) (*http.Request, error) {
	query := url.Values{
		"PrivateIpAddress":         {strconv.FormatBool(p.cfg.PrivateIPAddress)},
		"TemporaryDurationMinutes": {strconv.Itoa(int(p.cfg.Duration / time.Minute))},
	}
	at := "https://" + p.host + "/k8s/" + p.cfg.ClusterID + "/user_config?" + query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "keyferry")
	request.Header.Set("X-Acs-Action", "DescribeClusterUserKubeconfig")
	request.Header.Set("X-Acs-Version", "2015-12-15")
	sign(request, string(p.cfg.Data["accessKeyID"]), p.cfg.Data["accessKeySecret"], p.cfg.Now(), nonce())
	return request, nil
}

// read returns the credential in an answer. It expires with the kubeconfig or with its certificate,
// whichever is earlier.
func (p *Provider) read(body []byte) (providers.Credential, error) {
	var answer struct {
		Config     string    `json:"config"`
		Expiration time.Time `json:"expiration"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return providers.Credential{}, errors.New("the answer is malformed")
	}
	credential, err := p.cfg.Parse([]byte(answer.Config), p.cfg.Now())
	if err != nil {
		return providers.Credential{}, fmt.Errorf("the kubeconfig in the answer: %w", err)
	}
	if !answer.Expiration.IsZero() && answer.Expiration.Before(credential.NotAfter) {
		credential.NotAfter = answer.Expiration
	}
	return credential, nil
}

// failure returns the error for an answer that is not a success.
func (p *Provider) failure(response *http.Response, body []byte) error {
	var answer struct{ Code, Message string }
	_ = json.Unmarshal(body, &answer)
	message := strings.TrimRight(failure.Status(response.StatusCode)+": "+p.show(answer.Code+" "+answer.Message), ": ")
	switch {
	case failure.Passing(response.StatusCode) || strings.HasPrefix(answer.Code, "Throttling"):
		return providers.Unavailable(failure.RetryAfter(response.Header, p.cfg.Now()), errors.New(message))
	case strings.HasPrefix(answer.Code, "InvalidAccessKeyId") || answer.Code == "SignatureDoesNotMatch":
		return fmt.Errorf("%w: %s: check accessKeyID and accessKeySecret in Secret %s", providers.ErrRefused, message, p.cfg.Secret)
	case response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %s: check spec.access.ack.clusterID and region", providers.ErrNotFound, message)
	}
	return fmt.Errorf("%w: %s: check that the RAM user may call cs:DescribeClusterUserKubeconfig for the cluster", providers.ErrRefused, message)
}

func (p *Provider) unanswered(doing string, err error) error {
	return failure.Unanswered(doing, "check the proxy and the CA certificates of the broker", err, string(p.cfg.Data["accessKeySecret"]))
}

func (p *Provider) show(text string) string {
	return failure.Show(text, string(p.cfg.Data["accessKeySecret"]))
}
