package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/report"
	"github.com/keyferry/keyferry/providers/eks/ststest"
)

// fleet contains TargetClusters behind one broker, with their providers.
type fleet struct {
	*world
	t           *testing.T
	provider    *httptest.Server
	sts         *ststest.Server
	targets     map[string]*httptest.Server
	authorities map[string]authority // of client certificates
	keys        map[string]string    // of Google's service accounts, as PEM
	subjects    map[string]string    // tokens of the Pod, by audience

	mu      sync.Mutex
	ahead   time.Duration     // of the real time, which the API server goes by
	tenants map[string]string // of Entra, by ID
	fail    map[string]bool
	sent    map[string]string   // to providers
	entered map[string][]string // with which Authorization headers each target was
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{
		t: t, targets: map[string]*httptest.Server{}, authorities: map[string]authority{}, keys: map[string]string{}, subjects: map[string]string{},
		tenants: map[string]string{}, fail: map[string]bool{}, sent: map[string]string{}, entered: map[string][]string{},
	}
	f.provider = httptest.NewServer(http.HandlerFunc(f.serveProvider))
	t.Cleanup(f.provider.Close)
	for _, host := range []string{google, googleKeys, microsoft} {
		outside.Serve(t, host, f.provider.Config.Handler)
	}
	f.sts = ststest.New(t)
	f.sts.Now, f.sts.Fail = f.now, f.failSTS
	outside.Serve(t, amazon, f.sts)
	requests, err := certmanager.NewForConfig(apiServer)
	must(t, err)
	plugins := f.plugins()
	f.world = newWorld(t, ReviewTTLs{ValidToken: time.Hour, Allowed: time.Hour}, func(w *world) Issuer {
		w.now = f.now
		reporter, err := report.New(report.Config{
			Client: w.Client, FieldManager: "test", Interval: 20 * time.Millisecond, Metrics: prometheus.NewRegistry(), Log: w.log.logger(), Now: f.now,
		})
		must(t, err)
		go func() { _ = reporter.Start(t.Context()) }()
		issue, err := issuer.New(issuer.Config{
			Clusters: w.Client, Secrets: w.Client, CertManager: requests, Policy: endpoint.Policy{AllowLocal: true, AmbientNamespaces: []string{w.namespace}}, Now: f.now, Observe: reporter.Observe,
			Providers: func() *clusterprofile.ProviderFile { return plugins },
		})
		must(t, err)
		return issue
	})
	f.signRequests(requests)
	f.grantAll()
	return f
}

func (f *fleet) grantAll() {
	f.t.Helper()
	role := &rbacv1.Role{ObjectMeta: f.meta("use-all"), Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"targetclusters"}, Verbs: []string{"use"}},
		{APIGroups: []string{inventory.Group}, Resources: []string{"clusterprofiles"}, Verbs: []string{"use"}},
	}}
	must(f.t, f.Create(f.t.Context(), role))
	must(f.t, f.Create(f.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: f.meta("use-all"),
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: f.namespace, Name: "web"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
	}))
}

func (f *fleet) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.ahead)
}

func (f *fleet) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// subject returns the Pod's token for an audience.
func (f *fleet) subject(audience string) string {
	f.t.Helper()
	if f.subjects[audience] == "" {
		f.subjects[audience] = f.token(f.t, audience, f.pod)
	}
	return f.subjects[audience]
}

// create creates a TargetCluster, its Secret, and the target.
func (f *fleet) create(k kind, name string, issue v1alpha1.Issue) {
	f.t.Helper()
	f.targets[name] = httptest.NewTLSServer(f.serveTarget(name))
	f.t.Cleanup(f.targets[name].Close)
	if k.secret != nil {
		must(f.t, f.Create(f.t.Context(), &corev1.Secret{ObjectMeta: f.meta(name), Data: k.secret(f, name)}))
	}
	cluster := &v1alpha1.TargetCluster{ObjectMeta: f.meta(name), Spec: k.spec(f, name)}
	if cluster.Spec.ClusterProfile == nil {
		cluster.Spec.Endpoint = f.endpoint(name)
	}
	if cluster.Spec.Issue.Type == "" {
		cluster.Spec.Issue = issue
	}
	must(f.t, f.Create(f.t.Context(), cluster))
}

func (f *fleet) endpoint(name string) *v1alpha1.Endpoint {
	target := f.targets[name]
	return &v1alpha1.Endpoint{Server: target.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: target.Certificate().Raw})}
}

// set breaks or repairs a provider.
func (f *fleet) set(k kind, name string, broken bool) {
	f.t.Helper()
	if !k.local {
		f.with(func() { f.fail[name] = broken })
		return
	}
	var secret corev1.Secret
	must(f.t, f.Get(f.t.Context(), types.NamespacedName{Namespace: f.namespace, Name: name}, &secret))
	secret.Data = k.secret(f, name)
	if broken {
		secret.Data = map[string][]byte{"kubeconfig": []byte(planted), "accessKey": []byte(planted + "\n"), "accessKeyID": []byte(planted + "\n")}
	}
	must(f.t, f.Update(f.t.Context(), &secret))
}

// request returns the request of a Pod's sidecar for a TargetCluster.
func (f *fleet) request(k kind, name string) string {
	if k.audience == nil {
		return "{}"
	}
	return `{"subjectToken":"` + f.subject(k.audience(name)) + `"}`
}

// TestTwoOfEachProvider tests two TargetClusters of each kind behind one broker: a failure of one
// provider and its recovery do not affect the other, and no secret is leaked.
func TestTwoOfEachProvider(t *testing.T) {
	f := newFleet(t)
	fixed := v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "robots", Name: "robot"},
	}}
	for _, k := range kinds() {
		f.create(k, k.name+"-1", fixed)
		f.create(k, k.name+"-2", fixed)
	}
	pod := f.token(t, v1alpha1.BrokerAudience, f.pod)
	f.target.Name = "kubeconfig-1"
	f.eventually(t, pod, http.StatusOK)

	var told []string // by the broker, where it did not issue
	ask := func(k kind, name string) (issued string, code int) {
		f.target.Name = name
		credential, code, status := f.ask(t, pod, f.request(k, name))
		if code != http.StatusOK {
			told = append(told, status.String())
		} else if !f.isOf(name, credential.Status) {
			t.Fatalf("%s is given another's credential, or none", name)
		}
		return credential.Status.Token + credential.Status.ClientCertificateData, code
	}
	for _, k := range kinds() {
		one, two := k.name+"-1", k.name+"-2"
		for _, name := range []string{one, two} {
			if _, code := ask(k, name); code != http.StatusOK {
				t.Errorf("%s: code %d: %s", name, code, told[len(told)-1])
			}
		}
		before, _ := ask(k, two)
		f.set(k, one, true)
		f.with(func() { f.ahead += 61 * time.Minute })
		if _, code := ask(k, one); code == http.StatusOK {
			t.Errorf("%s: a credential is issued by a provider that is broken", one)
		}
		if after, code := ask(k, two); code != http.StatusOK || after == before {
			t.Errorf("%s, beside a broken one: code %d", two, code)
		}
		f.wantIssuing(one, metav1.ConditionFalse, k.local)
		f.wantIssuing(two, metav1.ConditionTrue, false)
		f.set(k, one, false)
		f.with(func() { f.ahead += max(k.rest, 10*time.Second) })
		if _, code := ask(k, one); code != http.StatusOK {
			t.Errorf("%s, mended: code %d: %s", one, code, told[len(told)-1])
		}
		f.wantIssuing(one, metav1.ConditionTrue, false)
	}
	f.wantOwnEntries()
	f.wantNoSecret("answers", strings.Join(told, "\n"))
	f.wantNoSecret("audit", f.audit.String())
	f.wantNoSecret("log", f.log.String())
	f.wantNoSecret("metrics", f.exposition())
	f.wantNoSecret("conditions", f.conditions())
}

// isOf reports whether a credential was issued or signed by one target.
func (f *fleet) isOf(name string, issued wire.Status) bool {
	if issued.ClientCertificateData == "" {
		return strings.HasPrefix(issued.Token, "issued-by-"+name+"-")
	}
	pair, err := tls.X509KeyPair([]byte(issued.ClientCertificateData), []byte(issued.ClientKeyData))
	if err != nil {
		return false
	}
	certificate, err := x509.ParseCertificate(pair.Certificate[0])
	return err == nil && certificate.Issuer.CommonName == name && certificate.Subject.CommonName == f.namespace+":web"
}

// wantIssuing waits for the condition Issuing. An invalid Secret does not change it, because the
// controller reports that.
func (f *fleet) wantIssuing(name string, status metav1.ConditionStatus, unless bool) {
	f.t.Helper()
	if unless {
		return
	}
	var cluster v1alpha1.TargetCluster
	err := wait.PollUntilContextTimeout(f.t.Context(), 10*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		err := f.Get(ctx, types.NamespacedName{Namespace: f.namespace, Name: name}, &cluster)
		return meta.IsStatusConditionPresentAndEqual(cluster.Status.Conditions, v1alpha1.ConditionIssuing, status), err
	})
	if err != nil {
		f.t.Errorf("%s: Issuing is not %s: %v: %+v", name, status, err, cluster.Status.Conditions)
	}
}

// wantOwnEntries checks that no two targets received the same credential.
func (f *fleet) wantOwnEntries() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	by := map[string]string{}
	for name, headers := range f.entered {
		for _, header := range headers {
			if other, there := by[header]; there && other != name {
				f.t.Errorf("%s and %s were entered with the same credential", name, other)
			}
			by[header] = name
		}
	}
	if want := len(f.targets) - len(f.authorities); len(f.entered) != want {
		f.t.Errorf("%d targets were entered, want %d", len(f.entered), want)
	}
}

// wantNoSecret searches a text for planted secrets, for issued tokens, and for tokens of clouds by
// their prefixes.
func (f *fleet) wantNoSecret(what, text string) {
	f.t.Helper()
	if text == "" {
		f.t.Errorf("there is nothing in the %s", what)
	}
	secrets := []string{planted, base64.StdEncoding.EncodeToString([]byte(planted))[:16], "issued-by-", "k8s-aws-v1.", "k8s-ncp-v1.", "PRIVATE KEY", "eyJ"}
	for name := range f.targets {
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(name + ":" + planted))[:20])
	}
	for _, key := range f.keys {
		secrets = append(secrets, strings.Split(key, "\n")[1])
	}
	for _, secret := range secrets {
		if at := strings.Index(text, secret); at >= 0 {
			f.t.Errorf("the %s hold %q: %s", what, secret, text[max(0, at-300):min(len(text), at+100)])
		}
	}
}

func (f *fleet) exposition() string {
	families, err := f.registry.Gather()
	must(f.t, err)
	var text strings.Builder
	for _, family := range families {
		text.WriteString(family.String() + "\n")
	}
	return text.String()
}

func (f *fleet) conditions() string {
	var all v1alpha1.TargetClusterList
	must(f.t, f.List(f.t.Context(), &all))
	var text strings.Builder
	for _, cluster := range all.Items {
		for _, c := range cluster.Status.Conditions {
			text.WriteString(cluster.Name + " " + c.String() + "\n")
		}
	}
	return text.String()
}
