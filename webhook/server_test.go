package webhook

// Helpers of the tests in this package: a real API server that calls a Handler, as in a cluster.

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
)

// api is the tests' API server with the webhooks installed.
var api struct {
	config *rest.Config
	client client.Client
	// mayUse asks again each time.
	mayUse MayUse
	// reviews is how many requests the API server sent to the webhooks.
	reviews atomic.Int64
}

func TestMain(m *testing.M) {
	if testenv.OnlyBenchmarks() {
		os.Exit(m.Run()) // all of them, without the API server that only tests need
	}
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		if err := setUp(context.Background(), cfg); err != nil {
			panic(err)
		}
	}))
}

func setUp(ctx context.Context, cfg *rest.Config) error {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	if err := inventory.AddToScheme(scheme); err != nil {
		return err
	}
	cfg.QPS = -1
	direct, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	reviews, err := authorizationclient.NewForConfig(cfg)
	if err != nil {
		return err
	}
	api.config, api.client = cfg, direct
	api.mayUse = func(ctx context.Context, serviceAccount types.NamespacedName, object use.Object) (bool, error) {
		mayUse, err := NewMayUse(reviews)
		if err != nil {
			return false, err
		}
		return mayUse(ctx, serviceAccount, object)
	}
	if err := testenv.InstallClusterProfiles(cfg); err != nil {
		return err
	}
	providers, err := clusterprofile.ParseProviderFile([]byte(providerFile))
	if err != nil {
		return err
	}
	handler, err := New(Config{
		Injection:     injection(),
		Cached:        direct,
		Live:          direct,
		MayUse:        api.mayUse,
		FindLock:      locks.NewFind(direct, time.Now),
		Providers:     func() *clusterprofile.ProviderFile { return providers },
		Policy:        endpoint.Policy{AmbientNamespaces: []string{"fleet"}},
		EnvFromFile:   func() bool { return testenv.Has(testenv.EnvFromFile) },
		ImageVolume:   func() bool { return testenv.Has(testenv.ImageVolume) },
		BrokerAddress: func(context.Context) (string, error) { return "10.96.4.2", nil },
		Metrics:       prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	for _, namespace := range []string{"fleet", "shop", "app", "keyferry-system"} {
		if err := direct.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			return err
		}
	}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		api.reviews.Add(1)
		handler.ServeHTTP(w, r)
	})
	if err := install(ctx, httptest.NewTLSServer(counted)); err != nil {
		return err
	}
	return installGuard(ctx)
}

func injection() injector.Config {
	return injector.Config{
		Image:     "keyferry.example/refresher:v0.1.0",
		Resources: injector.DefaultResources(),
		BrokerURL: "https://keyferry-broker.keyferry-system.svc",
		// The default of the flag.
		RestartSpread: injector.DefaultRestartSpread,
		Version:       "v0.1.0",
	}
}

// install installs the webhooks, and returns when the API server calls the handler.
func install(ctx context.Context, server *httptest.Server) error {
	text, err := os.ReadFile("../config/default/webhook-configurations.yaml")
	if err != nil {
		return err
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	mutating, validating, _ := bytes.Cut(text, []byte("\n---\n"))
	var pods admissionregistrationv1.MutatingWebhookConfiguration
	var workloads admissionregistrationv1.ValidatingWebhookConfiguration
	if err := yaml.UnmarshalStrict(mutating, &pods); err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(validating, &workloads); err != nil {
		return err
	}
	local := func(path string) admissionregistrationv1.WebhookClientConfig {
		url := server.URL + path
		return admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: bundle}
	}
	pods.Webhooks[0].ClientConfig, workloads.Webhooks[0].ClientConfig = local(PathPods), local(PathWorkloads)
	fail := admissionregistrationv1.Fail
	workloads.Webhooks[0].FailurePolicy = &fail // a failure must fail a test
	for _, kind := range added {
		rule := workloads.Webhooks[0].Rules[0].DeepCopy()
		resource, group, _ := strings.Cut(kind, ".")
		rule.Resources, rule.APIGroups = []string{resource}, []string{group}
		workloads.Webhooks[0].Rules = append(workloads.Webhooks[0].Rules, *rule)
	}
	if err := api.client.Create(ctx, &pods); err != nil {
		return err
	}
	if err := api.client.Create(ctx, &workloads); err != nil {
		return err
	}
	for _, probe := range []client.Object{
		pod("shop", annotated("typo", "")),
		deployment("shop", annotated("typo", "")),
	} {
		denied := func() bool {
			err := api.client.Create(ctx, probe, client.DryRunAll)
			return err != nil && strings.Contains(err.Error(), "keyferry.dev/typo")
		}
		if !eventually(denied) {
			return fmt.Errorf("the API server does not call the webhook for a %T", probe)
		}
	}
	return nil
}

// eventually polls until so returns true. The caches of the API server (for RBAC and webhook
// configurations) do not report when they are updated.
func eventually(so func() bool) bool {
	deadline := time.After(2 * time.Minute)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if so() {
			tick.Stop()
			return true
		}
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
}

// annotated returns annotations with Keyferry's prefix. pairs are names and values in turn.
func annotated(pairs ...string) map[string]string {
	annotations := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		annotations[injector.Prefix+pairs[i]] = pairs[i+1]
	}
	return annotations
}

func pod(namespace string, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "web-", Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "example.com/app:1"}}},
	}
}

// running sets the ServiceAccount of a Pod.
func running(as string, p *corev1.Pod) *corev1.Pod {
	p.Spec.ServiceAccountName = as
	return p
}

// targetCluster creates a TargetCluster in namespace fleet, with the status that the controller
// would set.
func targetCluster(t *testing.T, name string, status v1alpha1.TargetClusterStatus, changes ...func(*v1alpha1.TargetClusterSpec)) *v1alpha1.TargetCluster {
	t.Helper()
	tc := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: name}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
	for _, change := range changes {
		change(&tc.Spec)
	}
	must(t, api.client.Create(t.Context(), tc))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), tc)) })
	if status.ObservedGeneration != 0 {
		tc.Status = status
		must(t, api.client.Status().Update(t.Context(), tc))
	}
	return tc
}

// ready returns the status of a TargetCluster without problems. change adds or replaces conditions.
func ready(change ...metav1.Condition) v1alpha1.TargetClusterStatus {
	status := v1alpha1.TargetClusterStatus{
		ObservedGeneration: 1, Endpoint: "https://203.0.113.7:6443", Delivery: v1alpha1.DeliveryDirect, DeliveryReason: "in-cluster clients can express it",
	}
	for _, c := range append([]metav1.Condition{
		{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue, Reason: "Resolved"},
		{Type: v1alpha1.ConditionReachable, Status: metav1.ConditionTrue, Reason: "Reachable"},
	}, change...) {
		meta.SetStatusCondition(&status.Conditions, c)
	}
	return status
}

// grant lets a ServiceAccount use a TargetCluster in namespace fleet, and returns a function that
// revokes it.
func grant(t *testing.T, serviceAccount types.NamespacedName, target string) (withdraw func()) {
	t.Helper()
	return grantUse(t, serviceAccount, use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: target}))
}

func grantUse(t *testing.T, serviceAccount types.NamespacedName, object use.Object) (withdraw func()) {
	t.Helper()
	name := metav1.ObjectMeta{Namespace: object.Namespace, Name: "use-" + object.Resource.Resource + "-" + object.Name + "-" + serviceAccount.Namespace + "-" + serviceAccount.Name}
	role := &rbacv1.Role{ObjectMeta: name, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{object.Resource.Group}, Resources: []string{object.Resource.Resource}, ResourceNames: []string{object.Name}, Verbs: []string{"use"}},
	}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: name,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: serviceAccount.Namespace, Name: serviceAccount.Name}},
	}
	must(t, api.client.Create(t.Context(), role))
	must(t, api.client.Create(t.Context(), binding))
	becomes := func(want bool) {
		t.Helper()
		if !eventually(func() bool {
			may, err := api.mayUse(context.Background(), serviceAccount, object)
			return err == nil && may == want
		}) {
			t.Fatalf("the right of %s to use %s does not become %t", serviceAccount, object, want)
		}
	}
	becomes(true)
	withdraw = sync.OnceFunc(func() {
		must(t, api.client.Delete(context.Background(), binding))
		must(t, api.client.Delete(context.Background(), role))
		becomes(false)
	})
	t.Cleanup(withdraw)
	return withdraw
}

// recordingClient returns a client, and the warnings that the API server sends to it.
func recordingClient(t *testing.T) (client.Client, *warnings) {
	t.Helper()
	cfg, got := rest.CopyConfig(api.config), new(warnings)
	cfg.WarningHandler = got
	c, err := client.New(cfg, client.Options{Scheme: api.client.Scheme(), Mapper: api.client.RESTMapper()})
	must(t, err)
	return c, got
}

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

// take returns the warnings since the last call.
func (w *warnings) take() string {
	defer func() { *w = nil }()
	return strings.Join(*w, "\n")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
