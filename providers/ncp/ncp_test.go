package ncp_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/ncp"
	"github.com/keyferry/keyferry/providers/providertest"
)

const (
	cluster = "D11328F1-ECA9-4F1B-BA22-921F61D9C5FF"
	planted = "planted-secret"
)

// at is the moment of the test vector.
var at = time.UnixMilli(1668407407855)

func config(accessKey, secretKey string) ncp.Config {
	return ncp.Config{
		ClusterUUID: cluster,
		Region:      "KRS",
		Secret:      "fleet/keys",
		Data:        map[string][]byte{"accessKey": []byte(accessKey), "secretKey": []byte(secretKey)},
		Now:         func() time.Time { return at },
	}
}

func issue(t *testing.T, cfg ncp.Config) providers.Credential {
	t.Helper()
	p, err := ncp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Issue(t.Context(), providers.Request{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// said is the JSON in a token.
func said(t *testing.T, token string) string {
	t.Helper()
	encoded, ok := strings.CutPrefix(token, "k8s-ncp-v1.")
	if !ok {
		t.Fatalf("the token begins with %.12q", token)
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return string(decoded)
}

func TestVector(t *testing.T) {
	got := issue(t, config("access", "secret"))
	const want = `{"timestamp":"1668407407855","accessKey":"access","signature":"emeahfW4CmzsxIQ5ip0cd9yqERXJ+ZJsRfQpGNmKdXk=","path":"/iam/krs-v1/user?clusterUuid=` + cluster + `"}`
	if text := said(t, got.Token); text != want {
		t.Errorf("the token says\n%s\nwant\n%s", text, want)
	}
	if life := got.NotAfter.Sub(at); life != 240*time.Second {
		t.Errorf("it lives for %v, want 4m", life)
	}
	if !got.Endpoint.Equal(endpoint.Endpoint{}) {
		t.Errorf("it knows the endpoint %v", got.Endpoint)
	}
}

func TestRegions(t *testing.T) {
	for region, stage := range map[string]string{
		"":     "v1",
		"KR":   "v1",
		"KRS":  "krs-v1",
		"SGN":  "sgn-v1",
		"JPN":  "jpn-v1",
		"USWN": "uswn-v1",
		"DEN":  "den-v1",
		"FKR":  "v1",
		"F":    "v1",
		"KRCS": "v1",
		"CSKR": "v1",
		"SCK":  "sck-v1",
	} {
		t.Run(region, func(t *testing.T) {
			cfg := config("access", "secret")
			cfg.Region = region
			var claim struct {
				Path string `json:"path"`
			}
			if err := json.Unmarshal([]byte(said(t, issue(t, cfg).Token)), &claim); err != nil {
				t.Fatal(err)
			}
			if want := "/iam/" + stage + "/user?clusterUuid=" + cluster; claim.Path != want {
				t.Errorf("path is %s, want %s", claim.Path, want)
			}
		})
	}
}

func TestEachTokenIsOfItsTime(t *testing.T) {
	now := at
	cfg := config("access", "secret")
	cfg.Now = func() time.Time { return now }
	p, err := ncp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first, err := p.Issue(t.Context(), providers.Request{})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(150 * time.Second)
	second, err := p.Issue(t.Context(), providers.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if first.Token == second.Token || second.NotAfter.Sub(first.NotAfter) != 150*time.Second {
		t.Errorf("150 s later the token ends %v later", second.NotAfter.Sub(first.NotAfter))
	}
}

func TestInstancesAreIndependent(t *testing.T) {
	one := config("access", "secret")
	before := issue(t, one).Token
	other := config("access-2", "secret-2")
	other.Region = "KR"
	if issue(t, other).Token == before {
		t.Error("another key and region made the same token")
	}
	if issue(t, one).Token != before {
		t.Error("the first makes another token now")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ncp.Config)
		says   string
	}{
		"no UUID":              {func(c *ncp.Config) { c.ClusterUUID = "tenant-1" }, "spec.access.ncp.clusterUUID"},
		"more than a UUID":     {func(c *ncp.Config) { c.ClusterUUID += "&a=b" }, "spec.access.ncp.clusterUUID"},
		"region in lower case": {func(c *ncp.Config) { c.Region = "kr" }, "spec.access.ncp.region"},
		"region with a path":   {func(c *ncp.Config) { c.Region = "KR/../A" }, "spec.access.ncp.region"},
		"no access key":        {func(c *ncp.Config) { delete(c.Data, "accessKey") }, "Secret fleet/keys: key accessKey is missing"},
		"no secret key":        {func(c *ncp.Config) { delete(c.Data, "secretKey") }, "Secret fleet/keys: key secretKey is missing"},
		"line end":             {func(c *ncp.Config) { c.Data["secretKey"] = []byte(planted + "\n") }, "Secret fleet/keys: key secretKey contains spaces, newlines"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(planted, planted)
			test.change(&cfg)
			_, err := ncp.New(cfg)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it says %q", err, test.says)
			}
		})
	}
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T) providers.Provider {
			cfg := config(planted, planted)
			cfg.Now = nil
			p, err := ncp.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			return p
		},
		Secrets: []string{planted},
	})
}
