package bench

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
)

const (
	clustersAtScale   = 200
	namespacesAtScale = 20
	accountsAtScale   = 2000
	nodesAtScale      = 100
)

// BenchmarkScale has a cluster grow to 10,000 Pods of many ServiceAccounts, and for many
// TargetClusters. They are created as fast as the API server takes them, and then each asks for its
// credential, as its refresher does. As many Pods without annotation are created before.
func BenchmarkScale(b *testing.B) {
	c := newCrowd(b)
	for _, pods := range []int{1000, 3000, 10_000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) { c.grow(b, pods) })
	}
}

// crowd is an installation with many of everything, and a broker. The target of all is the API
// server itself.
type crowd struct {
	*installation

	broker     *process
	brokerURL  string
	refreshers *http.Client
	pods       int // with the annotation
}

func newCrowd(b *testing.B) *crowd {
	b.Helper()
	c := &crowd{installation: install(b)}
	c.startNodes(b, nodesAtScale)
	c.populate(b)
	address, roots := free(b), x509.NewCertPool()
	roots.AppendCertsFromPEM(c.certificate(b))
	c.broker = c.start(b, "broker", "--listen-address="+address, "--allow-local-addresses")
	c.brokerURL = "https://" + address
	c.refreshers = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
	}}
	return c
}

// populate makes TargetClusters, each with a Secret of its own, and the ServiceAccounts, which may
// use all of them.
func (c *crowd) populate(b *testing.B) {
	b.Helper()
	must(b, c.fleet.Create(b.Context(), &rbacv1.RoleBinding{
		ObjectMeta: c.fleet.Named("use-all"),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "use"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts"}},
	}))
	var access corev1.Secret
	must(b, c.fleet.Get(b.Context(), client.ObjectKey{Namespace: c.fleet.Namespace, Name: "access"}, &access))
	each(clustersAtScale, func(i int) {
		name := targetName(i)
		must(b, c.fleet.Create(b.Context(), &corev1.Secret{ObjectMeta: c.fleet.Named(name), Data: access.Data}))
		must(b, c.fleet.Create(b.Context(), &v1alpha1.TargetCluster{ObjectMeta: c.fleet.Named(name), Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: name}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror},
			}},
		}}))
		c.resolve(b, name)
	})
	each(namespacesAtScale, func(i int) {
		must(b, c.fleet.Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceName(i)}}))
	})
	each(accountsAtScale, func(i int) {
		must(b, c.fleet.Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: accountOf(i)}))
	})
}

func targetName(pod int) string    { return fmt.Sprint("target-", pod%clustersAtScale) }
func namespaceName(pod int) string { return fmt.Sprint("app-", pod%namespacesAtScale) }

// accountOf is the ServiceAccount of a Pod.
func accountOf(pod int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespaceName(pod), Name: fmt.Sprint("account-", pod%accountsAtScale)}
}

// grow makes Pods until there are so many, and reports what that took.
func (c *crowd) grow(b *testing.B, pods int) {
	more := pods - c.pods
	perSecond := func(begin time.Time) float64 { return float64(more) / time.Since(begin).Seconds() }

	begin := time.Now()
	c.create(b, more, unmarked)
	b.ReportMetric(perSecond(begin), "without-pods/s")
	c.waitForPods(b)

	before, begin := c.webhook.cpu(), time.Now()
	created := c.create(b, more, annotated)
	b.ReportMetric(perSecond(begin), "with-pods/s")
	c.report(b, "webhook", c.webhook, before, more)
	c.waitForPods(b)

	tokens := c.tokens(b, created)
	before, begin = c.broker.cpu(), time.Now()
	each(more, func(i int) { c.ask(b, c.pods+i, tokens[i]) })
	b.ReportMetric(perSecond(begin), "credentials/s")
	c.report(b, "broker", c.broker, before, more)
	c.pods = pods
}

// report tells of a program what CPU it took since before, for each Pod, and its memory.
func (c *crowd) report(b *testing.B, name string, program *process, before time.Duration, pods int) {
	b.ReportMetric((program.cpu()-before).Seconds()/float64(pods), name+"-cpu-sec/pod")
	resident, _ := program.memory()
	b.ReportMetric(resident, name+"-rss-MiB")
}

// create makes Pods beyond those that there are, and returns their names and UIDs.
func (c *crowd) create(b *testing.B, pods int, mark metav1.ObjectMeta) []metav1.ObjectMeta {
	b.Helper()
	template := c.pod(b, mark)
	created := make([]metav1.ObjectMeta, pods)
	each(pods, func(i int) {
		number := c.pods + i
		p := template.DeepCopy()
		p.Namespace, p.Spec.ServiceAccountName, p.Spec.NodeName = namespaceName(number), accountOf(number).Name, nodeName(number%nodesAtScale)
		if p.Annotations != nil {
			p.Annotations["keyferry.dev/cluster"] = c.fleet.Namespace + "/" + targetName(number)
		}
		must(b, c.fleet.Create(b.Context(), p))
		created[i] = metav1.ObjectMeta{Name: p.Name, UID: p.UID}
	})
	return created
}

// tokens returns those that the kubelet would project into the Pods.
func (c *crowd) tokens(b *testing.B, pods []metav1.ObjectMeta) []string {
	b.Helper()
	tokens := make([]string, len(pods))
	each(len(pods), func(i int) {
		review := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences:      []string{v1alpha1.BrokerAudience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pods[i].Name, UID: pods[i].UID},
		}}
		must(b, c.fleet.SubResource("token").Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: accountOf(c.pods + i)}, review))
		tokens[i] = review.Status.Token
	})
	return tokens
}

// ask has a Pod ask the broker, by a connection of its own.
func (c *crowd) ask(b *testing.B, pod int, token string) {
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, c.brokerURL+wire.TargetClusterPath(c.fleet.Namespace, targetName(pod)), strings.NewReader("{}"))
	must(b, err)
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := c.refreshers.Do(request)
	must(b, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(b, err)
	if answer.StatusCode != http.StatusOK {
		b.Errorf("Pod %d is answered %s: %s", pod, answer.Status, body)
	}
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
