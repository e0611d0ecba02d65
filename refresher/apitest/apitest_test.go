// Package apitest runs client-go against a real API server through the refresher's proxy.
package apitest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// serverConfig is the configuration of an administrator with a client certificate.
var serverConfig *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { serverConfig = cfg }))
}

// newProxy returns a proxy, and the configuration that an in-cluster client builds from its files.
func newProxy(t *testing.T) (*proxy.Proxy, *rest.Config) {
	t.Helper()
	identity, err := proxy.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := proxy.New(proxy.Config{
		Identity: identity,
		Renew:    func(context.Context, bool) {},
		Dial:     new(net.Dialer).DialContext,
		Log:      slog.New(slog.DiscardHandler),
	})
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return p, &rest.Config{
		Host:            "https://" + listener.Addr().String(),
		TLSClientConfig: rest.TLSClientConfig{CAData: identity.CA()},
		BearerToken:     identity.Token(),
		QPS:             -1,
	}
}

// administrator returns the target with the administrator's certificate.
func administrator(t *testing.T) proxy.Target {
	t.Helper()
	return administratorOf(t, serverConfig)
}

func administratorOf(t *testing.T, config *rest.Config) proxy.Target {
	t.Helper()
	u, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme == "" {
		u = &url.URL{Scheme: "https", Host: config.Host}
	}
	return proxy.Target{Server: u, CA: config.CAData, Certificate: config.CertData, Key: config.KeyData, NotAfter: time.Now().Add(time.Hour)}
}

// account returns the target with the token of a ServiceAccount that has all permissions in its
// namespace.
func account(t *testing.T, namespace, name string) proxy.Target {
	t.Helper()
	return accountOf(t, serverConfig, namespace, name)
}

func accountOf(t *testing.T, config *rest.Config, namespace, name string) proxy.Target {
	t.Helper()
	ctx, server := t.Context(), kubernetes.NewForConfigOrDie(config)
	must := func(err error) {
		t.Helper()
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	_, err := server.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(err)
	_, err = server.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(err)
	_, err = server.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}, metav1.CreateOptions{})
	must(err)
	seconds := int64(600)
	review, err := server.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	must(err)
	target := administratorOf(t, config)
	target.Certificate, target.Key, target.Token = nil, nil, review.Status.Token
	return target
}

func whoami(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.UserInfo.Username
}

// TestClientGo tests list, watch, a large object and impersonation, while credential and user
// change during a watch.
func TestClientGo(t *testing.T) {
	p, config := newProxy(t)
	p.Set(account(t, "proxied", "one"))
	client := kubernetes.NewForConfigOrDie(config)
	if got := whoami(t, client); got != "system:serviceaccount:proxied:one" {
		t.Errorf("the API server knows the client as %s", got)
	}

	maps := client.CoreV1().ConfigMaps("proxied")
	watching, err := maps.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Stop()
	expect := func(name string) {
		t.Helper()
		for event := range watching.ResultChan() {
			object, ok := event.Object.(*corev1.ConfigMap)
			if !ok {
				t.Fatalf("the watch says %+v", event)
			}
			if event.Type == watch.Added && object.Name == name {
				return
			}
		}
		t.Fatalf("the watch ended before %s came", name)
	}

	large := strings.Repeat("x", 900<<10)
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string]string{"x": large}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("large")
	list, err := maps.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=large"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Data["x"] != large {
		t.Errorf("%d objects, error %v", len(list.Items), err)
	}

	p.Set(account(t, "proxied", "two"))
	if got := whoami(t, client); got != "system:serviceaccount:proxied:two" {
		t.Errorf("after a renewal, the API server knows the client as %s", got)
	}
	p.Set(administrator(t))
	if got := whoami(t, client); strings.HasPrefix(got, "system:serviceaccount:") {
		t.Errorf("with a client certificate, the API server knows the client as %s", got)
	}
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "after"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("after")

	impersonating := rest.CopyConfig(config)
	impersonating.Impersonate = rest.ImpersonationConfig{UserName: "jane"}
	if got := whoami(t, kubernetes.NewForConfigOrDie(impersonating)); got != "jane" {
		t.Errorf("impersonating jane, the API server knows the client as %s", got)
	}
}

// TestRefusals checks that client-go recognizes the proxy's errors.
func TestRefusals(t *testing.T) {
	p, config := newProxy(t)
	p.Set(account(t, "proxied", "one"))
	stranger := rest.CopyConfig(config)
	stranger.BearerToken = "stranger"
	if _, err := kubernetes.NewForConfigOrDie(stranger).Discovery().ServerVersion(); !apierrors.IsUnauthorized(err) {
		t.Errorf("without the token: %v", err)
	}
	if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without the right: %v", err)
	}
}
