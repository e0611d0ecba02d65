package ack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyferry/keyferry/internal/internet"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/kubeconfig"
	"github.com/keyferry/keyferry/providers/providertest"
)

const (
	cluster = "c5b5e80b0b64a4bf6939d2d8fbbc50000"
	host    = "cs.cn-hangzhou.aliyuncs.com"
	id      = "LTAI5tExample"
	secret  = "planted-access-key-secret"
)

var outside *internet.Internet

func TestMain(m *testing.M) {
	var err error
	if outside, err = internet.Connect(); err != nil {
		panic(err)
	}
	code := m.Run()
	outside.Close()
	os.Exit(code)
}

// api is a stand-in for the API of one cluster. It rejects every request that differs from the
// documented one.
type api struct {
	t          *testing.T
	private    string    // the expected PrivateIpAddress
	minutes    string    // the expected TemporaryDurationMinutes
	expiration time.Time // zero leaves it out

	mu     sync.Mutex
	nonces map[string]bool
}

func newAPI(t *testing.T) *api {
	a := &api{t: t, private: "false", minutes: "60", nonces: map[string]bool{}}
	outside.Serve(t, host, a)
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	wantQuery := "PrivateIpAddress=" + a.private + "&TemporaryDurationMinutes=" + a.minutes
	switch {
	case req.Method != http.MethodGet || req.ContentLength > 0:
		a.t.Errorf("got %s with %d bytes", req.Method, req.ContentLength)
	case req.Header.Get("x-acs-action") != "DescribeClusterUserKubeconfig" || req.Header.Get("x-acs-version") != "2015-12-15":
		a.t.Errorf("got action %q of version %q", req.Header.Get("x-acs-action"), req.Header.Get("x-acs-version"))
	case req.URL.RawQuery != wantQuery:
		a.t.Errorf("got the parameters %s, want %s", req.URL.RawQuery, wantQuery)
	}
	if code, message := a.authenticate(req); code != "" {
		fails(http.StatusBadRequest, code, message)(w, req)
		return
	}
	if req.URL.Path != "/k8s/"+cluster+"/user_config" {
		fails(http.StatusNotFound, "ErrorClusterNotFound", "no cluster at "+req.URL.Path)(w, req)
		return
	}
	answer := map[string]any{"config": string(newKubeconfig())}
	if !a.expiration.IsZero() {
		answer["expiration"] = a.expiration.UTC().Format(time.RFC3339)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

var authorization = regexp.MustCompile(`^ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})$`)

// authenticate verifies the signature of a request as the documentation describes it; it shares no
// code with the provider. It returns the code and message of the API's error.
func (a *api) authenticate(req *http.Request) (code, message string) {
	parts := authorization.FindStringSubmatch(req.Header.Get("Authorization"))
	if parts == nil {
		return "InvalidAuthorization", "malformed"
	}
	if parts[1] != id {
		return "InvalidAccessKeyId.NotFound", "Specified access key is not found."
	}
	date, err := time.Parse(time.RFC3339, req.Header.Get("x-acs-date"))
	if err != nil || time.Since(date).Abs() > 15*time.Minute {
		return "InvalidTimeStamp.Expired", "the date is " + req.Header.Get("x-acs-date")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	nonce := req.Header.Get("x-acs-signature-nonce")
	if nonce == "" || a.nonces[nonce] {
		return "SignatureNonceUsed", nonce
	}
	a.nonces[nonce] = true
	signed := strings.Split(parts[2], ";")
	for name := range req.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-acs-") && !slices.Contains(signed, name) {
			return "InvalidAuthorization", name + " is not signed"
		}
	}
	if !slices.IsSorted(signed) || !slices.Contains(signed, "host") {
		return "InvalidAuthorization", "signed headers " + parts[2]
	}
	lines := []string{req.Method, req.URL.Path, req.URL.Query().Encode()}
	for _, name := range signed {
		value := req.Header.Get(name)
		if name == "host" {
			value = req.Host
		}
		lines = append(lines, fmt.Sprintf("%s:%s", name, strings.TrimSpace(value)))
	}
	lines = append(lines, "", parts[2], fmt.Sprintf("%x", sha256.Sum256(nil)))
	toSign := fmt.Sprintf("ACS3-HMAC-SHA256\n%x", sha256.Sum256([]byte(strings.Join(lines, "\n"))))
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte(toSign))
	if fmt.Sprintf("%x", mac.Sum(nil)) != parts[3] || req.Header.Get("x-acs-content-sha256") != lines[len(lines)-1] {
		return "SignatureDoesNotMatch", "the string to sign is " + toSign
	}
	return "", ""
}

func fails(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message, "requestId": "1"})
	}
}

// lifetime is that of the client certificates.
const lifetime = time.Hour

var newKubeconfig = sync.OnceValue(func() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "204527"}, NotAfter: time.Now().Add(lifetime),
	}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		panic(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: kubernetes, user: "204527"}}]
clusters: [{name: kubernetes, cluster: {server: "https://203.0.113.7:6443", certificate-authority-data: %s}}]
users: [{name: "204527", user: {client-certificate-data: %[1]s, client-key-data: %s}}]
`, encode("CERTIFICATE", der), encode("PRIVATE KEY", private))
})

func config() Config {
	return Config{
		ClusterID: cluster, Region: "cn-hangzhou", Secret: "fleet/tenant-1-keys", Parse: kubeconfig.Parse,
		Data: map[string][]byte{"accessKeyID": []byte(id), "accessKeySecret": []byte(secret)},
	}
}

func provider(t *testing.T, cfg Config) *Provider {
	t.Helper()
	cfg.Egress.AllowLocal = true // the proxy's address
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConformance(t *testing.T) {
	answering := func(handle http.HandlerFunc) func(*testing.T) providers.Provider {
		return func(t *testing.T) providers.Provider {
			outside.Serve(t, "cs.eu-central-1.aliyuncs.com", handle) // apart from that of New
			cfg := config()
			cfg.Region = "eu-central-1"
			return provider(t, cfg)
		}
	}
	const leak = "you sent " + secret
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T) providers.Provider {
			newAPI(t)
			return provider(t, config())
		},
		NotFound: answering(fails(404, "ErrorClusterNotFound", leak)),
		Refused:  answering(fails(403, "Forbidden.RAM", leak)),
		Unavailable: answering(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Retry-After", "7")
			fails(503, "ServiceUnavailable", leak)(w, req)
		}),
		RetryAfter: 7 * time.Second,
		Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
			requested := make(chan struct{})
			return answering(func(_ http.ResponseWriter, req *http.Request) {
				close(requested)
				<-req.Context().Done()
			})(t), requested
		},
		Secrets: []string{secret},
	})
}

func TestRequest(t *testing.T) {
	for name, test := range map[string]struct {
		change           func(*Config)
		private, minutes string
	}{
		"defaults":        {func(*Config) {}, "false", "60"},
		"private address": {func(c *Config) { c.PrivateIPAddress = true }, "true", "60"},
		"shortest":        {func(c *Config) { c.Duration = 15 * time.Minute }, "false", "15"},
		"longest":         {func(c *Config) { c.Duration = 72 * time.Hour }, "false", "4320"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t)
			a.private, a.minutes = test.private, test.minutes
			cfg := config()
			test.change(&cfg)
			got, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.ClientCertificate) == 0 || len(got.ClientKey) == 0 || got.Endpoint.Server != "https://203.0.113.7:6443" {
				t.Errorf("got a certificate of %d bytes, a key of %d bytes, for %s", len(got.ClientCertificate), len(got.ClientKey), got.Endpoint.Server)
			}
			if left := time.Until(got.NotAfter); left <= lifetime-time.Minute || left > lifetime {
				t.Errorf("the credential expires in %v, want the certificate's lifetime", left)
			}
		})
	}
}

func TestEarlierExpirationOfTheAnswer(t *testing.T) {
	a := newAPI(t)
	a.expiration = time.Now().Add(20 * time.Minute).Truncate(time.Second)
	got, err := provider(t, config()).Issue(t.Context(), providers.Request{})
	if err != nil || !got.NotAfter.Equal(a.expiration) {
		t.Errorf("got a credential that expires at %v, and %v, want %v", got.NotAfter, err, a.expiration)
	}
}

func TestErrors(t *testing.T) {
	wrongKey := func(key string) func(*Config) { return func(c *Config) { c.Data[key] = []byte("other") } }
	for name, test := range map[string]struct {
		change func(*Config)
		answer http.HandlerFunc
		want   error
		says   string
	}{
		"another cluster": {func(c *Config) { c.ClusterID = "c0" }, nil, providers.ErrNotFound, "no cluster at /k8s/c0/user_config: check spec.access.ack.clusterID"},
		"unknown key":     {wrongKey("accessKeyID"), nil, providers.ErrRefused, "check accessKeyID and accessKeySecret in Secret fleet/tenant-1-keys"},
		"wrong secret":    {wrongKey("accessKeySecret"), nil, providers.ErrRefused, "SignatureDoesNotMatch"},
		"throttled":       {nil, fails(400, "Throttling.User", "slow down"), providers.ErrUnavailable, "slow down"},
		"no kubeconfig":   {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"config":"a: b"}`)) }, providers.ErrUnavailable, "the kubeconfig in the answer: has no current-context"},
		"no JSON":         {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) }, providers.ErrUnavailable, "the answer is malformed"},
		"a redirect": {nil, func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://other.example/", http.StatusFound)
		}, providers.ErrRefused, "302 Found"},
	} {
		t.Run(name, func(t *testing.T) {
			newAPI(t)
			if test.answer != nil {
				outside.Serve(t, host, test.answer)
			}
			cfg := config()
			if test.change != nil {
				test.change(&cfg)
			}
			if _, err := provider(t, cfg).Issue(t.Context(), providers.Request{}); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want an error of the kind %q with %q", err, test.want, test.says)
			}
		})
	}
}

func TestNewRejects(t *testing.T) {
	for says, change := range map[string]func(*Config){
		"spec.access.ack.clusterID":               func(c *Config) { c.ClusterID = "../other" },
		"spec.access.ack.region: invalid region":  func(c *Config) { c.Region = "evil.example/" },
		"whole minutes from 15m to 72h":           func(c *Config) { c.Duration = 14 * time.Minute },
		"invalid duration 1h0m30s":                func(c *Config) { c.Duration = time.Hour + 30*time.Second },
		"key accessKeyID is missing":              func(c *Config) { delete(c.Data, "accessKeyID") },
		"key accessKeySecret contains spaces":     func(c *Config) { c.Data["accessKeySecret"] = []byte("a\n") },
		"Secret fleet/tenant-1-keys: key accessK": func(c *Config) { c.Data = nil },
	} {
		t.Run(says, func(t *testing.T) {
			cfg := config()
			change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want an error with %q", err, says)
			}
		})
	}
}

// TestSignExample signs the example of the vendor's documentation
// (https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature).
func TestSignExample(t *testing.T) {
	request, err := http.NewRequest(http.MethodPost,
		"https://ecs.cn-shanghai.aliyuncs.com/?ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Acs-Action", "RunInstances")
	request.Header.Set("X-Acs-Version", "2014-05-26")
	sign(request, "YourAccessKeyId", []byte("YourAccessKeySecret"), time.Date(2023, 10, 26, 10, 22, 32, 0, time.UTC), "3156853299f313e23d1673dc12e1703d")
	const want = "Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
	if got := request.Header.Get("Authorization"); !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}
