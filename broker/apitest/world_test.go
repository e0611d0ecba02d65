// Package apitest compares the decisions of the broker and the webhook about tokens and permissions
// with those of a real API server.
package apitest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// apiServer is the API server of the tests.
var apiServer *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		cfg.QPS = -1
		apiServer = cfg
	}))
}

// giving is an Issuer that issues a credential for every target.
type giving struct{}

func (giving) TargetCluster(_ context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	return &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}, nil
}

func (g giving) ClusterProfile(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	return g.TargetCluster(ctx, name)
}

func (giving) Refused(issuer.Issued) {}

func (giving) IssueFor(context.Context, *v1alpha1.TargetCluster, providers.Request) (issuer.Issued, error) {
	now := time.Now()
	return issuer.Issued{
		Credential: providers.Credential{Token: "issued", NotAfter: now.Add(time.Hour), Endpoint: endpoint.Endpoint{Server: "https://203.0.113.7:6443"}},
		Namespace:  "default", Delivery: v1alpha1.DeliveryDirect, IssuedAt: now, RefreshAt: now.Add(30 * time.Minute),
	}, nil
}

// lines collects log lines.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) logger() logr.Logger {
	return funcr.NewJSON(func(line string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.text.WriteString(line + "\n")
	}, funcr.Options{})
}

// take returns the log lines since the last call.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// unlocked is a cluster without locks.
func unlocked(context.Context, locks.Access) (*locks.Lock, error) { return nil, nil }

// newBroker returns a broker without caches for reviews. now is its clock; nil means the real one.
func newBroker(t *testing.T, cfg *rest.Config, now func() time.Time) (http.Handler, *lines) {
	t.Helper()
	audit := &lines{}
	tokens, access, err := broker.Delegate(cfg, broker.ReviewTTLs{})
	must(t, err)
	b, err := broker.New(broker.Config{
		Authenticator: tokens, Authorizer: access, FindLock: unlocked, Issuer: giving{}, Audit: audit.logger(), Metrics: prometheus.NewRegistry(), Now: now,
	})
	must(t, err)
	return b, audit
}

// ask sends a request to a broker, and returns the status code and message.
func ask(t *testing.T, b http.Handler, path string, header http.Header) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader("{}"))
	r.Header = header
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}}
}

// runPod creates a Pod of a ServiceAccount. It creates the ServiceAccount and the namespaces if
// they are missing.
func runPod(t *testing.T, c kubernetes.Interface, account types.NamespacedName, name string) *corev1.Pod {
	t.Helper()
	ctx := t.Context()
	_, _ = c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: account.Namespace}}, metav1.CreateOptions{})
	_, _ = c.CoreV1().ServiceAccounts(account.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account.Name}}, metav1.CreateOptions{})
	pod, err := c.CoreV1().Pods(account.Namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: account.Name, Containers: []corev1.Container{{Name: "c", Image: "example.com/c"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	return pod
}

// tokenOf requests a token for the broker like the kubelet.
func tokenOf(t *testing.T, c kubernetes.Interface, pod *corev1.Pod) string {
	t.Helper()
	request, err := c.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(t.Context(), pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences:      []string{v1alpha1.BrokerAudience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	return request.Status.Token
}

// eventually repeats try until it returns no error. The API server's caches do not report when they
// are updated.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
