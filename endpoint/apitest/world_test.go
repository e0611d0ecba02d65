// Package apitest compares the components that use package endpoint, on a real API server:
// controller, webhook, broker and CLI.
package apitest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"github.com/prometheus/client_golang/prometheus"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/events"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/ownaddresses"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/kubeconfig"
	"github.com/keyferry/keyferry/webhook"
)

// The namespaces of the targets. The operator allows objects of ambientNamespace to use the
// broker's own identity.
const (
	namespace        = "fleet"
	ambientNamespace = "ambient"
)

// providerFile has a plugin that runs in Pods, and one that runs in the broker.
const providerFile = `{"providers":[
	{"name":"pods","image":"example.com/plugin:1","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugin","provideClusterInfo":true}},
	{"name":"broker","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugin"}}]}`

// world contains one component of each kind, with the same flags and the same provider file.
var world struct {
	client     client.Client
	controller *controller.TargetClusters
	webhook    http.Handler
	broker     http.Handler
	// issuing is what controller and broker issue by.
	issuing issuer.Config

	// kubeconfig and providers are files for the command.
	kubeconfig, providers string

	// own are the addresses of the API server.
	own *endpoint.Own
	// clusterIP is one of them.
	clusterIP string

	// later is how much later than now it is for controller and broker, in nanoseconds.
	later atomic.Int64
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "endpoint")
	if err != nil {
		panic(err)
	}
	code := testenv.Run(m, func(cfg *rest.Config) {
		if err := errors.Join(setUpRoots(dir), setUp(cfg, dir)); err != nil {
			panic(err)
		}
	})
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func setUp(cfg *rest.Config, dir string) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme),
		testenv.InstallClusterProfiles(cfg), testenv.InstallCertManager(cfg)); err != nil {
		return err
	}
	cfg.QPS = -1
	direct, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	world.client, world.own = direct, new(endpoint.Own)
	for _, name := range []string{namespace, ambientNamespace} {
		if err := direct.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
	}
	if err := errors.Join(apiServerService(direct), ownaddresses.New(direct, "", world.own).Read(context.Background())); err != nil {
		return err
	}
	plugins, err := clusterprofile.ParseProviderFile([]byte(providerFile))
	if err != nil {
		return err
	}
	certManager, err := certmanager.NewForConfig(cfg)
	if err != nil {
		return err
	}
	world.issuing = issuer.Config{
		Clusters: direct, Secrets: direct, Policy: policy(), ClusterID: "management",
		CertManager: certManager,
		Now:         func() time.Time { return time.Now().Add(time.Duration(world.later.Load())) },
		Providers:   func() *clusterprofile.ProviderFile { return plugins },
		Decorate:    withoutNetwork,
	}
	world.controller, world.broker, err = issuing(world.issuing, func(i *issuer.Issuer) controller.Resolver { return resolver{i} })
	return errors.Join(err, setUpWebhook(direct, plugins), writeFiles(cfg, dir))
}

// apiServerService waits for the Service of the API server, which creates it when it starts.
func apiServerService(c client.Client) error {
	return wait.PollUntilContextTimeout(context.Background(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		service := &corev1.Service{}
		err := c.Get(ctx, types.NamespacedName{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}, service)
		world.clusterIP = service.Spec.ClusterIP
		return err == nil, client.IgnoreNotFound(err)
	})
}

func policy() endpoint.Policy {
	return endpoint.Policy{AmbientNamespaces: []string{ambientNamespace}, Own: world.own}
}

// issuing returns a controller and a broker with the same issuer. The controller uses the result of
// resolver instead of the issuer.
func issuing(cfg issuer.Config, resolver func(*issuer.Issuer) controller.Resolver) (*controller.TargetClusters, http.Handler, error) {
	issue, err := issuer.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	c, err := controller.New(controller.TargetClustersConfig{
		Client: world.client, Resolver: resolver(issue), Egress: cfg.Policy, Events: &events.FakeRecorder{},
		Metrics: prometheus.NewRegistry(), Concurrency: 1, Timeout: 30 * time.Second,
	})
	if err != nil {
		return nil, nil, err
	}
	b, err := broker.New(broker.Config{
		Authenticator: authenticator.TokenFunc(authenticate), Authorizer: allowAll{}, FindLock: unlocked, Issuer: issue, Metrics: prometheus.NewRegistry(),
	})
	return c, b, err
}

// unlocked is a cluster without locks.
func unlocked(context.Context, locks.Access) (*locks.Lock, error) { return nil, nil }

func setUpWebhook(direct client.Client, plugins *clusterprofile.ProviderFile) (err error) {
	world.webhook, err = webhook.New(webhook.Config{
		Injection: injector.Config{Image: "refresher", Resources: injector.DefaultResources(), BrokerURL: "https://keyferry-broker.keyferry-system.svc"},
		Cached:    direct, Live: direct, Policy: policy(), Metrics: prometheus.NewRegistry(),
		MayUse:        func(context.Context, types.NamespacedName, use.Object) (bool, error) { return true, nil },
		FindLock:      unlocked,
		Providers:     func() *clusterprofile.ProviderFile { return plugins },
		EnvFromFile:   func() bool { return false },
		ImageVolume:   func() bool { return false },
		BrokerAddress: func(context.Context) (string, error) { return "10.96.4.2", nil },
	})
	return err
}

func writeFiles(cfg *rest.Config, dir string) error {
	world.kubeconfig, world.providers = filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "providers.json")
	return errors.Join(os.WriteFile(world.providers, []byte(providerFile), 0o600), clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: "management",
		Contexts:       map[string]*clientcmdapi.Context{"management": {Cluster: "management", AuthInfo: "admin"}},
		Clusters:       map[string]*clientcmdapi.Cluster{"management": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
	}, world.kubeconfig))
}

// withoutNetwork returns a provider that fails instead of connecting to a host.
func withoutNetwork(p providers.Provider) providers.Provider {
	if _, ok := p.(*kubeconfig.Provider); ok {
		return p
	}
	return disconnected{p}
}

type disconnected struct{ providers.Provider }

func (p disconnected) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return p.Provider.Issue(ctx, req)
}

// resolver prevents the controller from connecting to targets.
type resolver struct{ *issuer.Issuer }

func (r resolver) Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (issuer.Resolution, error) {
	resolution, err := r.Issuer.Resolve(ctx, cluster)
	resolution.Access = unavailable{}
	return resolution, err
}

type unavailable struct{}

func (unavailable) Issue(context.Context, providers.Request) (providers.Credential, error) {
	return providers.Credential{}, providers.Unavailable(0, errors.New("not in this test"))
}

func (unavailable) ShareKey(providers.Request) string { return "" }

// authenticate accepts each token as that of a Pod of its own.
func authenticate(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	audiences, _ := authenticator.AudiencesFrom(ctx)
	return &authenticator.Response{Audiences: audiences, User: &user.DefaultInfo{
		Name: serviceaccount.MakeUsername("app", "web"),
		Extra: map[string][]string{
			serviceaccount.PodNameKey: {"web-0"}, serviceaccount.PodUIDKey: {token},
		},
	}}, true, nil
}

type allowAll struct{}

func (allowAll) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// answer is the result of a component.
type answer struct {
	// rejected is the message; empty if Pods can have the target.
	rejected string
	// reason is that of the rejection; empty if the part shows the message alone.
	reason string
	// delivery and deliveryReason are empty if the part does not show them.
	delivery, deliveryReason string
}

// ofController reconciles a TargetCluster and returns the result in its status.
func ofController(t *testing.T, name types.NamespacedName) answer {
	t.Helper()
	_, err := world.controller.Reconcile(t.Context(), reconcile.Request{NamespacedName: name})
	must(t, err)
	var tc v1alpha1.TargetCluster
	must(t, world.client.Get(t.Context(), name, &tc))
	resolved := meta.FindStatusCondition(tc.Status.Conditions, v1alpha1.ConditionResolved)
	if resolved == nil || resolved.Status == metav1.ConditionUnknown {
		t.Fatalf("the condition Resolved is %v", resolved)
	}
	if resolved.Status == metav1.ConditionFalse {
		return answer{rejected: resolved.Message, reason: resolved.Reason}
	}
	return answer{delivery: string(tc.Status.Delivery), deliveryReason: tc.Status.DeliveryReason}
}

// pod returns a Pod that requests a cluster.
func pod(t *testing.T, annotation string, name types.NamespacedName) []byte {
	t.Helper()
	raw, err := json.Marshal(corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web-0", Annotations: map[string]string{
			annotation: name.String(),
		}},
		Spec: corev1.PodSpec{ServiceAccountName: "web", Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	})
	must(t, err)
	return raw
}

// injected returns the result in the status annotation of an injected Pod.
func injected(t *testing.T, text []byte) answer {
	t.Helper()
	var p corev1.Pod
	must(t, yaml.Unmarshal(text, &p))
	var status injector.Status
	must(t, json.Unmarshal([]byte(p.Annotations[injector.AnnotationStatus]), &status))
	if status.Federated() {
		return answer{} // the target's delivery plays no part
	}
	return answer{delivery: status.Delivery, deliveryReason: status.DeliveryReason}
}

func ofWebhook(t *testing.T, annotation string, name types.NamespacedName) answer {
	t.Helper()
	raw := pod(t, annotation, name)
	review, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "1", Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Namespace: "app", Operation: admissionv1.Create,
			Object: runtime.RawExtension{Raw: raw},
		},
	})
	must(t, err)
	w := httptest.NewRecorder()
	world.webhook.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, webhook.PathPods, bytes.NewReader(review)))
	var reviewed admissionv1.AdmissionReview
	must(t, json.Unmarshal(w.Body.Bytes(), &reviewed))
	if !reviewed.Response.Allowed {
		message := reviewed.Response.Result.Message
		_, rest, found := strings.Cut(message, " not resolved: ")
		reason, rest, separated := strings.Cut(rest, ": ")
		if !found || !separated {
			t.Fatalf("denied otherwise: %s", message)
		}
		return answer{rejected: rest, reason: reason}
	}
	patch, err := jsonpatch.DecodePatch(reviewed.Response.Patch)
	must(t, err)
	patched, err := patch.Apply(raw)
	must(t, err)
	return injected(t, patched)
}

// ask requests a credential from a broker.
func ask(t *testing.T, broker http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	return askWith(t, broker, path, "")
}

// askWith asks with the tag of the last answer, if that is not empty.
func askWith(t *testing.T, broker http.Handler, path, tag string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader("{}"))
	encode := base64.RawURLEncoding.EncodeToString
	r.Header.Set("Authorization", "Bearer "+encode([]byte(`{"alg":"RS256"}`))+"."+encode([]byte(`{"aud":["keyferry"],"jti":"`+path+`"}`))+".")
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	w := httptest.NewRecorder()
	broker.ServeHTTP(w, r)
	return w
}

// issued returns the credential from a broker.
func issued(t *testing.T, broker http.Handler, path string) wire.ExecCredential {
	t.Helper()
	w := ask(t, broker, path)
	if w.Code != http.StatusOK {
		t.Fatalf("the broker answers %d: %s", w.Code, w.Body)
	}
	var credential wire.ExecCredential
	must(t, json.Unmarshal(w.Body.Bytes(), &credential))
	return credential
}

// ofBroker returns the result of the broker. It includes a delivery only if a credential can be
// issued without a network.
func ofBroker(t *testing.T, path string) answer {
	t.Helper()
	w := ask(t, world.broker, path)
	if w.Code == http.StatusOK {
		return answer{delivery: issued(t, world.broker, path).Spec.Cluster.Config.Delivery}
	}
	var status metav1.Status
	must(t, json.Unmarshal(w.Body.Bytes(), &status))
	switch {
	case w.Code == http.StatusUnprocessableEntity:
		return answer{rejected: status.Message, reason: string(status.Details.Causes[0].Type)}
	case w.Code == http.StatusBadGateway || w.Code == http.StatusServiceUnavailable: // the provider has no network
		return answer{}
	case w.Code == http.StatusForbidden && status.Details.Causes[0].Type == "SubjectTokenNeeded": // the request has no token for the provider
		return answer{}
	}
	t.Fatalf("the broker answers %d: %s", w.Code, status.Message)
	return answer{}
}

// ofCommand returns the result of keyferry inject with these arguments.
func ofCommand(t *testing.T, annotation string, name types.NamespacedName, args ...string) answer {
	t.Helper()
	var out, errOut bytes.Buffer
	streams := genericiooptions.IOStreams{In: bytes.NewReader(pod(t, annotation, name)), Out: &out, ErrOut: &errOut}
	code := cli.Run(t.Context(), streams, slices.Concat([]string{"keyferry", "inject", "-f", "-", "--kubeconfig", world.kubeconfig,
		"--provider-file", world.providers, "--ambient-identity-namespaces", ambientNamespace}, args))
	if code != cli.ExitOK {
		return answer{rejected: errOut.String()}
	}
	return injected(t, out.Bytes())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
