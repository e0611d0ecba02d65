package gke_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/gke"
	"github.com/keyferry/keyferry/providers/providertest"
)

var web = providers.Request{
	Identity:     providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "uid-1", PodName: "web-0", PodUID: "pod-1"},
	SubjectToken: subject,
}

// keyFile is a key.json, with what is changed in it.
func keyFile(change ...func(map[string]string)) map[string][]byte {
	file := map[string]string{
		"type":           "service_account",
		"project_id":     "project",
		"private_key_id": "key-1",
		"private_key":    inPEM(rsaKey()),
		"client_email":   robot,
		"client_id":      "1",
		"auth_uri":       "https://accounts.google.com/o/oauth2/auth",
		"token_uri":      "https://oauth2.googleapis.com/token",
	}
	for _, c := range change {
		c(file)
	}
	text, err := json.Marshal(file)
	if err != nil {
		panic(err)
	}
	return map[string][]byte{"key.json": text}
}

func withKey() gke.Config { return gke.Config{Secret: "fleet/key", Data: keyFile()} }
func withWorkload() gke.Config {
	return gke.Config{Identity: gke.WorkloadIdentity, WorkloadIdentityProvider: pool}
}
func ambient() gke.Config { return gke.Config{Identity: gke.Ambient} }

func impersonating(cfg gke.Config) gke.Config {
	cfg.Impersonate = deployer
	return cfg
}

// provider reaches g for Google.
func provider(t *testing.T, g *google, cfg gke.Config) *gke.Provider {
	t.Helper()
	p, err := gke.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Reach(g.server)
	p.ReachMetadata(g.plain)
	return p
}

func TestIdentities(t *testing.T) {
	for name, test := range map[string]struct {
		cfg   gke.Config
		token string
		life  time.Duration
		asked int32
	}{
		"key":                     {withKey(), own, 3599 * time.Second, 1},
		"workload":                {withWorkload(), own, 3599 * time.Second, 1},
		"ambient":                 {ambient(), own, 1799 * time.Second, 1},
		"key, impersonating":      {impersonating(withKey()), issued, time.Hour, 2},
		"workload, impersonating": {impersonating(withWorkload()), issued, time.Hour, 2},
		"ambient, impersonating":  {impersonating(ambient()), issued, time.Hour, 2},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGoogle(t)
			p := provider(t, g, test.cfg)
			for try := range int32(2) { // no token is kept
				got, err := p.Issue(t.Context(), web)
				if err != nil {
					t.Fatal(err)
				}
				if got.Token != test.token || !got.Endpoint.Equal(endpoint.Endpoint{}) {
					t.Errorf("got %q at %v", got.Token, got.Endpoint)
				}
				if less := test.life - time.Until(got.NotAfter); less < -time.Second || less > 10*time.Second {
					t.Errorf("it ends %v before %v have passed", less, test.life)
				}
				if g.asked.Load() != test.asked*(try+1) {
					t.Errorf("Google was asked %d times, want %d", g.asked.Load(), test.asked*(try+1))
				}
			}
		})
	}
}

func TestConformance(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  gke.Config
		host string // that fails
		leak string // what it repeats
	}{
		"key":           {withKey(), "oauth2.googleapis.com", subject},
		"workload":      {withWorkload(), "sts.googleapis.com", subject},
		"ambient":       {ambient(), metadataHost, ""},
		"impersonating": {impersonating(withWorkload()), "iamcredentials.googleapis.com", own + " for " + subject},
	} {
		t.Run(name, func(t *testing.T) {
			broken := func(how http.HandlerFunc) func(*testing.T) providers.Provider {
				return func(t *testing.T) providers.Provider {
					g := newGoogle(t)
					g.breaks(test.host, how)
					return provider(t, g, test.cfg)
				}
			}
			leaks := func(code int, header ...string) http.HandlerFunc {
				return func(w http.ResponseWriter, req *http.Request) {
					said := "you said " + test.leak + req.PostForm.Get("assertion")
					says(code, fmt.Sprintf(`{"error":%q,"error_description":%q}`, said, said), header...)(w, req)
				}
			}
			providertest.Run(t, providertest.Suite{
				New:         func(t *testing.T) providers.Provider { return provider(t, newGoogle(t), test.cfg) },
				NotFound:    broken(leaks(404)),
				Refused:     broken(leaks(401)),
				Unavailable: broken(leaks(503, "Retry-After", "7")),
				RetryAfter:  7 * time.Second,
				Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
					asked := make(chan struct{})
					return broken(func(_ http.ResponseWriter, req *http.Request) {
						close(asked)
						<-req.Context().Done()
					})(t), asked
				},
				Secrets: []string{planted, subject, "PRIVATE KEY", "eyJ"},
				Request: web,
			})
		})
	}
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  gke.Config
		req  providers.Request
		host string
		how  http.HandlerFunc
		want error
		says string
	}{
		"another's key": {cfg: gke.Config{Secret: "fleet/key", Data: keyFile(func(f map[string]string) { f["private_key"] = inPEM(otherKey()) })}, want: providers.ErrRefused,
			says: "400 Bad Request: invalid_grant: Invalid JWT Signature.: check that the key in Secret fleet/key"},
		"account that is gone": {cfg: gke.Config{Secret: "fleet/key", Data: keyFile(func(f map[string]string) { f["client_email"] = "gone@project.iam.gserviceaccount.com" })}, want: providers.ErrNotFound,
			says: "account not found: the service account of the key in Secret fleet/key is gone"},
		"pool that is gone": {cfg: gke.Config{Identity: gke.WorkloadIdentity, WorkloadIdentityProvider: strings.Replace(pool, "fleet", "gone", 1)}, want: providers.ErrNotFound,
			says: "check spec.access.gke.workloadIdentityProvider"},
		"no token of the Pod": {cfg: withWorkload(), req: providers.Request{Identity: web.Identity}, want: providers.ErrRefused,
			says: "for audience https://iam.googleapis.com/" + pool + ", and the Pod sent no such token: recreate the Pod"},
		"another audience": {cfg: withWorkload(), req: providers.Request{Identity: web.Identity, SubjectToken: "planted-other"}, want: providers.ErrRefused,
			says: "exchange the token of system:serviceaccount:app:web at " + pool + ": 400 Bad Request: invalid_grant: The audience in ID Token [https://other] does not match"},
		"may not impersonate": {cfg: impersonating(withWorkload()), req: providers.Request{SubjectToken: subject + "-2"}, want: providers.ErrRefused,
			says: "for a token of " + deployer + " (spec.access.gke.impersonate): 403 Forbidden: PERMISSION_DENIED: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).: give the identity roles/iam.workloadIdentityUser"},
		"key may not impersonate": {cfg: impersonating(withKey()), host: "iamcredentials.googleapis.com", how: says(403, ""), want: providers.ErrRefused,
			says: "403 Forbidden: give the identity roles/iam.serviceAccountTokenCreator"},
		"impersonates nobody": {cfg: gke.Config{Identity: gke.WorkloadIdentity, WorkloadIdentityProvider: pool, Impersonate: "other@project.iam.gserviceaccount.com"}, want: providers.ErrNotFound,
			says: "NOT_FOUND: Not found; Gaia id not found for email other@project.iam.gserviceaccount.com: check the email"},
		"metadata server": {cfg: ambient(), host: metadataHost, how: says(403, "IAM returned 403 Forbidden"), want: providers.ErrRefused,
			says: "asking the metadata server for a token of the broker's own identity: 403 Forbidden: IAM returned 403 Forbidden: on GKE, bind the ServiceAccount keyferry-broker"},
		"too often":     {cfg: withWorkload(), host: "sts.googleapis.com", how: says(429, ""), want: providers.ErrUnavailable, says: "429 Too Many Requests"},
		"redirect":      {cfg: withWorkload(), host: "sts.googleapis.com", how: says(302, "", "Location", "https://169.254.169.254"), want: providers.ErrRefused, says: "302 Found"},
		"HTML":          {cfg: withKey(), host: "oauth2.googleapis.com", how: says(200, "<html>"+planted), want: providers.ErrUnavailable, says: "https://oauth2.googleapis.com/token for a token of " + robot},
		"no expiry":     {cfg: withWorkload(), host: "sts.googleapis.com", how: says(200, `{"access_token":"`+own+`"}`), want: providers.ErrUnavailable, says: "invalid expiry"},
		"no token":      {cfg: withKey(), host: "oauth2.googleapis.com", how: says(200, `{"expires_in":3599}`), want: providers.ErrRefused, says: "contains no token, or a token that an HTTP header cannot contain"},
		"two lines":     {cfg: withKey(), host: "oauth2.googleapis.com", how: says(200, `{"access_token":"planted-\nb","expires_in":3599}`), want: providers.ErrRefused, says: "contains no token, or a token that an HTTP header cannot contain"},
		"ended at once": {cfg: withKey(), host: "oauth2.googleapis.com", how: hangUp, want: providers.ErrUnavailable, says: "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGoogle(t)
			if test.how != nil {
				g.breaks(test.host, test.how)
			}
			if test.req == (providers.Request{}) {
				test.req = web
			}
			_, err := provider(t, g, test.cfg).Issue(t.Context(), test.req)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it is %q and says %q", err, test.want, test.says)
			}
		})
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestMetadataServerWithoutExpiry(t *testing.T) {
	g := newGoogle(t)
	g.breaks(metadataHost, says(200, `{"access_token":"`+own+`"}`))
	got, err := provider(t, g, ambient()).Issue(t.Context(), web)
	if err != nil || time.Until(got.NotAfter) > 5*time.Minute {
		t.Errorf("lives for %v, %v", time.Until(got.NotAfter), err)
	}
}

func TestOutageAndRecovery(t *testing.T) {
	for host, cfg := range map[string]gke.Config{
		"oauth2.googleapis.com":         withKey(),
		"sts.googleapis.com":            withWorkload(),
		"iamcredentials.googleapis.com": impersonating(withWorkload()),
		metadataHost:                    ambient(),
	} {
		t.Run(host, func(t *testing.T) {
			g := newGoogle(t)
			p := provider(t, g, cfg)
			for _, down := range []http.HandlerFunc{nil, says(503, ""), nil, hangUp, nil} {
				g.breaks(host, down)
				if _, err := p.Issue(t.Context(), web); (err == nil) != (down == nil) || err != nil && !errors.Is(err, providers.ErrUnavailable) {
					t.Errorf("down is %v: %v", down != nil, err)
				}
			}
			g.server.Close()
			g.plain.Close()
			if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrUnavailable) {
				t.Errorf("while it is away: %v", err)
			}
		})
	}
}

// TestEachPodsOwn: of many Pods that ask at once, each is given what its own token is worth.
func TestEachPodsOwn(t *testing.T) {
	p := provider(t, newGoogle(t), withWorkload())
	var all sync.WaitGroup
	for _, pod := range []string{"-a", "-b", "-c", "-d", "-e", "-f", "-g", "-h"} {
		all.Go(func() {
			got, err := p.Issue(t.Context(), providers.Request{Identity: web.Identity, SubjectToken: subject + pod})
			if err != nil || got.Token != own+pod {
				t.Errorf("%s is given %s, %v", pod, strings.TrimPrefix(got.Token, own), err)
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
	g := newGoogle(t)
	for _, cfg := range []gke.Config{withKey(), ambient()} {
		if p := provider(t, g, cfg); p.ShareKey(web) != "" {
			t.Error("one identity for all is not shared")
		}
	}
	p := provider(t, g, withWorkload())
	if p.ShareKey(web) != p.ShareKey(other) || p.ShareKey(web) == p.ShareKey(recreated) {
		t.Error("what is shared is not of one ServiceAccount")
	}
}

// TestEnvironmentIsIgnored: what the process finds around it is for identity Ambient only.
func TestEnvironmentIsIgnored(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"GCE_METADATA_HOST": "127.0.0.1:1", "GOOGLE_APPLICATION_CREDENTIALS": file, "CLOUDSDK_CONFIG": filepath.Dir(file), "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "example.com"} {
		t.Setenv(name, value)
	}
	for _, cfg := range []gke.Config{withKey(), withWorkload()} {
		if _, err := provider(t, newGoogle(t), cfg).Issue(t.Context(), web); err != nil {
			t.Error(err)
		}
	}
}

func TestEgress(t *testing.T) {
	for name, uri := range map[string]string{"loopback": "https://127.0.0.1:1/token", "link-local": "https://169.254.169.254/token"} {
		cfg := gke.Config{Secret: "fleet/key", Data: keyFile(func(f map[string]string) { f["token_uri"] = uri })}
		p, err := gke.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnotherClock: how long a token lives does not depend on what the machine takes the time for.
func TestAnotherClock(t *testing.T) {
	g := newGoogle(t)
	g.breaks("oauth2.googleapis.com", says(200, `{"access_token":"`+own+`","expires_in":60}`))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cfg := withKey()
	cfg.Now = func() time.Time { return at }
	got, err := provider(t, g, cfg).Issue(t.Context(), web)
	if err != nil || got.Token != own || got.NotAfter.Before(at.Add(50*time.Second)) || got.NotAfter.After(at.Add(time.Minute)) {
		t.Errorf("got a token until %v, %v", got.NotAfter, err)
	}
}

func TestNewRefuses(t *testing.T) {
	key := func(name, value string) gke.Config {
		return gke.Config{Secret: "fleet/key", Data: keyFile(func(f map[string]string) { f[name] = value })}
	}
	text := func(text string) gke.Config {
		return gke.Config{Secret: "fleet/key", Data: map[string][]byte{"key.json": []byte(text)}}
	}
	for name, test := range map[string]struct {
		cfg  gke.Config
		says string
	}{
		"no key":           {gke.Config{Secret: "fleet/key"}, "Secret fleet/key: key key.json is missing"},
		"no JSON":          {text(planted), "is not JSON"},
		"external account": {text(`{"type":"external_account","credential_source":{"executable":{"command":"` + planted + `"}}}`), "is not the key of a service account"},
		"user":             {text(`{"type":"authorized_user","refresh_token":"` + planted + `"}`), "is not the key of a service account"},
		"impersonated":     {text(`{"type":"impersonated_service_account"}`), "is not the key of a service account"},
		"no type":          {text(`{}`), "is not the key of a service account"},
		"other type":       {text(`{"type":"service_account","client_email":1}`), "is malformed"},
		"no email":         {key("client_email", ""), "has no valid client_email"},
		"no private key":   {key("private_key", planted), "has no valid private_key"},
		"PEM, but no key":  {key("private_key", "-----BEGIN PRIVATE KEY-----\ncGxhbnRlZA==\n-----END PRIVATE KEY-----\n"), "has no valid private_key"},
		"plain http":       {key("token_uri", "http://oauth2.googleapis.com/token"), "token_uri that is not https"},
		"no URL":           {key("token_uri", planted), "token_uri that is not a URL"},
		"user in URL":      {key("token_uri", "https://u:"+planted+"@example.com"), "token_uri that is not a URL"},
		"no provider":      {gke.Config{Identity: gke.WorkloadIdentity, WorkloadIdentityProvider: "//iam.googleapis.com/" + pool}, "spec.access.gke.workloadIdentityProvider is not the name"},
		"project by name":  {gke.Config{Identity: gke.WorkloadIdentity, WorkloadIdentityProvider: strings.Replace(pool, "123456789", "project", 1)}, "with the project's number"},
		"no Secret":        {gke.Config{}, "spec.access.gke.credentials is missing"},
		"provider missing": {gke.Config{Identity: gke.WorkloadIdentity}, "spec.access.gke.workloadIdentityProvider is not the name"},
		"other identity":   {gke.Config{Identity: "Mine"}, "spec.access.gke.identity must be"},
		"no email to be":   {gke.Config{Identity: gke.Ambient, Impersonate: "a/../b@c"}, "spec.access.gke.impersonate is not the email"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gke.New(test.cfg)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it says %q", err, test.says)
			}
		})
	}
}
