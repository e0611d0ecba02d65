package credentials

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
)

// The API servers of this cluster, which is a target, too, and of another one.
var here, there *rest.Config

func TestMain(m *testing.M) {
	// All names lead to the other cluster; no proxy is asked for loopback addresses.
	all := &withOther{M: m}
	proxy := httptest.NewServer(tunnel(func() *httptest.Server { return all.front }))
	_ = os.Setenv("HTTPS_PROXY", proxy.URL) // before anything asks, since it is asked for once
	code := testenv.Run(all, func(cfg *rest.Config) { here = cfg })
	proxy.Close()
	os.Exit(code)
}

// withOther runs tests while there is the other cluster, with a front.
type withOther struct {
	*testing.M

	front *httptest.Server
}

func (o *withOther) Run() int {
	var stop func()
	var err error
	if there, stop, err = testenv.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "starting the second API server:", err)
		return 1
	}
	defer stop()
	o.front = httptest.NewTLSServer(frontOf(there))
	defer o.front.Close() // which ends the tunnels to it
	if err := testenv.InstallPolicy(context.Background(), here, "controller-objects-policy.yaml"); err != nil {
		fmt.Fprintln(os.Stderr, "installing the controller's policies:", err)
		return 1
	}
	return o.M.Run()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// liveSecrets are read each time again, so that no test depends on when a watch brings what.
type liveSecrets struct{ client.Client }

func (l liveSecrets) Of(ctx context.Context, request *v1alpha1.CredentialRequest) (map[string]*corev1.Secret, error) {
	var list corev1.SecretList
	if err := l.List(ctx, &list, client.InNamespace(request.Namespace), client.HasLabels{v1alpha1.LabelCredentialRequest}); err != nil {
		return nil, err
	}
	found := map[string]*corev1.Secret{}
	for i := range list.Items {
		if secret := &list.Items[i]; stored.Mine(secret, request) {
			found[secret.Name] = secret
		}
	}
	return found, nil
}

// targetWorld is what there is in a target: a namespace with a ServiceAccount.
type targetWorld struct {
	config    *rest.Config
	client    client.Client
	namespace string
}

// world is a namespace with a ServiceAccount and a request, and one with TargetClusters.
type world struct {
	t       testing.TB
	client  client.Client
	ns      string
	fleet   string
	target  *targetWorld
	request *v1alpha1.CredentialRequest
	cfg     Config
	it      *Requests
	now     time.Time
	events  *events.FakeRecorder
	audit   []string
	writes  atomic.Int32 // to this cluster, but for reviews and dry runs
	minted  atomic.Int32

	mu        sync.Mutex
	intercept func(*http.Request) (*http.Response, error) // of requests of the controller; nil, nil lets them pass
}

func newTarget(t testing.TB, config *rest.Config, namespace string) *targetWorld {
	t.Helper()
	w := &targetWorld{config: config, client: testenv.NewClient(t, config), namespace: namespace}
	err := client.IgnoreAlreadyExists(w.client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	if err != nil {
		t.Fatal(err)
	}
	err = client.IgnoreAlreadyExists(w.client.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "robot"}}))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// newWorld makes a request of this type for a TargetCluster that leads to the other cluster.
func newWorld(t testing.TB, form v1alpha1.CredentialType) *world {
	t.Helper()
	w := &world{t: t, client: testenv.NewClient(t, here), now: time.Now().Truncate(time.Second), events: events.NewFakeRecorder(64)}
	app, fleet := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-"}}
	w.create(app)
	w.create(fleet)
	w.ns, w.fleet = app.Name, fleet.Name
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "web"}})
	w.target = newTarget(t, there, strings.Replace(w.ns, "app", "robots", 1))
	w.targetCluster("tenant-1", w.target)
	w.allow("web", "tenant-1")
	w.request = w.newRequest("web", form)
	w.create(w.request)

	counted := testenv.As(here, "controller") // under the policies that limit it
	counted.QPS = -1
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method != http.MethodGet && !strings.Contains(req.URL.RawQuery, "dryRun") && !strings.HasSuffix(req.URL.Path, "subjectaccessreviews") {
				w.writes.Add(1)
			}
			w.mu.Lock()
			intercept := w.intercept
			w.mu.Unlock()
			if intercept != nil {
				if response, err := intercept(req); response != nil || err != nil {
					return response, err
				}
			}
			return next.RoundTrip(req)
		})
	})
	c := testenv.NewClient(t, counted)
	credentialIssuer, err := issuer.New(issuer.Config{
		Clusters: w.client, Secrets: w.client, ClusterID: "here", Policy: endpoint.Policy{AllowLocal: true}, Now: func() time.Time { return w.now },
		Observe: func(e issuer.Event) {
			if e.Err == nil {
				w.minted.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = Config{
		Client: c, Reader: w.client, Secrets: liveSecrets{w.client}, Issuer: credentialIssuer, FindLock: locks.NewFind(w.client, func() time.Time { return w.now }), Events: w.events, Metrics: prometheus.NewRegistry(),
		Audit:       funcr.New(func(_, args string) { w.audit = append(w.audit, args) }, funcr.Options{}),
		Concurrency: 1, Timeout: 30 * time.Second, RevocationTimeout: 10 * time.Minute,
		Now:    func() time.Time { return w.now },
		Chance: func() float64 { return 0 },
	}
	w.restart()
	w.eventually("the policies act", func() bool {
		err := c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "other"}}, client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "keyferry-controller-secrets")
	})
	return w
}

// restart has another process take over.
func (w *world) restart() {
	w.t.Helper()
	w.cfg.Metrics = prometheus.NewRegistry()
	var err error
	if w.it, err = New(w.cfg); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) newRequest(name string, form v1alpha1.CredentialType) *v1alpha1.CredentialRequest {
	return &v1alpha1.CredentialRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster:      v1alpha1.ObjectReference{Namespace: w.fleet, Name: "tenant-1"},
			ServiceAccountName: "web",
			Type:               form,
			Secret:             v1alpha1.CredentialSecret{Name: name + "-credential"},
		},
	}
}

// targetCluster makes one that leads to a target with all rights there, and issues tokens of its
// ServiceAccount robot.
func (w *world) targetCluster(name string, target *targetWorld) {
	w.t.Helper()
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: name},
		Data:       map[string][]byte{"kubeconfig": adminOf(w.t, target.config, target.config.Host)},
	})
	cluster := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: name}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: target.namespace, Name: "robot"},
				Revocable:      true,
			}},
		},
	}
	w.create(cluster)
}

func adminOf(t testing.TB, cfg *rest.Config, host string) []byte {
	t.Helper()
	data, err := clientcmd.Write(api.Config{
		CurrentContext: "target",
		Contexts:       map[string]*api.Context{"target": {Cluster: "target", AuthInfo: "admin"}},
		Clusters:       map[string]*api.Cluster{"target": {Server: "https://" + strings.TrimPrefix(host, "https://"), CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*api.AuthInfo{"admin": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// allow lets a ServiceAccount use a TargetCluster.
func (w *world) allow(account, target string) {
	w.t.Helper()
	name := account + "-" + target
	w.create(&rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: name},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, ResourceNames: []string{target}, Verbs: []string{"use"}}},
	})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: account}},
	})
	// The authorizer hears of it by a watch of its own.
	w.eventually("the right to use "+target, func() bool {
		ok, err := use.Allowed(w.t.Context(), w.client, client.ObjectKey{Namespace: w.ns, Name: account}, "", use.TargetCluster(client.ObjectKey{Namespace: w.fleet, Name: target}))
		return err == nil && ok
	})
}

// forbid takes the right to use the TargetCluster tenant-1 from the ServiceAccount web.
func (w *world) forbid() {
	w.t.Helper()
	const account, target = "web", "tenant-1"
	w.delete(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: account + "-" + target}})
	w.eventually("no right to use "+target, func() bool {
		ok, err := use.Allowed(w.t.Context(), w.client, client.ObjectKey{Namespace: w.ns, Name: account}, "", use.TargetCluster(client.ObjectKey{Namespace: w.fleet, Name: target}))
		return err == nil && !ok
	})
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	err := wait.PollUntilContextTimeout(w.t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		w.t.Fatalf("waiting for %s: %v", what, err)
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	if err := w.client.Create(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) update(o client.Object) {
	w.t.Helper()
	if err := w.client.Update(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(o client.Object) {
	w.t.Helper()
	if err := w.client.Delete(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

// reconcile reconciles a request until it no longer asks to be looked at at once, and reads it.
func (w *world) reconcile(request *v1alpha1.CredentialRequest) time.Duration {
	w.t.Helper()
	key := client.ObjectKeyFromObject(request)
	for range 5 {
		result, err := w.it.Reconcile(w.t.Context(), reconcile.Request{NamespacedName: key})
		if err != nil {
			w.t.Fatal(err)
		}
		if result.RequeueAfter == soon {
			continue
		}
		if err := w.client.Get(w.t.Context(), key, request); err != nil && !apierrors.IsNotFound(err) {
			w.t.Fatal(err)
		}
		return result.RequeueAfter
	}
	w.t.Fatal("the request never comes to rest")
	return 0
}

// look reconciles the request of the world.
func (w *world) look() time.Duration {
	w.t.Helper()
	return w.reconcile(w.request)
}

// ready reconciles the request and fails if it is not ready then.
func (w *world) ready() {
	w.t.Helper()
	w.look()
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, reasonReady)
}

// change has the spec of the request be another one.
func (w *world) change(change func(*v1alpha1.CredentialRequestSpec)) {
	w.t.Helper()
	change(&w.request.Spec)
	w.update(w.request)
}

// condition checks one, and returns its message.
func (w *world) condition(kind string, status metav1.ConditionStatus, reason string) string {
	w.t.Helper()
	c := meta.FindStatusCondition(w.request.Status.Conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason {
		w.t.Fatalf("condition %s: got %+v, want %s with reason %s", kind, c, status, reason)
	}
	if c.ObservedGeneration != w.request.Generation {
		w.t.Errorf("condition %s is of generation %d, not %d", kind, c.ObservedGeneration, w.request.Generation)
	}
	return c.Message
}

// secret reads the Secret of a request; nil if there is none.
func (w *world) secret(request *v1alpha1.CredentialRequest) *corev1.Secret {
	w.t.Helper()
	secret := &corev1.Secret{}
	err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: request.Namespace, Name: request.Spec.Secret.Name}, secret)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		w.t.Fatal(err)
	}
	return secret
}

// token is the one in the request's Secret of type tokenFile.
func (w *world) token() string {
	w.t.Helper()
	secret := w.secret(w.request)
	if secret == nil {
		w.t.Fatal("there is no Secret")
	}
	return string(secret.Data[injector.TokenFileToken])
}

// knows reports whether the target accepts a token, and as whose.
func (tw *targetWorld) knows(t testing.TB, token string) (string, bool) {
	t.Helper()
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	if err := tw.client.Create(t.Context(), review); err != nil {
		t.Fatal(err)
	}
	return review.Status.User.Username, review.Status.Authenticated
}

// told drains the Events.
func (w *world) told() []string {
	var all []string
	for {
		select {
		case e := <-w.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// refuseSecrets has the API server take no Secret in the request's namespace.
func (w *world) refuseSecrets() {
	w.t.Helper()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: w.ns}},
			ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
			}}},
		},
		Validations: []admissionv1.Validation{{Expression: "false", Message: "no more Secrets"}},
	}}
	w.create(policy)
	w.create(&admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: w.ns, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}})
	w.eventually("the policy", func() bool {
		return apierrors.IsInvalid(w.client.Create(w.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, GenerateName: "try-"}}, client.DryRunAll))
	})
}

// deadAddress is one where nobody listens any more.
func deadAddress(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(nil)
	s.Close()
	return s.Listener.Addr().String()
}

// lead has the kubeconfig of the TargetCluster tenant-1 lead to another address.
func (w *world) lead(target *targetWorld, host string) {
	w.t.Helper()
	const name = "tenant-1"
	secret := &corev1.Secret{}
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.fleet, Name: name}, secret); err != nil {
		w.t.Fatal(err)
	}
	secret.Data = map[string][]byte{"kubeconfig": adminOf(w.t, target.config, host)}
	w.update(secret)
	w.now = w.now.Add(6 * time.Second) // what was read of the Secret is kept so long
}
