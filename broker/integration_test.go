package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/internet"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
)

// apiServer is the real API server of these tests, which is both management cluster and target.
// outside serves the clouds.
var (
	apiServer *rest.Config
	outside   *internet.Internet
)

func TestMain(m *testing.M) {
	if os.Getenv("ACT_AS") == "plugin" { // as fleet.plugins asks for
		os.Exit(actAsPlugin())
	}
	if testenv.OnlyBenchmarks() {
		os.Exit(m.Run()) // all of them, without the API server that only tests need
	}
	var err error
	if outside, err = internet.Connect(); err != nil {
		panic(err)
	}
	code := testenv.Run(m, func(cfg *rest.Config) {
		apiServer = cfg
		if err := errors.Join(testenv.InstallClusterProfiles(cfg), testenv.InstallCertManager(cfg)); err != nil {
			panic(err)
		}
	})
	outside.Close()
	os.Exit(code)
}

// world is a namespace on the API server, with a Pod that needs to use a TargetCluster, and a
// broker.
type world struct {
	client.Client
	namespace string
	pod       *corev1.Pod
	target    types.NamespacedName
	broker    *httptest.Server
	// now is the broker's clock, if issue sets it; time.Now otherwise.
	now      func() time.Time
	audit    logged
	log      logged
	registry *prometheus.Registry
	findLock locks.Find
}

func newWorld(t *testing.T, ttls ReviewTTLs, issue func(*world) Issuer) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, v1alpha1.AddToScheme(scheme))
	must(t, inventory.AddToScheme(scheme))
	c, err := client.New(apiServer, client.Options{Scheme: scheme})
	must(t, err)

	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "broker-"}}
	must(t, c.Create(t.Context(), namespace))
	w := &world{Client: c, namespace: namespace.Name, target: types.NamespacedName{Namespace: namespace.Name, Name: "tenant-1"}}
	must(t, c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: w.meta("web")}))
	w.pod = w.createPod(t, "web-0")
	w.findLock = locks.NewFind(c, time.Now)

	w.registry = prometheus.NewRegistry()
	tokens, access, err := Delegate(apiServer, ttls)
	must(t, err)
	issuer := issue(w)
	b, err := New(Config{
		Authenticator: tokens, Authorizer: access, FindLock: func(ctx context.Context, a locks.Access) (*locks.Lock, error) { return w.findLock(ctx, a) }, Issuer: issuer,
		Audit: w.audit.logger(), Log: w.log.logger(), Metrics: w.registry, Now: w.now,
	})
	must(t, err)
	w.broker = httptest.NewTLSServer(b)
	t.Cleanup(w.broker.Close)
	return w
}

func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.namespace, Name: name}
}

func (w *world) createPod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: w.meta(name), Spec: corev1.PodSpec{
		ServiceAccountName: "web",
		Containers:         []corev1.Container{{Name: "c", Image: "example.org/c"}},
	}}
	must(t, w.Create(t.Context(), pod))
	return pod
}

// token requests a token of ServiceAccount web like the kubelet. It is not bound to a Pod if pod is
// nil.
func (w *world) token(t *testing.T, audience string, pod *corev1.Pod) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	must(t, w.SubResource("token").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: w.meta("web")}, request))
	return request.Status.Token
}

// grant allows ServiceAccount web to use the target, and returns a function that revokes it.
func (w *world) grant(t *testing.T) (withdraw func()) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: w.meta("use"), Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"targetclusters"}, ResourceNames: []string{w.target.Name}, Verbs: []string{"use"},
	}}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: w.meta("use"),
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: "web"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "use"},
	}
	must(t, w.Create(t.Context(), role))
	must(t, w.Create(t.Context(), binding))
	return func() { must(t, w.Delete(t.Context(), binding)) }
}

// ask sends a request to the broker. The error is the broker's Status.
func (w *world) ask(t *testing.T, token, body string) (wire.ExecCredential, int, metav1.Status) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.broker.URL+wire.TargetClusterPath(w.target.Namespace, w.target.Name), strings.NewReader(body))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := w.broker.Client().Do(r)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	var credential wire.ExecCredential
	var status metav1.Status
	if response.StatusCode == http.StatusOK {
		must(t, json.NewDecoder(response.Body).Decode(&credential))
	} else {
		must(t, json.NewDecoder(response.Body).Decode(&status))
	}
	return credential, response.StatusCode, status
}

// eventually repeats a request until the API server's caches have a change of the test.
func (w *world) eventually(t *testing.T, token string, code int) metav1.Status {
	t.Helper()
	var status metav1.Status
	var got int
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
		_, got, status = w.ask(t, token, "{}")
		return got == code, nil
	})
	if err != nil {
		t.Fatalf("code %d (%s), want %d", got, status.Message, code)
	}
	return status
}

func canned(*world) Issuer { return fakeIssuer(issueAlways) }

func TestTokensOfARealAPIServer(t *testing.T) {
	w := newWorld(t, ReviewTTLs{}, canned)
	w.grant(t)
	good := w.token(t, v1alpha1.BrokerAudience, w.pod)
	w.eventually(t, good, http.StatusOK)

	parts := strings.Split(good, ".")
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for _, test := range []struct {
		name, token string
		code        int
		message     string
	}{
		{"of the API server's audience", w.token(t, "https://kubernetes.default.svc", w.pod), 401, `must have the audience "keyferry"`},
		{"of another audience", w.token(t, "keyferry2", w.pod), 401, `must have the audience "keyferry"`},
		{"bound to no Pod", w.token(t, v1alpha1.BrokerAudience, nil), 403, "is not bound to a Pod"},
		{"alg none", header(`{"alg":"none"}`) + "." + parts[1] + ".", 401, "rejects the bearer token"},
		{"alg none with a signature", header(`{"alg":"none"}`) + "." + parts[1] + "." + parts[2], 401, "rejects the bearer token"},
		{"unsigned", parts[0] + "." + parts[1] + ".", 401, "rejects the bearer token"},
		{"signed with a public key", header(`{"alg":"HS256"}`) + "." + parts[1] + "." + header("hmac"), 401, "rejects the bearer token"},
		{"other claims", parts[0] + "." + header(`{"aud":["keyferry"],"sub":"system:serviceaccount:kube-system:default"}`) + "." + parts[2], 401, "rejects the bearer token"},
		{"garbage", rand.Text(), 401, "not a JWT"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, code, status := w.ask(t, test.token, "{}")
			if code != test.code || !strings.Contains(status.Message, test.message) {
				t.Errorf("code %d: %s; want %d with %q", code, status.Message, test.code, test.message)
			}
		})
	}

	t.Run("subject", func(t *testing.T) {
		body := func(token string) string { return `{"subjectToken":"` + token + `"}` }
		if _, code, status := w.ask(t, good, body(w.token(t, "sts.example", w.pod))); code != http.StatusOK {
			t.Errorf("of the same Pod: code %d: %s", code, status.Message)
		}
		other := w.createPod(t, "web-1")
		if _, code, status := w.ask(t, good, body(w.token(t, "sts.example", other))); code != http.StatusForbidden {
			t.Errorf("of another Pod: code %d: %s", code, status.Message)
		}
	})

	t.Run("Pod deleted", func(t *testing.T) {
		must(t, w.Delete(t.Context(), w.pod, client.GracePeriodSeconds(0)))
		testenv.AwaitRejection(t, apiServer, good, v1alpha1.BrokerAudience)
		if _, code, status := w.ask(t, good, "{}"); code != http.StatusUnauthorized {
			t.Errorf("code %d: %s", code, status.Message)
		}
	})

	logs := w.audit.String() + w.log.String()
	if strings.Contains(logs, good) || strings.Contains(logs, parts[1][:16]) || strings.Contains(logs, planted) {
		t.Errorf("a token is in the logs:\n%s", logs)
	}
}

func TestUseGrantedAndWithdrawn(t *testing.T) {
	uncached := newWorld(t, ReviewTTLs{}, canned)
	token := uncached.token(t, v1alpha1.BrokerAudience, uncached.pod)
	_, code, status := uncached.ask(t, token, "{}")
	want := "ServiceAccount " + uncached.namespace + "/web may not use TargetCluster " + uncached.target.String()
	if code != http.StatusForbidden || !strings.Contains(status.Message, want) {
		t.Fatalf("code %d: %s; want 403 with %q", code, status.Message, want)
	}
	withdraw := uncached.grant(t)
	uncached.eventually(t, token, http.StatusOK)
	withdraw()
	uncached.eventually(t, token, http.StatusForbidden)
}

func TestReviewsAreCached(t *testing.T) {
	// Long enough that nothing ends during the test, except refusals.
	w := newWorld(t, ReviewTTLs{ValidToken: time.Hour, Allowed: time.Hour}, canned)
	withdraw := w.grant(t)
	token := w.token(t, v1alpha1.BrokerAudience, w.pod)
	w.eventually(t, token, http.StatusOK)
	withdraw()
	must(t, w.Delete(t.Context(), w.pod, client.GracePeriodSeconds(0)))
	if _, code, status := w.ask(t, token, "{}"); code != http.StatusOK {
		t.Errorf("code %d: %s; want the cached answers to count", code, status.Message)
	}
}

func TestAPIServerAway(t *testing.T) {
	away := rest.CopyConfig(apiServer)
	away.Host = "https://127.0.0.1:1"
	tokens, access, err := Delegate(away, DefaultReviewTTLs())
	must(t, err)
	b, err := New(Config{Authenticator: tokens, Authorizer: access, FindLock: unlocked, Issuer: fakeIssuer(issueAlways), Metrics: prometheus.NewRegistry()})
	must(t, err)
	w := httptest.NewRecorder()
	b.ServeHTTP(w, request("{}"))
	wantStatus(t, w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "could not verify the Pod's token")
}

// TestChain tests broker, issuer and target together. The target is the same API server.
func TestChain(t *testing.T) {
	w := newWorld(t, ReviewTTLs{}, func(w *world) Issuer {
		issue, err := issuer.New(issuer.Config{Clusters: w.Client, Secrets: w.Client, Policy: endpoint.Policy{AllowLocal: true}})
		must(t, err)
		return issue
	})
	w.grant(t)
	token := w.token(t, v1alpha1.BrokerAudience, w.pod)
	if status := w.eventually(t, token, http.StatusNotFound); !strings.Contains(status.Message, w.target.String()) {
		t.Errorf("without a TargetCluster: %s", status.Message)
	}
	w.createTarget(t)
	if _, code, status := w.ask(t, token, "{}"); code != http.StatusUnprocessableEntity || !strings.Contains(status.Message, "access") {
		t.Errorf("without its Secret: code %d: %s", code, status.Message)
	}
	w.createKubeconfig(t)
	w.eventually(t, token, http.StatusOK)
	credential, _, _ := w.ask(t, token, "{}")

	there, err := client.New(&rest.Config{
		Host:            credential.Spec.Cluster.Server,
		BearerToken:     credential.Status.Token,
		TLSClientConfig: rest.TLSClientConfig{CAData: credential.Spec.Cluster.CertificateAuthorityData},
	}, client.Options{Scheme: w.Scheme()})
	must(t, err)
	review := &authenticationv1.SelfSubjectReview{}
	must(t, there.Create(t.Context(), review))
	if want := "system:serviceaccount:" + w.namespace + ":web"; review.Status.UserInfo.Username != want {
		t.Errorf("on the target the credential is %s, want %s", review.Status.UserInfo.Username, want)
	}
	for _, secret := range []string{token, credential.Status.Token} {
		if strings.Contains(w.audit.String()+w.log.String(), secret[:24]) {
			t.Error("a token is in the logs")
		}
	}
}

func (w *world) createTarget(t *testing.T) {
	t.Helper()
	must(t, w.Create(t.Context(), &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.target.Namespace, Name: w.target.Name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: w.namespace, Name: "web"},
			}},
		},
	}))
}

// createKubeconfig stores the kubeconfig of the tests' administrator.
func (w *world) createKubeconfig(t *testing.T) {
	t.Helper()
	kubeconfig, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: apiServer.Host, CertificateAuthorityData: apiServer.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: apiServer.CertData, ClientKeyData: apiServer.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	})
	must(t, err)
	must(t, w.Create(t.Context(), &corev1.Secret{ObjectMeta: w.meta("access"), Data: map[string][]byte{"kubeconfig": kubeconfig}}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
