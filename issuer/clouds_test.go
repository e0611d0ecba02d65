package issuer_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

const gkePool = "projects/1/locations/global/workloadIdentityPools/fleet/providers/management"

// cloud is a pair of TargetClusters whose provider is a cloud's token endpoint.
type cloud struct {
	*pair
	request providers.Request
}

func (c *cloud) ask(name string) (issuer.Issued, error) {
	c.request.Identity = web.Identity
	return c.issuer.Issue(c.t.Context(), types.NamespacedName{Namespace: "fleet", Name: name}, c.request)
}

func (c *cloud) issue(name string) issuer.Issued {
	c.t.Helper()
	issued, err := c.ask(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return issued
}

// newGKE is two clusters, each entered with a key of its own service account.
func newGKE(t *testing.T, issue v1alpha1.Issue) *cloud {
	c := &cloud{pair: newPair(t, v1alpha1.AccessNCP, issue)}
	outside.Serve(t, "oauth2.googleapis.com", http.HandlerFunc(c.google))
	for _, name := range []string{"tenant-1", "tenant-2"} {
		key := types.NamespacedName{Namespace: "fleet", Name: name}
		c.objects[key].(*v1alpha1.TargetCluster).Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessGKE, GKE: &v1alpha1.GKEAccess{
			Identity: v1alpha1.IdentitySecret, Credentials: &v1alpha1.SecretReference{Name: name + "-keys"},
		}}
		key.Name += "-keys"
		c.objects[key].(*corev1.Secret).Data = map[string][]byte{"key.json": serviceAccountKey(t, name)}
	}
	return c
}

var rsaKey = sync.OnceValues(func() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
})

func serviceAccountKey(t *testing.T, name string) []byte {
	t.Helper()
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "private_key": string(key), "client_email": name + "@project.iam.gserviceaccount.com",
		"token_uri": "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tenants are those of the two clusters in Entra.
var tenants = map[string]string{"tenant-1": "11111111-2222-3333-4444-555555555551", "tenant-2": "11111111-2222-3333-4444-555555555552"}

// newAKS is two clusters, entered by each Pod as itself, by an application in a tenant of its own.
func newAKS(t *testing.T, issue v1alpha1.Issue) *cloud {
	c := &cloud{pair: newPair(t, v1alpha1.AccessNCP, issue)}
	outside.Serve(t, "login.microsoftonline.com", http.HandlerFunc(c.entra))
	for name, tenant := range tenants {
		cluster := c.objects[types.NamespacedName{Namespace: "fleet", Name: name}].(*v1alpha1.TargetCluster)
		cluster.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessAKS, AKS: &v1alpha1.AKSAccess{
			Identity: v1alpha1.IdentityWorkload, ClientID: tenant, TenantID: tenant,
		}}
	}
	c.request.SubjectToken = "eyJhbGci.eyJhdWQiOiJhcGk6Ly9BenVyZUFEVG9rZW5FeGNoYW5nZSJ9.c2ln" // for api://AzureADTokenExchange
	return c
}

// entra gives the application of each tenant a token of its own.
func (c *cloud) entra(w http.ResponseWriter, req *http.Request) {
	tenant, path, _ := strings.Cut(req.URL.Path[1:], "/")
	for name, id := range tenants {
		switch base := "https://login.microsoftonline.com/" + id; {
		case tenant != id:
		case path == "v2.0/.well-known/openid-configuration":
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q}`, base+"/v2.0", base+"/authorize", base+"/oauth2/v2.0/token")
		case path == "oauth2/v2.0/token" && req.FormValue("client_assertion") == c.request.SubjectToken:
			c.answer(w, name, req.FormValue("client_assertion"))
		}
	}
}

// google gives each service account a token of its own.
func (c *cloud) google(w http.ResponseWriter, req *http.Request) {
	var claims struct{ Iss string }
	if parts := strings.Split(req.FormValue("assertion"), "."); len(parts) == 3 {
		text, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(text, &claims)
	}
	name, _, _ := strings.Cut(claims.Iss, "@")
	c.answer(w, name, req.FormValue("assertion"))
}

// answer gives the account a token, or repeats the secret.
func (c *cloud) answer(w http.ResponseWriter, account, secret string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if c.fail[account] {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintf(w, `{"error":"temporarily_unavailable","error_description":%q}`, planted+secret)
		return
	}
	_, _ = fmt.Fprintf(w, `{"access_token":"of-%s-at-%s","expires_in":3600,"token_type":"Bearer"}`, account, c.now.Format("15.04"))
}

// clouds runs a test with each.
func clouds(t *testing.T, issue v1alpha1.Issue, test func(*testing.T, *cloud)) {
	for kind, build := range map[v1alpha1.AccessType]func(*testing.T, v1alpha1.Issue) *cloud{
		v1alpha1.AccessGKE: newGKE, v1alpha1.AccessAKS: newAKS,
	} {
		t.Run(string(kind), func(t *testing.T) { test(t, build(t, issue)) })
	}
}

func TestTwoOfACloud(t *testing.T) {
	clouds(t, handOn, func(t *testing.T, c *cloud) {
		one, two := c.issue("tenant-1"), c.issue("tenant-2")
		if one.Token != "of-tenant-1-at-12.00" || two.Token != "of-tenant-2-at-12.00" || one.NotAfter.Sub(c.clock()) != time.Hour {
			t.Errorf("are given %s and %s for %v", one.Token, two.Token, one.NotAfter.Sub(c.clock()))
		}
		c.with(func() { c.now, c.fail["tenant-1"] = c.now.Add(50*time.Minute), true })
		if kept, other := c.issue("tenant-1"), c.issue("tenant-2"); kept.Token != one.Token || other.Token != "of-tenant-2-at-12.50" {
			t.Errorf("while the first fails: %s and %s", kept.Token, other.Token)
		}
		c.with(func() { c.now = c.now.Add(10 * time.Minute) })
		if _, err := c.ask("tenant-1"); !errors.Is(err, providers.ErrUnavailable) || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("at its end: %v", err)
		}
		c.with(func() { c.now, c.fail["tenant-1"] = c.now.Add(time.Minute), false })
		if again := c.issue("tenant-1"); again.Token != "of-tenant-1-at-13.01" {
			t.Errorf("after the outage: %s", again.Token)
		}
	})
}

func TestGetsIntoTheTargetByACloud(t *testing.T) {
	mirror := v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror},
	}}
	clouds(t, mirror, func(t *testing.T, c *cloud) {
		if got := c.issue("tenant-1"); got.Token != "issued" {
			t.Errorf("got %q", got.Token)
		}
		if len(c.seen) != 1 || c.seen[0] != "Bearer of-tenant-1-at-12.00" {
			t.Errorf("the target saw %q", c.seen)
		}
	})
}

func TestGKEIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		access v1alpha1.GKEAccess
		reason string
		says   string
	}{
		"ambient":         {v1alpha1.GKEAccess{Identity: v1alpha1.IdentityAmbient}, resolve.ReasonAmbientRefused, "spec.access.gke.identity Ambient uses the broker's own identity"},
		"no provider":     {v1alpha1.GKEAccess{Identity: v1alpha1.IdentityWorkload}, resolve.ReasonInvalidAccess, "spec.access.gke.workloadIdentityProvider"},
		"no credentials":  {v1alpha1.GKEAccess{}, resolve.ReasonInvalidAccess, "spec.access.gke.credentials is missing"},
		"no such Secret":  {v1alpha1.GKEAccess{Credentials: &v1alpha1.SecretReference{Name: "gone"}}, resolve.ReasonSecretNotFound, "spec.access.gke.credentials.name refers"},
		"other's content": {v1alpha1.GKEAccess{Credentials: &v1alpha1.SecretReference{Name: "other"}}, resolve.ReasonInvalidAccess, "Secret fleet/other: key key.json is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newGKE(t, handOn)
			c.secret().Name = "other"
			c.secret().Data = nil
			c.add(c.secret())
			c.cluster().Spec.Access.GKE = &test.access
			_, err := c.ask("tenant-1")
			if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != test.reason || !strings.Contains(invalid.Message, test.says) {
				t.Errorf("got %+v, want %s: %s", err, test.reason, test.says)
			}
		})
	}
}

func TestGKEWorkloadIdentity(t *testing.T) {
	c := newGKE(t, handOn)
	c.cluster().Spec.Access.GKE = &v1alpha1.GKEAccess{Identity: v1alpha1.IdentityWorkload, WorkloadIdentityProvider: gkePool}
	got, err := c.issuer.Resolve(t.Context(), c.cluster())
	if err != nil || got.SubjectAudience != "https://iam.googleapis.com/"+gkePool {
		t.Errorf("wants a token for %q, %v", got.SubjectAudience, err)
	}
	if _, err := c.ask("tenant-1"); !errors.Is(err, resolve.ErrSubjectToken) || !strings.Contains(err.Error(), "recreate the Pod") {
		t.Errorf("without a token: %v", err)
	}
}

func TestAKSIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		access v1alpha1.AKSAccess
		reason string
		says   string
	}{
		"no application": {v1alpha1.AKSAccess{Identity: v1alpha1.IdentityWorkload}, resolve.ReasonInvalidAccess, "is not a UUID"},
		"no credentials": {v1alpha1.AKSAccess{}, resolve.ReasonInvalidAccess, "spec.access.aks.credentials is missing"},
		"no such Secret": {v1alpha1.AKSAccess{Credentials: &v1alpha1.SecretReference{Name: "gone"}}, resolve.ReasonSecretNotFound, "spec.access.aks.credentials.name refers"},
		"other content":  {v1alpha1.AKSAccess{Credentials: &v1alpha1.SecretReference{Name: "tenant-1-keys"}}, resolve.ReasonInvalidAccess, "Secret fleet/tenant-1-keys: key "},
		"link-local": {v1alpha1.AKSAccess{AuthorityHost: "https://169.254.169.254", Credentials: &v1alpha1.SecretReference{Name: "tenant-2-keys"}},
			resolve.ReasonAddressRefused, "spec.access.aks.authorityHost: 169.254.169.254 is a link-local address"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newAKS(t, handOn)
			c.objects[types.NamespacedName{Namespace: "fleet", Name: "tenant-2-keys"}].(*corev1.Secret).Data = map[string][]byte{
				"clientID": []byte(tenants["tenant-2"]), "tenantID": []byte(tenants["tenant-2"]), "clientSecret": []byte(planted),
			}
			c.cluster().Spec.Access.AKS = &test.access
			_, err := c.ask("tenant-1")
			if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != test.reason || !strings.Contains(invalid.Message, test.says) {
				t.Errorf("got %+v, want %s: %s", err, test.reason, test.says)
			}
		})
	}
}

func TestAKSWorkloadIdentity(t *testing.T) {
	c := newAKS(t, handOn)
	if got, err := c.issuer.Resolve(t.Context(), c.cluster()); err != nil || got.SubjectAudience != "api://AzureADTokenExchange" {
		t.Errorf("wants a token for %q, %v", got.SubjectAudience, err)
	}
	c.request.SubjectToken = ""
	if _, err := c.ask("tenant-1"); !errors.Is(err, resolve.ErrSubjectToken) || !strings.Contains(err.Error(), "recreate the Pod") {
		t.Errorf("without a token: %v", err)
	}
}
