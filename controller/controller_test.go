package controller

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// server is the API server, which is the target, too.
var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { server = cfg }))
}

// world is a namespace of its own with a TargetCluster and the Secret that it names.
type world struct {
	t       *testing.T
	client  client.Client
	cluster *v1alpha1.TargetCluster
	secret  *corev1.Secret
	now     time.Time
	events  *events.FakeRecorder
	metrics *prometheus.Registry
	writes  atomic.Int32 // of the controller
	it      *TargetClusters
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// newWorld makes a TargetCluster whose kubeconfig leads to the API server. Those who read Secrets
// are who says.
func newWorld(t *testing.T, who rest.ImpersonationConfig) *world {
	t.Helper()
	w := &world{
		t:       t,
		client:  testenv.NewClient(t, server),
		now:     time.Now().Truncate(time.Second),
		events:  events.NewFakeRecorder(16),
		metrics: prometheus.NewRegistry(),
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-"}}
	w.create(namespace)
	w.secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "tenant-1-kubeconfig"},
		Data:       map[string][]byte{"value": kubeconfig(t, server.Host)},
	}
	w.create(w.secret)
	w.cluster = &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "tenant-1"},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: w.secret.Name}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "default", Name: "default"}}},
		},
	}
	w.create(w.cluster)

	counted := rest.CopyConfig(server)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method != http.MethodGet {
				w.writes.Add(1)
			}
			return next.RoundTrip(req)
		})
	})
	reading := rest.CopyConfig(server)
	reading.Impersonate = who
	resolver, err := issuer.New(issuer.Config{
		Clusters: w.client, Secrets: testenv.NewClient(t, reading), Policy: endpoint.Policy{AllowLocal: true}, Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.it, err = New(TargetClustersConfig{
		Client:      testenv.NewClient(t, counted),
		Resolver:    resolver,
		Egress:      endpoint.Policy{AllowLocal: true},
		Events:      w.events,
		Metrics:     w.metrics,
		Concurrency: 1,
		Timeout:     time.Minute,
		Now:         func() time.Time { return w.now },
		Jitter:      func(d time.Duration) time.Duration { return d },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
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

// kubeconfig leads to the API server at an address, with the rights of the test.
func kubeconfig(t *testing.T, host string) []byte {
	t.Helper()
	data, err := clientcmd.Write(api.Config{
		CurrentContext: "target",
		Contexts:       map[string]*api.Context{"target": {Cluster: "target", AuthInfo: "admin"}},
		Clusters:       map[string]*api.Cluster{"target": {Server: "https://" + strings.TrimPrefix(host, "https://"), CertificateAuthorityData: server.CAData}},
		AuthInfos:      map[string]*api.AuthInfo{"admin": {ClientCertificateData: server.CertData, ClientKeyData: server.KeyData}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// look reconciles once, some time later, and returns when it wants to look again. The status is
// read into w.cluster.
func (w *world) look() time.Duration {
	w.t.Helper()
	w.now = w.now.Add(time.Minute)
	key := client.ObjectKeyFromObject(w.cluster)
	result, err := w.it.Reconcile(w.t.Context(), reconcile.Request{NamespacedName: key})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.client.Get(w.t.Context(), key, w.cluster); err != nil {
		w.t.Fatal(err)
	}
	return result.RequeueAfter
}

// condition checks one, and returns its message.
func (w *world) condition(kind string, status metav1.ConditionStatus, reason string) string {
	w.t.Helper()
	c := meta.FindStatusCondition(w.cluster.Status.Conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason {
		w.t.Errorf("condition %s: got %+v, want %s with reason %s", kind, c, status, reason)
		return ""
	}
	if c.ObservedGeneration != w.cluster.Generation {
		w.t.Errorf("condition %s is of generation %d, not %d", kind, c.ObservedGeneration, w.cluster.Generation)
	}
	return c.Message
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

func (w *world) wantEvents(prefixes ...string) {
	w.t.Helper()
	got := w.told()
	if len(got) != len(prefixes) {
		w.t.Fatalf("Events %q, want %q", got, prefixes)
	}
	for i, prefix := range prefixes {
		if !strings.HasPrefix(got[i], prefix) {
			w.t.Errorf("Event %q, want %q", got[i], prefix)
		}
	}
}

// metric is keyferry_targetcluster_ready of all TargetClusters.
func (w *world) metric() []float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var values []float64
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			values = append(values, metric.GetGauge().GetValue())
		}
	}
	return values
}

func TestReady(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	if after := w.look(); after != time.Minute {
		t.Errorf("looks again after %s, want a minute", after)
	}
	w.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
	w.condition(v1alpha1.ConditionReachable, metav1.ConditionTrue, "Answers")
	w.condition(v1alpha1.ConditionIssuing, metav1.ConditionUnknown, "NotUsed")
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")

	kubeSystem := &corev1.Namespace{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: "kube-system"}, kubeSystem); err != nil {
		t.Fatal(err)
	}
	status := w.cluster.Status
	if want := "https://" + strings.Trim(strings.TrimPrefix(server.Host, "https:"), "/"); status.Endpoint != want {
		t.Errorf("endpoint %q, want %q", status.Endpoint, want)
	}
	if status.ClusterUID != kubeSystem.UID || !strings.HasPrefix(status.ServerVersion, "v1.") ||
		status.Delivery != v1alpha1.DeliveryDirect || status.DeliveryReason == "" || status.ObservedGeneration != w.cluster.Generation {
		t.Errorf("status %+v", status)
	}
	w.wantEvents()
	if got := w.metric(); len(got) != 1 || got[0] != 1 {
		t.Errorf("metric is %v, want 1", got)
	}
}

func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	for name, broken := range map[string]bool{"ready": false, "broken": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rest.ImpersonationConfig{})
			if broken {
				w.secret.Data = map[string][]byte{"value": kubeconfig(t, deadAddress(t))}
				w.update(w.secret)
			}
			w.look()
			before := w.writes.Load()
			version := w.cluster.ResourceVersion
			w.told()
			for range 5 {
				w.look()
			}
			if writes := w.writes.Load() - before; writes != 0 || w.cluster.ResourceVersion != version {
				t.Errorf("%d writes, and from version %s to %s", writes, version, w.cluster.ResourceVersion)
			}
			w.wantEvents()
		})
	}
}

// deadAddress is one where nobody listens any more.
func deadAddress(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(nil)
	s.Close()
	return s.Listener.Addr().String()
}

func TestNotResolved(t *testing.T) {
	tests := map[string]struct {
		who     rest.ImpersonationConfig
		spoil   func(w *world)
		reason  string
		message string
	}{
		"Secret missing": {
			spoil: func(w *world) {
				if err := w.client.Delete(w.t.Context(), w.secret); err != nil {
					w.t.Fatal(err)
				}
			},
			reason: resolve.ReasonSecretNotFound, message: "tenant-1-kubeconfig",
		},
		"Secret forbidden": {
			who:    rest.ImpersonationConfig{UserName: "system:serviceaccount:keyferry-system:keyferry-controller"},
			spoil:  func(*world) {},
			reason: resolve.ReasonSecretForbidden, message: "secretAccess.namespaces",
		},
		"garbage": {
			spoil:  func(w *world) { w.secret.Data = map[string][]byte{"value": []byte("{")}; w.update(w.secret) },
			reason: resolve.ReasonInvalidKubeconfig, message: "tenant-1-kubeconfig",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.who)
			tt.spoil(w)
			first := w.look()
			message := w.condition(v1alpha1.ConditionResolved, metav1.ConditionFalse, tt.reason)
			if !strings.Contains(message, tt.message) {
				t.Errorf("message %q does not tell of %q", message, tt.message)
			}
			w.condition(v1alpha1.ConditionReachable, metav1.ConditionUnknown, "NotResolved")
			if ready := w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, tt.reason); ready != message {
				t.Errorf("Ready says %q, Resolved %q", ready, message)
			}
			w.wantEvents("Warning " + tt.reason)
			if second := w.look(); first != firstBackoff || second != 2*firstBackoff {
				t.Errorf("looks again after %s, then %s", first, second)
			}
		})
	}
}

func TestMended(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	good := w.secret.Data
	w.secret.Data = map[string][]byte{"value": []byte("{")}
	w.update(w.secret)
	w.look()
	w.told()
	broke := meta.FindStatusCondition(w.cluster.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime

	w.secret.Data = good
	w.update(w.secret)
	if after := w.look(); after != time.Minute {
		t.Errorf("looks again after %s, want a minute", after)
	}
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
	w.wantEvents("Normal Recovered")
	if at := meta.FindStatusCondition(w.cluster.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime; !broke.Before(&at) {
		t.Errorf("the condition turned at %s, before that at %s", at, broke)
	}
}

// impostor is a target that says what it is told to, with the API server's way of answering.
func impostor(t *testing.T, code int, uid string) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		rw.WriteHeader(code)
		answer := map[string]any{"gitVersion": "v1.99.0"}
		if strings.Contains(req.URL.Path, "kube-system") {
			answer = map[string]any{"metadata": map[string]any{"uid": uid}}
		}
		_ = json.NewEncoder(rw).Encode(answer)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// certificate is the authority of a test server.
func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// moveTo has the kubeconfig lead to another server.
func (w *world) moveTo(s *httptest.Server, ca []byte) {
	w.t.Helper()
	data := kubeconfig(w.t, s.Listener.Addr().String())
	config, err := clientcmd.Load(data)
	if err != nil {
		w.t.Fatal(err)
	}
	config.Clusters["target"].CertificateAuthorityData = ca
	if data, err = clientcmd.Write(*config); err != nil {
		w.t.Fatal(err)
	}
	w.secret.Data = map[string][]byte{"value": data}
	w.update(w.secret)
}

func TestMovedAndReplaced(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	was := w.cluster.Status

	other := impostor(t, http.StatusOK, "11111111-2222-3333-4444-555555555555")
	w.moveTo(other, certificate(other))
	w.look()
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
	if s := w.cluster.Status; s.Endpoint != other.URL || s.ClusterUID == was.ClusterUID || s.ServerVersion != "v1.99.0" {
		t.Errorf("status %+v", s)
	}
	w.wantEvents("Warning ClusterReplaced", "Normal EndpointMoved")
}

// A target that cannot be asked is not known to have become another one: the next that answers is
// compared with the last that did.
func TestReplacedBehindAnOutage(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	was := w.cluster.Status
	w.secret.Data = map[string][]byte{"value": kubeconfig(t, deadAddress(t))}
	w.update(w.secret)
	w.look()
	w.wantEvents("Normal EndpointMoved", "Warning Unreachable")
	if w.cluster.Status.ClusterUID != was.ClusterUID {
		t.Errorf("the UID became %q", w.cluster.Status.ClusterUID)
	}
	other := impostor(t, http.StatusOK, "11111111-2222-3333-4444-555555555555")
	w.moveTo(other, certificate(other))
	w.look()
	w.wantEvents("Warning ClusterReplaced", "Normal EndpointMoved", "Normal Recovered")
}

func TestNotReachable(t *testing.T) {
	stranger := impostor(t, http.StatusOK, "x")
	silent := httptest.NewUnstartedServer(nil) // takes connections, and says nothing
	t.Cleanup(silent.Close)
	tests := map[string]struct {
		server *httptest.Server
		ca     []byte
		reason string
	}{
		"another authority": {stranger, server.CAData, reasonTLSFailed},
		"refuses":           {impostor(t, http.StatusUnauthorized, ""), nil, reasonUnauthorized},
		"no API server":     {impostor(t, http.StatusNotFound, ""), nil, reasonUnexpectedAnswer},
		"does not answer":   {silent, server.CAData, reasonTimeout},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rest.ImpersonationConfig{})
			w.it.cfg.Timeout = time.Second
			if tt.ca == nil {
				tt.ca = certificate(tt.server)
			}
			w.moveTo(tt.server, tt.ca)
			w.look()
			w.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
			message := w.condition(v1alpha1.ConditionReachable, metav1.ConditionFalse, tt.reason)
			if !strings.Contains(message, tt.server.Listener.Addr().String()) {
				t.Errorf("message %q does not name the address", message)
			}
			w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, tt.reason)
			w.wantEvents("Warning " + tt.reason)
		})
	}
}

func TestForbiddenIsAnAnswer(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	s := impostor(t, http.StatusForbidden, "")
	w.moveTo(s, certificate(s))
	w.look()
	w.condition(v1alpha1.ConditionReachable, metav1.ConditionTrue, "Answers")
	if w.cluster.Status.ServerVersion != "" || w.cluster.Status.ClusterUID != "" {
		t.Errorf("status %+v", w.cluster.Status)
	}
}

// brokerSays writes the condition Issuing as the broker does.
func (w *world) brokerSays(status metav1.ConditionStatus, reason string, generation int64) {
	w.t.Helper()
	w.reported("keyferry-broker", status, reason, generation)
}

// reported writes the condition Issuing as package report does.
func (w *world) reported(fieldManager string, status metav1.ConditionStatus, reason string, generation int64) {
	w.t.Helper()
	cluster := w.cluster.DeepCopy()
	err := w.it.apply(w.t.Context(), cluster, "", v1alpha1.TargetClusterStatus{Conditions: []metav1.Condition{{
		Type: v1alpha1.ConditionIssuing, Status: status, Reason: reason, Message: "said by the broker",
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(w.now),
	}}}, client.FieldOwner(fieldManager), client.ForceOwnership)
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestIssuingIsTheBrokers(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	w.brokerSays(metav1.ConditionFalse, "Refused", w.cluster.Generation)
	w.look()
	w.condition(v1alpha1.ConditionIssuing, metav1.ConditionFalse, "Refused")
	w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, "Refused")
	w.wantEvents("Warning Refused")

	w.brokerSays(metav1.ConditionTrue, "Issued", w.cluster.Generation)
	w.look()
	w.look()
	w.condition(v1alpha1.ConditionIssuing, metav1.ConditionTrue, "Issued")
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
	w.wantEvents("Normal Recovered")
}

// The controller's own requests are reported under another field manager than that of the status.
// Neither removes what the other wrote, nor what the broker wrote.
func TestIssuingOfTheController(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	for i, reason := range []string{"Refused", "Unavailable", "NotFound", "Failed"} {
		w.reported([]string{IssuingFieldManager, "keyferry-broker"}[i%2], metav1.ConditionFalse, reason, w.cluster.Generation)
		w.look()
		w.condition(v1alpha1.ConditionIssuing, metav1.ConditionFalse, reason)
		w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reason)
		w.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
		w.now = w.now.Add(time.Minute)
	}
}

func TestIssuingOfAnOlderSpecSaysNothing(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	w.brokerSays(metav1.ConditionFalse, "Refused", w.cluster.Generation)
	w.look()
	w.cluster.Spec.DefaultNamespace = "other"
	w.update(w.cluster)
	w.look()
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
}

// The broker may be faster than the controller, which then has an older status in its cache.
func TestIssuingIsNotOverwritten(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.brokerSays(metav1.ConditionTrue, "Issued", w.cluster.Generation)
	stale := w.cluster.DeepCopy()
	if err := w.it.write(t.Context(), stale, stale.Status); err != nil {
		t.Fatal(err)
	}
	w.look()
	w.condition(v1alpha1.ConditionIssuing, metav1.ConditionTrue, "Issued")
}

func TestGone(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	if err := w.client.Delete(t.Context(), w.cluster); err != nil {
		t.Fatal(err)
	}
	result, err := w.it.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(w.cluster)})
	if err != nil || result.RequeueAfter != 0 {
		t.Errorf("got %v, %v", result, err)
	}
	if got := w.metric(); len(got) != 0 {
		t.Errorf("the metric of a cluster that is gone is %v", got)
	}
}

// A TargetCluster that was deleted and made again while it was looked at has a status of its own.
func TestNamesake(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	old := w.cluster.DeepCopy()
	if err := w.client.Delete(t.Context(), w.cluster); err != nil {
		t.Fatal(err)
	}
	w.cluster.ResourceVersion, w.cluster.UID = "", ""
	w.create(w.cluster)
	err := w.it.write(t.Context(), old, v1alpha1.TargetClusterStatus{Endpoint: "https://a.example:443"})
	if !apierrors.IsConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func TestPlainHTTPIsSaid(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://" + strings.TrimPrefix(server.Host, "https://"), CertificateAuthorityData: server.CAData}
	w.cluster.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessSpider, Spider: &v1alpha1.SpiderAccess{
		URL: "http://" + deadAddress(t), Cluster: "tenant-1", Connection: "ncp"}}
	w.update(w.cluster)
	w.look()
	if message := w.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "ResolvedWithWarning"); !strings.Contains(message, "spec.access.spider.url is plain http") {
		t.Errorf("Resolved says %q", message)
	}
	if message := w.condition(v1alpha1.ConditionReachable, metav1.ConditionFalse, "AccessUnavailable"); !strings.Contains(message, "asking CB-Spider") {
		t.Errorf("Reachable says %q", message)
	}
	w.wantEvents("Warning ResolvedWithWarning spec.access.spider.url is plain http", "Warning AccessUnavailable")
	w.look()
	w.wantEvents()
}
