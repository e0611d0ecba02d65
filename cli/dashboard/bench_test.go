package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/dashboard/mirror"
	"github.com/keyferry/keyferry/internal/use"
)

const (
	benchPods    = 10_000
	benchTargets = 200
)

// fleet returns Pods which use targets, and what else belongs to them: an Event, a grant and a
// CredentialRequest for each target.
func fleet(pods, targets int) []client.Object {
	var all []client.Object
	for i := range targets {
		name := types.NamespacedName{Namespace: "fleet", Name: fmt.Sprintf("target-%03d", i)}
		account := types.NamespacedName{Namespace: fmt.Sprintf("app-%03d", i), Name: "web"}
		o := use.TargetCluster(name)
		all = append(all, use.Role(o), use.Binding(account, o), &v1alpha1.TargetCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
			Status: v1alpha1.TargetClusterStatus{
				Endpoint: "https://" + name.Name + ".example:6443", ServerVersion: "v1.36.1",
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready"}},
			},
		}, &v1alpha1.CredentialRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: account.Namespace, Name: "ci"},
			Spec: v1alpha1.CredentialRequestSpec{
				TargetCluster: v1alpha1.ObjectReference{Namespace: name.Namespace, Name: name.Name}, ServiceAccountName: account.Name,
			},
		})
	}
	for i := range pods {
		target := i % targets
		pod := injected(fmt.Sprintf("app-%03d", target), fmt.Sprintf("web-5d4f7c9b8-%05d", i),
			fmt.Sprintf(`{"clusters":["fleet/target-%03d"],"delivery":"Direct"}`, target))
		pod.UID = types.UID(fmt.Sprintf("0b5e4f0e-6f0c-4c55-9f0a-%012d", i))
		pod.Labels = map[string]string{"app": "web", "pod-template-hash": "5d4f7c9b8"}
		pod.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d4f7c9b8", UID: pod.UID, Controller: new(true),
		}}
		pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "registry.example/app:1", Env: []corev1.EnvVar{{Name: "MODE", Value: "production"}}}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", Image: "registry.example/app:1", Ready: true}}
		all = append(all, pod)
	}
	return all
}

// newBenchDashboard returns a dashboard of a cluster.
func newBenchDashboard(b *testing.B, c client.WithWatch) *Dashboard {
	b.Helper()
	d, err := New(Config{Client: c, CheckPod: func(context.Context, types.NamespacedName) check.Report { return check.Report{} }})
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// BenchmarkMemory measures the heap in use when everything was read: kept-B/pod is for a Pod in the
// mirror, with its share of the other objects; heap-MB also has the content of the pages.
func BenchmarkMemory(b *testing.B) {
	c := newFakeClient(b, fleet(benchPods, benchTargets))
	var kept, all uint64
	for b.Loop() {
		before := heap()
		m, err := mirror.New(mirror.Config{Client: c})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		if err := m.Listed(ctx); err != nil {
			b.Fatal(err)
		}
		kept = heap() - before
		cancel()
		running.Wait()
		runtime.KeepAlive(m)

		m = nil
		before = heap()
		d := newBenchDashboard(b, c)
		get, stop := start(b, d)
		get(http.MethodGet, "")
		all = heap() - before
		stop()
		runtime.KeepAlive(d)
	}
	b.ReportMetric(float64(kept)/benchPods, "kept-B/pod")
	b.ReportMetric(float64(all)/1e6, "heap-MB")
}

// heap returns the bytes of all objects that are in use.
func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkBuild measures how long a snapshot takes after a change.
func BenchmarkBuild(b *testing.B) {
	d := newBenchDashboard(b, newFakeClient(b, fleet(benchPods, benchTargets)))
	_, stop := start(b, d)
	defer stop()
	for b.Loop() {
		if _, err := build(b.Context(), d.mirror, d.mirror.States(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRender measures how long the fragments of a page take, as after each change.
func BenchmarkRender(b *testing.B) {
	d := newBenchDashboard(b, newFakeClient(b, fleet(benchPods, benchTargets)))
	_, stop := start(b, d)
	defer stop()
	s, err := build(b.Context(), d.mirror, d.mirror.States(), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	r, err := newRenderer("/base/", "management")
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range []string{pageTargets, pageExpiry, pageAccess, "targets/fleet/target-000"} {
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				p, ok := s.page(path, filter{})
				if _, err := r.fragments(p); err != nil || !ok {
					b.Fatal(err)
				}
			}
		})
	}
}
