package testenv

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Token returns a token of a new ServiceAccount with cluster-wide permissions.
func Token(t testing.TB, cfg *rest.Config, rules ...rbacv1.PolicyRule) string {
	t.Helper()
	c := NewClient(t, cfg)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, GenerateName: "test-"}}
	must(t, c.Create(t.Context(), account))
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: account.Name}, Rules: rules}
	must(t, c.Create(t.Context(), role))
	must(t, c.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}))
	token := &authenticationv1.TokenRequest{}
	must(t, c.SubResource("token").Create(t.Context(), account, token))
	return token.Status.Token
}

// NewScraper returns a client that may get /metrics. It verifies servers as serverName with roots.
func NewScraper(t testing.TB, cfg *rest.Config, roots *x509.CertPool, serverName string) *http.Client {
	t.Helper()
	token := Token(t, cfg, rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}})
	return NewClientWithToken(token, &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12})
}

// NewClientWithToken returns a client with a bearer token; empty means none. It closes connections
// after each request.
func NewClientWithToken(token string, encryption *tls.Config) *http.Client {
	return &http.Client{Transport: withToken{token, &http.Transport{TLSClientConfig: encryption, DisableKeepAlives: true}}}
}

type withToken struct {
	token string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w withToken) RoundTrip(request *http.Request) (*http.Response, error) {
	if w.token != "" {
		request = request.Clone(request.Context())
		request.Header.Set("Authorization", "Bearer "+w.token)
	}
	return w.next.RoundTrip(request)
}
