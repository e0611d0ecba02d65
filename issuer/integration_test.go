package issuer_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/internet"
	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
)

// The API server plays both parts: this cluster and the target. The clouds are outside. TestMain
// sets all.
var (
	outside      *internet.Internet
	serverConfig *rest.Config
	server       *kubernetes.Clientset
)

func TestMain(m *testing.M) {
	if os.Getenv("ACT_AS") == "plugin" { // as providerFile asks for
		actAsPlugin()
		return
	}
	var err error
	if outside, err = internet.Connect(); err != nil {
		panic(err)
	}
	code := testenv.Run(m, func(cfg *rest.Config) {
		serverConfig, server = cfg, kubernetes.NewForConfigOrDie(cfg)
	})
	outside.Close()
	os.Exit(code)
}

// front is a server before the target's API server, which counts the tokens that are asked for.
type front struct {
	*httptest.Server
	tokens atomic.Int32
	// instead, if set, answers requests in place of the API server, and reports whether it did.
	instead atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func newFront(t *testing.T) *front {
	t.Helper()
	target, err := url.Parse(serverConfig.Host)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(serverConfig.CAData)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	f := &front{}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/token") {
			f.tokens.Add(1)
		}
		if instead := f.instead.Load(); instead != nil && (*instead)(w, req) {
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *front) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
}

// fleet is a namespace with a TargetCluster that leads through a front, and an Issuer.
type fleet struct {
	client  client.Client
	issuer  *issuer.Issuer
	cluster *v1alpha1.TargetCluster
	front   *front
}

func newFleet(t *testing.T, issue v1alpha1.TokenRequestIssue) *fleet {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, rbacv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(serverConfig, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	policy := endpoint.Policy{AllowLocal: true}
	i, err := issuer.New(issuer.Config{Clusters: c, Secrets: c, ClusterID: "management", Policy: policy, Verify: verify.New(policy)})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{client: c, issuer: i, front: newFront(t)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-"}}
	f.create(t, ns)
	f.create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "tenant-1"},
		StringData: map[string]string{"kubeconfig": f.kubeconfig(t, ns.Name)},
	})
	if issue.ServiceAccount.Type == v1alpha1.ServiceAccountFixed {
		issue.ServiceAccount.Namespace = ns.Name
	}
	f.cluster = &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "tenant-1"},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "tenant-1"}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &issue},
		},
	}
	f.create(t, f.cluster)
	return f
}

// kubeconfig leads through the front, as an account that may do everything.
func (f *fleet) kubeconfig(t *testing.T, namespace string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "keyferry"}}
	f.create(t, account)
	f.create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "keyferry"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"},
	})
	token, err := server.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "keyferry", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"clusters":[{"name":"a","cluster":{"server":%q,"certificate-authority-data":%q}}],"users":[{"name":"a","user":{"token":%q}}]}`,
		f.front.URL, base64.StdEncoding.EncodeToString(f.front.ca()), token.Status.Token)
}

func (f *fleet) create(t *testing.T, object client.Object) {
	t.Helper()
	if err := f.client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) issue(t *testing.T, id providers.Identity) issuer.Issued {
	t.Helper()
	issued, err := f.issuer.Issue(t.Context(), client.ObjectKeyFromObject(f.cluster), providers.Request{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func review(t *testing.T, token string) authenticationv1.TokenReviewStatus {
	t.Helper()
	review, err := server.AuthenticationV1().TokenReviews().Create(t.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status
}

func TestRealTargetFixed(t *testing.T) {
	f := newFleet(t, v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "x", Name: "deployer"},
		Create:         true,
		Revocable:      true,
	})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := f.issuer.Issue(t.Context(), client.ObjectKeyFromObject(f.cluster), web); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := f.front.tokens.Load(); got != 1 {
		t.Errorf("the target was asked for %d tokens, want 1", got)
	}
	issued := f.issue(t, web.Identity)
	status := review(t, issued.Token)
	if want := "system:serviceaccount:" + f.cluster.Namespace + ":deployer"; status.User.Username != want {
		t.Errorf("the token is of %+v, want %s", status, want)
	}
	if ids := status.User.Extra["authentication.kubernetes.io/credential-id"]; len(ids) != 1 || ids[0] != issued.ID {
		t.Errorf("the target calls the credential %v, and we %q", ids, issued.ID)
	}
	account := &corev1.ServiceAccount{}
	if err := f.client.Get(t.Context(), types.NamespacedName{Namespace: f.cluster.Namespace, Name: "deployer"}, account); err != nil {
		t.Fatal(err)
	}
	if got, want := account.Annotations["keyferry.dev/owner"], "management/"+f.cluster.Namespace+"/tenant-1"; got != want {
		t.Errorf("the account is marked %q, want %q", got, want)
	}
}

func TestRealTargetMirror(t *testing.T) {
	f := newFleet(t, v1alpha1.TokenRequestIssue{ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror}})
	for _, name := range []string{"web", "db"} {
		f.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: f.cluster.Namespace, Name: name}})
		id := providers.Identity{Namespace: f.cluster.Namespace, ServiceAccount: name, ServiceAccountUID: name}
		if status := review(t, f.issue(t, id).Token); status.User.Username != id.String() {
			t.Errorf("the token for %s is of %+v", id, status)
		}
	}
}

// TestRealTargetIsVerified: with an API server behind proxies that treat the issued token in other
// ways. Only a target that rejects the token, or takes it for another user, makes the issue fail.
func TestRealTargetIsVerified(t *testing.T) {
	isReview := func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, "/selfsubjectreviews") }
	says := func(code int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if isReview(req) {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, body)
			}
			return isReview(req)
		}
	}
	for name, test := range map[string]struct {
		instead  func(http.ResponseWriter, *http.Request) bool
		rejected string // that the error says
	}{
		"the API server": {nil, ""},
		"Rancher, which accepts its own tokens only": {func(w http.ResponseWriter, req *http.Request) bool {
			claims, err := jwt.Read(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
			if err == nil && strings.HasSuffix(claims.Subject, ":keyferry") {
				return false
			}
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"type":"error","status":"401","message":"must authenticate"}`)
			return true
		}, "401 Unauthorized: set spec.endpoint.server to an address that accepts tokens of ServiceAccounts (of Rancher the authorized cluster endpoint"},
		"a proxy that drops the token": {func(_ http.ResponseWriter, req *http.Request) bool {
			if isReview(req) {
				req.Header.Del("Authorization")
			}
			return false
		}, `it takes the client for "system:anonymous"`},
		"a proxy that acts as its own user": {
			says(http.StatusCreated, `{"kind":"SelfSubjectReview","status":{"userInfo":{"username":"proxy"}}}`), `it takes the client for "proxy"`,
		},
		"a user without system:basic-user":  {says(http.StatusForbidden, ""), ""},
		"an API server before 1.28":         {says(http.StatusNotFound, ""), ""},
		"an API server that is overloaded":  {says(http.StatusServiceUnavailable, ""), ""},
		"a proxy that answers with a page":  {says(http.StatusOK, "<html>"), ""},
		"a proxy that answers with nothing": {says(http.StatusOK, "{}"), ""},
		"a proxy that ends the connection": {func(_ http.ResponseWriter, req *http.Request) bool {
			if isReview(req) {
				panic(http.ErrAbortHandler)
			}
			return false
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "x", Name: "deployer"}, Create: true,
			})
			if test.instead != nil {
				f.front.instead.Store(&test.instead)
			}
			issued, err := f.issuer.Issue(t.Context(), client.ObjectKeyFromObject(f.cluster), web)
			switch {
			case test.rejected == "" && (err != nil || issued.Token == ""):
				t.Errorf("not issued: %v", err)
			case test.rejected != "" && (!errors.Is(err, verify.ErrRejected) || !strings.Contains(err.Error(), test.rejected)):
				t.Errorf("got %v, want %s", err, test.rejected)
			}
		})
	}
}

func TestRealTargetMoves(t *testing.T) {
	f := newFleet(t, v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "x", Name: "deployer"},
		Create:         true,
	})
	before := f.issue(t, web.Identity)
	moved := newFront(t)
	f.cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: moved.URL}
	if err := f.client.Update(t.Context(), f.cluster); err != nil {
		t.Fatal(err)
	}
	after := f.issue(t, web.Identity)
	if after.Endpoint.Server != moved.URL || after.Token == before.Token || moved.tokens.Load() != 1 || f.front.tokens.Load() != 1 {
		t.Errorf("moved to %s, and asked there %d times", after.Endpoint.Server, moved.tokens.Load())
	}
}
