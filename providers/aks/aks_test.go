package aks_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/aks"
	"github.com/keyferry/keyferry/providers/providertest"
)

var web = providers.Request{
	Identity:     providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "uid-1", PodName: "web-0", PodUID: "pod-1"},
	SubjectToken: subject,
}

func fromSecret(pairs ...string) aks.Config {
	data := map[string][]byte{"clientID": []byte(client), "tenantID": []byte(tenant)}
	for i := 0; i+1 < len(pairs); i += 2 {
		data[pairs[i]] = []byte(pairs[i+1])
	}
	return aks.Config{Secret: "fleet/app", Data: data}
}

func withSecret() aks.Config { return fromSecret("clientSecret", secret) }
func withPair(p pair) aks.Config {
	return fromSecret("tls.crt", string(p.crt), "tls.key", string(p.key))
}
func withCertificate() aks.Config { return withPair(ours()) }
func withWorkload() aks.Config    { return workload(client, tenant) }
func identities() map[string]aks.Config {
	return map[string]aks.Config{"secret": withSecret(), "certificate": withCertificate(), "workload": withWorkload()}
}

func workload(client, tenant string) aks.Config {
	return aks.Config{Identity: aks.WorkloadIdentity, ClientID: client, TenantID: tenant}
}

func provider(t *testing.T, cfg aks.Config) *aks.Provider {
	t.Helper()
	cfg.Egress.AllowLocal = true // where the proxy is
	p, err := aks.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestIdentities(t *testing.T) {
	for name, cfg := range identities() {
		t.Run(name, func(t *testing.T) {
			e := newEntra(t)
			p := provider(t, cfg)
			for try := range int32(2) { // no token is kept
				got, err := p.Issue(t.Context(), web)
				if err != nil {
					t.Fatal(err)
				}
				if got.Token != issued || !got.Endpoint.Equal(endpoint.Endpoint{}) {
					t.Errorf("got %q at %v", got.Token, got.Endpoint)
				}
				if less := 3599*time.Second - time.Until(got.NotAfter); less < -time.Second || less > 10*time.Second {
					t.Errorf("it ends %v early", less)
				}
				if e.asked.Load() != try+1 {
					t.Errorf("Entra was asked %d times, want %d", e.asked.Load(), try+1)
				}
			}
		})
	}
}

func TestLives(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, life := range []string{`4800`, `"4800"`} {
		e := newEntra(t)
		e.life = life
		cfg := withSecret()
		cfg.Now = func() time.Time { return at }
		if got, err := provider(t, cfg).Issue(t.Context(), web); err != nil || got.NotAfter.Sub(at).Round(10*time.Second) != 80*time.Minute {
			t.Errorf("expires_in %s: lives for %v, %v", life, got.NotAfter.Sub(at), err)
		}
	}
}

func TestSovereignClouds(t *testing.T) {
	for _, url := range []string{"https://login.microsoftonline.us", "https://login.microsoftonline.us/", "https://login.chinacloudapi.cn"} {
		newEntraAt(t, strings.Trim(strings.TrimPrefix(url, "https://"), "/"))
		cfg := withWorkload()
		cfg.AuthorityHost = url
		if _, err := provider(t, cfg).Issue(t.Context(), web); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	newEntraAt(t, "entra.example.com:8443") // an application's secret goes where the Secret's owner says
	cfg := withSecret()
	cfg.AuthorityHost = "https://entra.example.com:8443"
	p := provider(t, cfg)
	if _, err := p.Issue(t.Context(), web); err != nil || p.Server().String() != "https://entra.example.com:8443" {
		t.Errorf("%s: %v", p.Server(), err)
	}
}

func TestConformance(t *testing.T) {
	for name, cfg := range identities() {
		t.Run(name, func(t *testing.T) {
			broken := func(how http.HandlerFunc) func(*testing.T) providers.Provider {
				return func(t *testing.T) providers.Provider {
					elsewhere := cfg // beside one that is not broken
					elsewhere.AuthorityHost = "https://login.microsoftonline.us"
					newEntraAt(t, "login.microsoftonline.us").breaks(token, how)
					return provider(t, elsewhere)
				}
			}
			leaks := func(status, number int, header ...string) http.HandlerFunc {
				return func(w http.ResponseWriter, req *http.Request) {
					said := "you said " + req.PostForm.Get("client_assertion") + req.PostForm.Get("client_secret")
					fails(status, said, number, said, header...)(w, req)
				}
			}
			providertest.Run(t, providertest.Suite{
				New:         func(t *testing.T) providers.Provider { newEntra(t); return provider(t, cfg) },
				NotFound:    broken(leaks(400, 700016)),
				Refused:     broken(leaks(401, 7000215)),
				Unavailable: broken(leaks(503, 90033, "Retry-After", "7")),
				RetryAfter:  7 * time.Second,
				Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
					asked := make(chan struct{})
					return broken(func(_ http.ResponseWriter, req *http.Request) {
						close(asked)
						<-req.Context().Done()
					})(t), asked
				},
				Secrets: []string{planted, secret, subject, "PRIVATE KEY", "eyJ"},
				Request: web,
			})
		})
	}
}

func TestFailures(t *testing.T) {
	const other = "99999999-2222-3333-4444-555555555555"
	for name, test := range map[string]struct {
		cfg  aks.Config
		req  providers.Request
		at   string
		how  http.HandlerFunc
		want error
		says string
	}{
		"wrong secret": {cfg: fromSecret("clientSecret", "planted-wrong"), want: providers.ErrRefused,
			says: "asking Entra at https://login.microsoftonline.com for a token of application " + client + " in tenant " + tenant +
				": 401 Unauthorized: invalid_client: AADSTS7000215: Invalid client secret provided. You said [credential].: check clientSecret in Secret fleet/app"},
		"wrong certificate": {cfg: withPair(others()), want: providers.ErrRefused, says: "[credential]: check that the certificate in Secret fleet/app"},
		"wrong application": {cfg: workload(other, tenant), want: providers.ErrNotFound, says: "in the directory 'Contoso'.: check spec.access.aks.clientID and tenantID"},
		"wrong tenant":      {cfg: workload(client, other), want: providers.ErrNotFound, says: "AADSTS90002: Tenant 'x' not found.: check spec.access.aks.clientID and tenantID"},
		"wrong tenant in the Secret": {cfg: fromSecret("clientSecret", secret, "tenantID", other), want: providers.ErrNotFound,
			says: "check clientID and tenantID in Secret fleet/app"},
		"no token of the Pod": {cfg: withWorkload(), req: providers.Request{Identity: web.Identity}, want: providers.ErrRefused,
			says: "for audience api://AzureADTokenExchange, and the Pod sent no such token: recreate the Pod"},
		"not federated": {cfg: withWorkload(), at: token, how: fails(400, "invalid_request", 70021, "No matching federated identity record found for presented assertion."),
			want: providers.ErrRefused, says: "presented assertion.: check the federated credential of " + client + ": its issuer, subject and audience"},
		"too often":        {cfg: withWorkload(), at: token, how: says(429, ""), want: providers.ErrUnavailable, says: "429 Too Many Requests"},
		"busy":             {cfg: withWorkload(), at: token, how: fails(400, "temporarily_unavailable", 90033, "A transient error has occurred."), want: providers.ErrUnavailable, says: "AADSTS90033"},
		"discovery broken": {cfg: withWorkload(), at: discovery, how: says(502, "<html>"+planted), want: providers.ErrUnavailable, says: "502 Bad Gateway"},
		"redirect":         {cfg: withSecret(), at: token, how: says(307, "", "Location", "https://169.254.169.254"), want: providers.ErrRefused, says: "307 Temporary Redirect"},
		"cut off":          {cfg: withSecret(), at: token, how: says(200, `{"access_token":"`+planted), want: providers.ErrUnavailable, says: "asking Entra at"},
		"no token":         {cfg: withSecret(), at: token, how: says(200, `{"token_type":"Bearer","expires_in":3599}`), want: providers.ErrUnavailable, says: "missing"},
		"no expiry":        {cfg: withSecret(), at: token, how: says(200, `{"token_type":"Bearer","access_token":"`+issued+`"}`), want: providers.ErrUnavailable, says: "expires_in"},
		"two lines":        {cfg: withSecret(), at: token, how: says(200, `{"token_type":"Bearer","expires_in":3599,"access_token":"planted-\nb"}`), want: providers.ErrRefused, says: "contains no token, or a token that an HTTP header cannot contain"},
		"ended at once":    {cfg: withSecret(), at: token, how: hangUp, want: providers.ErrUnavailable, says: "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEntra(t)
			if test.how != nil {
				e.breaks(test.at, test.how)
			}
			if test.req == (providers.Request{}) {
				test.req = web
			}
			p := provider(t, test.cfg)
			_, err := p.Issue(t.Context(), test.req)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Fatalf("got %v, want that it is %q and says %q", err, test.want, test.says)
			}
			if _, again := p.Issue(t.Context(), test.req); again.Error() != err.Error() {
				t.Errorf("says %q, and then %q", err, again)
			}
		})
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestOutageAndRecovery(t *testing.T) {
	for name, cfg := range identities() {
		for _, target := range []string{discovery, token} {
			t.Run(name+"/"+target[:4], func(t *testing.T) {
				e := newEntra(t)
				p := provider(t, cfg)
				for _, down := range []http.HandlerFunc{nil, says(503, ""), nil, hangUp, nil} {
					e.breaks(target, down)
					if _, err := p.Issue(t.Context(), web); (err == nil) != (down == nil) || err != nil && !errors.Is(err, providers.ErrUnavailable) {
						t.Errorf("down is %v: %v", down != nil, err)
					}
				}
				e.away()
				if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrUnavailable) {
					t.Errorf("while it is away: %v", err)
				}
			})
		}
	}
}

// TestEachPodsOwn: of many Pods that ask at once, and again, each is given what its own token is
// worth.
func TestEachPodsOwn(t *testing.T) {
	newEntra(t)
	p := provider(t, withWorkload())
	var all sync.WaitGroup
	for _, pod := range []string{"-a", "-b", "-c", "-d", "-a", "-b", "-c", "-d"} {
		all.Go(func() {
			got, err := p.Issue(t.Context(), providers.Request{Identity: web.Identity, SubjectToken: subject + pod})
			if err != nil || got.Token != issued+pod {
				t.Errorf("%s is given %s, %v", pod, strings.TrimPrefix(got.Token, issued), err)
			}
		})
	}
	all.Wait()
}

func TestSharing(t *testing.T) {
	other := web
	other.Identity.PodUID, other.SubjectToken = "pod-2", subject+"-2"
	recreated := web
	recreated.Identity.ServiceAccountUID = "uid-2"
	if p := provider(t, withSecret()); p.ShareKey(web) != "" {
		t.Error("one application for all is not shared")
	}
	p := provider(t, withWorkload())
	if p.ShareKey(web) != p.ShareKey(other) || p.ShareKey(web) == p.ShareKey(recreated) {
		t.Error("what is shared is not of one ServiceAccount")
	}
}

// TestEnvironmentIsIgnored: the library has variables of its own.
func TestEnvironmentIsIgnored(t *testing.T) {
	for name, value := range map[string]string{
		"AZURE_AUTHORITY_HOST": "https://example.com", "AZURE_CLIENT_ID": "x", "AZURE_TENANT_ID": "x", "AZURE_CLIENT_SECRET": "x",
		"AZURE_FEDERATED_TOKEN_FILE": "/nowhere", "AZURE_CLIENT_CERTIFICATE_PATH": "/nowhere", "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN": "false",
		"AZURE_CLIENT_CERTIFICATE_PASSWORD": "x", "AZURE_USERNAME": "x", "AZURE_PASSWORD": "x", "AZURE_ADDITIONALLY_ALLOWED_TENANTS": "*",
		"AZURE_TOKEN_CREDENTIALS": "dev", "AZURE_KUBERNETES_TOKEN_PROXY": "https://example.com", "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://example.com",
		"AZURE_REGIONAL_AUTHORITY_NAME": "westeurope", "MSAL_FORCE_REGION": "westeurope", "REGION_NAME": "westeurope",
		"IDENTITY_ENDPOINT": "http://example.com", "IDENTITY_HEADER": "x", "MSI_ENDPOINT": "http://example.com", "MSI_SECRET": "x",
	} {
		t.Setenv(name, value)
	}
	newEntra(t)
	for name, cfg := range identities() {
		if _, err := provider(t, cfg).Issue(t.Context(), web); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEgress(t *testing.T) {
	for kind, host := range map[string]string{"loopback": "https://127.0.0.1:1", "link-local": "https://169.254.169.254"} {
		cfg := withSecret()
		cfg.AuthorityHost = host
		p, err := aks.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	at := func(cfg aks.Config, url string) aks.Config {
		cfg.AuthorityHost = url
		return cfg
	}
	for name, test := range map[string]struct {
		cfg  aks.Config
		says string
	}{
		"no Secret":           {aks.Config{}, "spec.access.aks.credentials is missing"},
		"other identity":      {aks.Config{Identity: "Ambient"}, "spec.access.aks.identity is none of"},
		"empty Secret":        {aks.Config{Secret: "fleet/app"}, "Secret fleet/app: key clientID is missing"},
		"client by name":      {fromSecret("clientSecret", secret, "clientID", planted), "key clientID is missing or not a UUID"},
		"tenant by name":      {fromSecret("clientSecret", secret, "tenantID", "contoso.onmicrosoft.com"), "key tenantID is missing or not a UUID"},
		"line end":            {fromSecret("clientSecret", secret, "clientID", client+"\n"), "without a newline"},
		"nothing to prove it": {fromSecret(), "neither the key clientSecret nor tls.crt and tls.key"},
		"both":                {fromSecret("clientSecret", secret, "tls.crt", planted), "remove one of them"},
		"secret of two lines": {fromSecret("clientSecret", secret+"\n"), "key clientSecret contains spaces, newlines"},
		"certificate alone":   {fromSecret("tls.crt", string(ours().crt)), "keys tls.crt and tls.key are not PEM"},
		"another's key":       {fromSecret("tls.crt", string(ours().crt), "tls.key", string(others().key)), "do not belong together"},
		"no RSA":              {withPair(curved()), "key tls.key is not an RSA key"},
		"no client":           {workload("", tenant), "spec.access.aks.clientID is not a UUID"},
		"common tenant":       {workload(client, "common"), "spec.access.aks.tenantID is not a UUID"},
		"http":                {at(withSecret(), "http://login.microsoftonline.com"), "spec.access.aks.authorityHost is not an https URL"},
		"no host":             {at(withSecret(), "login.microsoftonline.us"), "spec.access.aks.authorityHost is not a URL"},
		"user":                {at(withSecret(), "https://u:"+planted+"@example.com"), "must have no user"},
		"path":                {at(withSecret(), "https://login.microsoftonline.com/"+tenant), "must have no user, path"},
		"whose host?":         {at(withWorkload(), "https://login.example.com"), "is not a host of Microsoft, and Keyferry sends a Pod's token only to these hosts"},
		"another port":        {at(withWorkload(), "https://login.microsoftonline.com:8443"), "is not a host of Microsoft"},
		"own machine":         {at(withWorkload(), "https://127.0.0.1"), "is not a host of Microsoft"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := aks.New(test.cfg)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it says %q", err, test.says)
			}
		})
	}
}
