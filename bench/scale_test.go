package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

const (
	clustersAtScale = 200
	accountsAtScale = 2000
)

// BenchmarkScale creates Pods as fast as the API server takes them, of many ServiceAccounts and for many TargetClusters. Nothing runs them:
// what is measured is what stands in the way of their creation.
func BenchmarkScale(b *testing.B) {
	for _, pods := range []int{1000, 3000, 10_000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			in := install(b)
			in.populate(b)
			for range b.N {
				b.ReportMetric(in.createAll(b, pods, false), "without-pods/s")
				before := in.webhook.cpu()
				b.ReportMetric(in.createAll(b, pods, true), "with-pods/s")
				b.ReportMetric((in.webhook.cpu()-before).Seconds()/float64(pods), "cpu-sec/pod")
				resident, dirty := in.webhook.memory()
				b.ReportMetric(resident, "rss-MiB")
				b.ReportMetric(dirty, "dirty-MiB")
			}
		})
	}
}

// populate makes the TargetClusters, and the ServiceAccounts that may use them.
func (in *installation) populate(b *testing.B) {
	b.Helper()
	group := rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts:" + in.fleet.Namespace}
	must(b, in.fleet.Create(b.Context(), &rbacv1.RoleBinding{
		ObjectMeta: in.fleet.Named("use-all"), Subjects: []rbacv1.Subject{group},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "use"},
	}))
	each(clustersAtScale, func(i int) {
		cluster := &v1alpha1.TargetCluster{ObjectMeta: in.fleet.Named(fmt.Sprint("target-", i)), Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror},
			}},
		}}
		must(b, in.fleet.Create(b.Context(), cluster))
		in.resolve(b, cluster.Name)
	})
	each(accountsAtScale, func(i int) {
		must(b, in.fleet.Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: in.fleet.Named(fmt.Sprint("account-", i))}))
	})
}

// createAll returns how many Pods were created in a second.
func (in *installation) createAll(b *testing.B, pods int, annotated bool) float64 {
	b.Helper()
	template := in.pod(b, annotated)
	begin := time.Now()
	each(pods, func(i int) {
		p := template.DeepCopy()
		p.Spec.ServiceAccountName = fmt.Sprint("account-", i%accountsAtScale)
		if annotated {
			p.Annotations["keyferry.dev/cluster"] = fmt.Sprint("target-", i%clustersAtScale)
		}
		must(b, in.fleet.Create(b.Context(), p))
	})
	return float64(pods) / time.Since(begin).Seconds()
}

// each calls f for all numbers below n, several at once.
func each(n int, f func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	all.Wait()
}
