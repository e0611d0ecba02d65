package credentials

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	polling "k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/secretwatch"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
)

// process is a controller as it runs: with a manager, caches and watches.
type process struct {
	requests *Requests
	registry *prometheus.Registry
	// calls are all requests to this cluster; writes those that change something, but for Events;
	// minted credentials.
	calls, writes, minted atomic.Int64
	stop                  func()
}

// start runs a controller for these namespaces, until t ends or it is stopped. Who says as whom;
// empty is as an administrator.
func start(t testing.TB, who string, namespaces ...string) *process {
	t.Helper()
	p := &process{registry: prometheus.NewRegistry()}
	cfg := rest.CopyConfig(here)
	cfg.QPS, cfg.Impersonate.UserName = -1, who
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			p.calls.Add(1)
			if req.Method != http.MethodGet && !strings.Contains(req.URL.RawQuery, "dryRun") && !strings.Contains(req.URL.Path, "subjectaccessreviews") && !strings.Contains(req.URL.Path, "events") {
				p.writes.Add(1)
			}
			return next.RoundTrip(req)
		})
	})
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                 testenv.NewClient(t, here).Scheme(),
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		Controller:             config.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	credentialIssuer, err := issuer.New(issuer.Config{
		Clusters: mgr.GetClient(), Secrets: testenv.NewClient(t, here), ClusterID: "here", Policy: endpoint.Policy{AllowLocal: true},
		Observe: func(e issuer.Event) {
			if e.Err == nil {
				p.minted.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := secretwatch.New(kubernetes.NewForConfigOrDie(cfg), namespaces)
	if err != nil {
		t.Fatal(err)
	}
	p.requests, err = New(Config{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Secrets: secrets, Issuer: credentialIssuer, FindLock: locks.NewFind(mgr.GetClient(), time.Now),
		Events: mgr.GetEventRecorder("test"), Metrics: p.registry, Concurrency: 16, Timeout: 30 * time.Second, RevocationTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := mgr.Add(secrets); err != nil {
		t.Fatal(err)
	}
	if err := p.requests.SetupWithManager(mgr, secrets.Notify); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	p.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.stop = func() {}
	}
	t.Cleanup(func() { p.stop() })
	return p
}

// looked is how many requests the process has come to an end with, and how many of those are ready.
func (p *process) looked(t testing.TB) (all, ready int) {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "keyferry_credentialrequest_ready" {
			for _, metric := range family.GetMetric() {
				all++
				ready += int(metric.GetGauge().GetValue())
			}
		}
	}
	return all, ready
}

// TestSecretIsWatched: what somebody does to the Secret, and to what it comes from, is noticed
// without waiting for anything.
func TestSecretIsWatched(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	start(t, "", w.ns)
	// A namespace that is not there, or that is not listed, keeps nobody from being served.
	w.eventually("the Secret", func() bool { return w.secret(w.request) != nil })
	first := w.secret(w.request)

	w.delete(first)
	w.eventually("the deleted Secret", func() bool { s := w.secret(w.request); return s != nil && s.UID != first.UID })
	edited := w.secret(w.request)
	edited.Data[injector.TokenFileToken] = []byte("wrong")
	w.update(edited)
	w.eventually("the edited Secret", func() bool { return string(w.secret(w.request).Data[injector.TokenFileToken]) != "wrong" })
	unlabelled := w.secret(w.request)
	unlabelled.Labels = nil
	w.update(unlabelled)
	w.eventually("the label", func() bool { return w.secret(w.request).Labels[v1alpha1.LabelCredentialRequest] == "web" })

	cluster := &v1alpha1.TargetCluster{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, cluster); err != nil {
		t.Fatal(err)
	}
	cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: strings.Replace(there.Host, "127.0.0.1", "localhost", 1)}
	if !strings.HasPrefix(cluster.Spec.Endpoint.Server, "https://") {
		cluster.Spec.Endpoint.Server = "https://" + cluster.Spec.Endpoint.Server
	}
	w.update(cluster)
	w.eventually("the new address", func() bool { return string(w.secret(w.request).Data[injector.TokenFileHost]) == "localhost" })
}

// TestRights: the rights that the chart grants are enough, and without them the condition says what
// to do. One namespace without keeps no other from being served.
func TestRights(t *testing.T) {
	w, other := newWorld(t, v1alpha1.CredentialTokenFile), newWorld(t, v1alpha1.CredentialTokenFile)
	unlisted := newWorld(t, v1alpha1.CredentialTokenFile)
	who := "controller-of-" + w.ns
	subject := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: who}}
	w.create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: who}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"locks", "clusterlocks"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"credentialrequests"}, Verbs: []string{"get", "list", "watch", "patch"}},
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"credentialrequests/status"}, Verbs: []string{"update"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}})
	w.create(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: who}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: who}, Subjects: subject})
	w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: who}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"get"}},
	}})
	w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: who}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: who}, Subjects: subject})
	w.eventually("the rights", func() bool {
		cfg := rest.CopyConfig(here)
		cfg.Impersonate.UserName = who
		_, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Secrets(w.ns).List(t.Context(), metav1.ListOptions{})
		return !apierrors.IsForbidden(err)
	})
	start(t, who, other.ns, w.ns)

	reason := func(w *world, kind string) (string, string) {
		if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(w.request), w.request); err != nil {
			t.Fatal(err)
		}
		if c := meta.FindStatusCondition(w.request.Status.Conditions, kind); c != nil {
			return c.Reason, c.Message
		}
		return "", ""
	}
	w.eventually("the Secret", func() bool { reason, _ := reason(w, v1alpha1.ConditionReady); return reason == reasonReady })
	for _, w := range []*world{other, unlisted} {
		w.eventually("the reason", func() bool {
			reason, _ := reason(w, v1alpha1.ConditionReady)
			return reason == reasonNamespaceNotServed
		})
		if _, message := reason(w, v1alpha1.ConditionReady); !strings.Contains(message, "add "+w.ns+" to the chart value credentialRequests.namespaces") {
			t.Errorf("message %q", message)
		}
	}
	w.delete(w.request)
	w.eventually("the end of the request", func() bool {
		return apierrors.IsNotFound(w.client.Get(t.Context(), client.ObjectKeyFromObject(w.request), w.request))
	})
}

// report is what many requests cost.
type report struct {
	took                 time.Duration
	first, steady, again cost // until all were ready, for another look at each, and after a restart
	heap                 uint64
	busiest              int // renewals in the minute with most of them
}

// cost is of a part of a process's life.
type cost struct{ calls, writes, minted int64 }

// since is what a process has cost since it had cost as much as before.
func (p *process) since(before cost) cost {
	return cost{p.calls.Load() - before.calls, p.writes.Load() - before.writes, p.minted.Load() - before.minted}
}

func many(t testing.TB, n int) report {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.delete(w.request)
	cluster := &v1alpha1.TargetCluster{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, cluster); err != nil {
		t.Fatal(err)
	}
	cluster.Spec.Issue.TokenRequest.Revocable = false
	w.update(cluster)
	busy := rest.CopyConfig(here)
	busy.QPS = -1
	fast := testenv.NewClient(t, busy)
	requests := make([]*v1alpha1.CredentialRequest, n)
	for i := range requests {
		requests[i] = w.newRequest(fmt.Sprintf("web-%d", i), v1alpha1.CredentialTokenFile)
		if err := fast.Create(t.Context(), requests[i]); err != nil {
			t.Fatal(err)
		}
	}

	var r report
	began, heap := time.Now(), inUse()
	p := start(t, "", w.ns)
	wait := func(p *process) {
		t.Helper()
		ready := 0
		err := polling.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true, func(context.Context) (bool, error) {
			_, ready = p.looked(t)
			return ready == n, nil
		})
		if err != nil {
			t.Fatalf("%d of %d are ready: %v", ready, n, err)
		}
	}
	wait(p)
	r.took, r.first, r.heap = time.Since(began), p.since(cost{}), inUse()-heap

	for _, request := range requests {
		if _, err := p.requests.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(request)}); err != nil {
			t.Fatal(err)
		}
	}
	r.steady = p.since(r.first)
	p.stop()

	again := start(t, "", w.ns)
	wait(again)
	r.again = again.since(cost{})

	var list v1alpha1.CredentialRequestList
	if err := fast.List(t.Context(), &list, client.InNamespace(w.ns)); err != nil {
		t.Fatal(err)
	}
	minutes := map[time.Time]int{}
	for _, request := range list.Items {
		minutes[request.Status.RenewAt.Truncate(time.Minute)]++
	}
	for _, count := range minutes {
		r.busiest = max(r.busiest, count)
	}
	return r
}

func inUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

func TestMany(t *testing.T) {
	const n = 100
	r := many(t, n)
	// A Secret and a status for each; now and then one comes too early for what was written before, is
	// refused and sent again.
	if r.first.minted != n || r.first.writes > 2*n+n/20 {
		t.Errorf("%d issued, %d writes, for %d requests", r.first.minted, r.first.writes, n)
	}
	if left := []int64{r.steady.writes, r.steady.minted, r.again.writes, r.again.minted}; !slices.Equal(left, []int64{0, 0, 0, 0}) {
		t.Errorf("writes and issues while nothing changes, and after a restart: %v", left)
	}
	if r.busiest > n/3 {
		t.Errorf("%d of %d renewals are in the same minute", r.busiest, n)
	}
}

func BenchmarkManyRequests(b *testing.B) {
	const n = 2000
	for b.Loop() {
		r := many(b, n)
		b.ReportMetric(r.took.Seconds(), "s-until-ready")
		b.ReportMetric(float64(r.first.calls)/n, "calls/request")
		b.ReportMetric(float64(r.first.writes)/n, "writes/request")
		b.ReportMetric(float64(r.first.minted)/n, "issues/request")
		b.ReportMetric(float64(r.steady.calls)/n, "steady-calls/request")
		b.ReportMetric(float64(r.steady.writes), "steady-writes")
		b.ReportMetric(float64(r.again.calls)/n, "restart-calls/request")
		b.ReportMetric(float64(r.again.writes), "restart-writes")
		b.ReportMetric(float64(r.again.minted), "restart-issues")
		b.ReportMetric(float64(r.busiest), "renewals/busiest-min")
		b.ReportMetric(float64(r.heap)/n, "heap-B/request")
	}
}
