package issuer_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

const planted = "planted-access-token"

var (
	tenant = types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}
	web    = providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1", PodName: "web-0", PodUID: "a"}}
)

// world is a cluster with one TargetCluster and its Secret, a target that issues tokens, and a
// clock.
type world struct {
	t       *testing.T
	issuer  *issuer.Issuer
	target  *httptest.Server
	cluster *v1alpha1.TargetCluster
	secret  *corev1.Secret

	mu      sync.Mutex
	now     time.Time
	life    time.Duration    // that the target grants
	fail    http.HandlerFunc // how the target fails
	issued  int
	reads   int // of the Secret
	readErr error
	events  []issuer.Event
}

func newWorld(t *testing.T, change ...func(*issuer.Config)) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), life: time.Hour}
	w.target = httptest.NewTLSServer(w)
	t.Cleanup(w.target.Close)
	w.secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant.Namespace, Name: "tenant-1-kubeconfig", UID: "s", ResourceVersion: "1"},
		Data:       map[string][]byte{"value": w.kubeconfig("")},
	}
	w.cluster = &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant.Namespace, Name: tenant.Name, UID: "c", Generation: 1},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: w.secret.Name}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "apps", Name: "deployer"},
			}},
		},
	}
	cfg := issuer.Config{
		Clusters:  reader{w},
		Secrets:   reader{w},
		ClusterID: "management",
		Policy:    endpoint.Policy{AllowLocal: true},
		Now:       w.clock,
		Observe:   w.observe,
	}
	for _, change := range change {
		change(&cfg)
	}
	var err error
	if w.issuer, err = issuer.New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// ca is the target's.
func (w *world) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.target.Certificate().Raw})
}

// kubeconfig is one of the target, with more fields of the cluster.
func (w *world) kubeconfig(more string) []byte {
	return fmt.Appendf(nil, `{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"clusters":[{"name":"a","cluster":{"server":%q,"certificate-authority-data":%q%s}}],"users":[{"name":"a","user":{"token":%q}}]}`,
		w.target.URL, base64.StdEncoding.EncodeToString(w.ca()), more, planted)
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// with changes the world while others look at it.
func (w *world) with(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) pass(d time.Duration) { w.with(func() { w.now = w.now.Add(d) }) }

func (w *world) failWith(handle http.HandlerFunc) { w.with(func() { w.fail = handle }) }

func (w *world) observe(e issuer.Event) { w.with(func() { w.events = append(w.events, e) }) }

// last is the last event.
func (w *world) last() issuer.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 {
		w.t.Fatal("nothing was observed")
	}
	return w.events[len(w.events)-1]
}

// counts returns how often a token was asked for, and the Secret read.
func (w *world) counts() (issued, reads int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.issued, w.reads
}

// ServeHTTP is the target.
func (w *world) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	w.mu.Lock()
	w.issued++
	n, fail, end := w.issued, w.fail, w.now.Add(w.life)
	w.mu.Unlock()
	if fail != nil {
		fail(rw, req)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"status": map[string]any{"token": fmt.Sprintf("token-%d", n), "expirationTimestamp": end},
	})
}

// answers is a failure of the target.
func answers(code int, reason, details string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(code)
		_, _ = fmt.Fprintf(rw, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":%d,"reason":%q,"message":"planned","details":{%s}}`, code, reason, details)
	}
}

// reader reads the world's objects.
type reader struct{ w *world }

func (r reader) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	switch into := into.(type) {
	case *v1alpha1.TargetCluster:
		if r.w.cluster != nil && key == client.ObjectKeyFromObject(r.w.cluster) {
			r.w.cluster.DeepCopyInto(into)
			return nil
		}
	case *corev1.Secret:
		r.w.reads++
		if r.w.readErr != nil {
			return r.w.readErr
		}
		if key == client.ObjectKeyFromObject(r.w.secret) {
			r.w.secret.DeepCopyInto(into)
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, key.Name)
}

func (reader) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nothing is listed")
}

func (w *world) issue(req providers.Request) issuer.Issued {
	w.t.Helper()
	issued, err := w.issuer.Issue(w.t.Context(), tenant, req)
	if err != nil {
		w.t.Fatal(err)
	}
	return issued
}

func (w *world) wantToken(want string) issuer.Issued {
	w.t.Helper()
	issued := w.issue(web)
	if issued.Token != want {
		w.t.Fatalf("got %s, want %s", issued.Token, want)
	}
	return issued
}

func TestIssue(t *testing.T) {
	w := newWorld(t)
	w.cluster.Spec.DefaultNamespace = "tenant"
	w.cluster.Status = v1alpha1.TargetClusterStatus{ObservedGeneration: 1, Endpoint: w.target.URL, ClusterUID: "target"}
	got := w.issue(web)
	start := w.clock()
	if got.Token != "token-1" || got.Namespace != "tenant" || got.Delivery != v1alpha1.DeliveryDirect || got.ClusterUID != "target" ||
		!got.IssuedAt.Equal(start) || !got.NotAfter.Equal(start.Add(time.Hour)) || !got.RefreshAt.Equal(start.Add(48*time.Minute)) ||
		got.Endpoint.Server != w.target.URL || !bytes.Equal(got.Endpoint.CertificateAuthority, w.ca()) {
		t.Errorf("issued %+v", got)
	}
	if e := w.last(); e.TargetCluster != tenant || e.Identity != web.Identity || e.Err != nil || e.Kept || !e.NotAfter.Equal(got.NotAfter) ||
		e.Provider != v1alpha1.AccessKubeconfig || e.Issue != v1alpha1.IssueTokenRequest {
		t.Errorf("observed %+v", e)
	}
	if again := w.issue(web); got.Cached || !again.Cached {
		t.Errorf("cached: %v, and then %v", got.Cached, again.Cached)
	}
}

func TestClusterUIDOnlyOfThisEndpoint(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.TargetCluster){
		"another generation": func(c *v1alpha1.TargetCluster) { c.Generation = 2 },
		"another endpoint":   func(c *v1alpha1.TargetCluster) { c.Status.Endpoint = "https://203.0.113.7:6443" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cluster.Status = v1alpha1.TargetClusterStatus{ObservedGeneration: 1, Endpoint: w.target.URL, ClusterUID: "target"}
			change(w.cluster)
			if got := w.issue(web); got.ClusterUID != "" {
				t.Errorf("ClusterUID is %q, want none", got.ClusterUID)
			}
		})
	}
}

func TestOneIssueForAll(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			req := web
			req.Identity.PodUID = fmt.Sprint(i)
			if issued, err := w.issuer.Issue(t.Context(), tenant, req); err != nil || issued.Token != "token-1" {
				t.Errorf("got %q, %v", issued.Token, err)
			}
		})
	}
	all.Wait()
	if issued, reads := w.counts(); issued != 1 || reads != 1 {
		t.Errorf("%d issues and %d reads of the Secret, want 1 and 1", issued, reads)
	}
}

func TestMirrorIsSharedByAccountOnly(t *testing.T) {
	w := newWorld(t)
	w.cluster.Spec.Issue.TokenRequest.ServiceAccount = v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror}
	pod, account, recreated := web, web, web
	pod.Identity.PodUID = "b"
	account.Identity.ServiceAccount = "db"
	recreated.Identity.ServiceAccountUID = "2"
	w.wantToken("token-1")
	if got := w.issue(pod).Token; got != "token-1" {
		t.Errorf("another Pod of the account got %s", got)
	}
	if got := w.issue(account).Token; got != "token-2" {
		t.Errorf("another account got %s", got)
	}
	if got := w.issue(recreated).Token; got != "token-3" {
		t.Errorf("a recreated account got %s", got)
	}
}

// TestMirrorThatIsMissing is the trouble of one account; where all have the same account, it is
// that of the target.
func TestMirrorThatIsMissing(t *testing.T) {
	for kind, one := range map[v1alpha1.RemoteServiceAccountType]bool{v1alpha1.ServiceAccountMirror: true, v1alpha1.ServiceAccountFixed: false} {
		w := newWorld(t)
		w.cluster.Spec.Issue.TokenRequest.ServiceAccount.Type = kind
		w.failWith(answers(http.StatusNotFound, "NotFound", `"kind":"serviceaccounts","name":"web"`))
		if _, err := w.issuer.Issue(t.Context(), tenant, web); !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("%s: %v", kind, err)
		}
		if got := w.last(); got.OneAccount != one {
			t.Errorf("%s: observed %+v", kind, got)
		}
		w.failWith(answers(http.StatusForbidden, "Forbidden", ""))
		w.pass(time.Minute)
		if _, err := w.issuer.Issue(t.Context(), tenant, web); !errors.Is(err, providers.ErrRefused) || w.last().OneAccount {
			t.Errorf("%s: %v, observed %+v", kind, err, w.last())
		}
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	w.wantToken("token-1")
	w.pass(48*time.Minute - time.Second)
	w.wantToken("token-1")
	w.pass(time.Second)
	w.wantToken("token-2")
}

func TestMaxLife(t *testing.T) {
	w := newWorld(t, func(cfg *issuer.Config) { cfg.MaxLife = 20 * time.Second })
	got := w.wantToken("token-1")
	if life, refresh := got.NotAfter.Sub(w.clock()), got.RefreshAt.Sub(w.clock()); life != 20*time.Second || refresh != 10*time.Second {
		t.Errorf("lives for %v and is refreshed after %v", life, refresh)
	}
	w.pass(10 * time.Second)
	w.wantToken("token-2")

	w.with(func() { w.life = 15 * time.Second })
	w.pass(10 * time.Second)
	if got := w.wantToken("token-3"); got.NotAfter.Sub(w.clock()) != 15*time.Second {
		t.Error("MaxLife made a life longer")
	}
}

func TestFailingProviderTakesNothingAway(t *testing.T) {
	for name, test := range map[string]struct {
		fail http.HandlerFunc
		want error
	}{
		"unavailable": {answers(500, "InternalError", ""), providers.ErrUnavailable},
		"refused":     {answers(403, "Forbidden", ""), providers.ErrRefused},
		"not found":   {answers(404, "NotFound", `"name":"deployer","kind":"serviceaccounts"`), providers.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.wantToken("token-1")
			w.failWith(test.fail)
			w.pass(50 * time.Minute)
			if got := w.wantToken("token-1"); !got.NotAfter.Equal(first.NotAfter) {
				t.Errorf("its end moved from %v to %v", first.NotAfter, got.NotAfter)
			}
			if e := w.last(); !errors.Is(e.Err, test.want) || !e.Kept || !e.NotAfter.Equal(first.NotAfter) {
				t.Errorf("observed %+v", e)
			}
			w.pass(10*time.Minute - 5*time.Second)
			if _, err := w.issuer.Issue(t.Context(), tenant, web); !errors.Is(err, test.want) || !strings.Contains(err.Error(), "TargetCluster fleet/tenant-1") {
				t.Errorf("at its end: %v", err)
			}
			if e := w.last(); e.Kept || !e.NotAfter.IsZero() {
				t.Errorf("observed %+v", e)
			}
			w.failWith(nil)
			w.pass(10 * time.Second)
			w.issue(web)
		})
	}
}

func TestBackoffAfterFailure(t *testing.T) {
	w := newWorld(t)
	w.failWith(answers(500, "InternalError", ""))
	ask := func(wantIssued int) {
		t.Helper()
		if _, err := w.issuer.Issue(t.Context(), tenant, web); !errors.Is(err, providers.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		if issued, _ := w.counts(); issued != wantIssued {
			t.Fatalf("the provider was asked %d times, want %d", issued, wantIssued)
		}
	}
	ask(1)
	ask(1)
	w.pass(time.Second)
	ask(2)
	w.pass(time.Second)
	ask(2)
	w.pass(time.Second)
	ask(3)

	w.failWith(answers(429, "TooManyRequests", `"retryAfterSeconds":60`))
	w.pass(10 * time.Second)
	ask(4)
	w.pass(59 * time.Second)
	ask(4)
	w.failWith(nil)
	w.pass(time.Second)
	w.wantToken("token-5")
}

func TestChangesAreNoticed(t *testing.T) {
	t.Run("TargetCluster", func(t *testing.T) {
		w := newWorld(t)
		w.wantToken("token-1")
		w.with(func() { w.cluster.Generation++ })
		w.wantToken("token-2")
	})
	t.Run("recreated TargetCluster", func(t *testing.T) {
		w := newWorld(t)
		w.wantToken("token-1")
		w.with(func() { w.cluster.UID = "another" })
		w.wantToken("token-2")
	})
	t.Run("endpoint in the Secret", func(t *testing.T) {
		w := newWorld(t)
		w.wantToken("token-1")
		w.with(func() {
			w.secret.ResourceVersion = "2"
			w.secret.Data["value"] = w.kubeconfig(`,"tls-server-name":"example.com"`)
		})
		w.wantToken("token-1")
		w.pass(5 * time.Second)
		w.wantToken("token-2")
	})
	t.Run("TargetCluster deleted", func(t *testing.T) {
		w := newWorld(t)
		w.wantToken("token-1")
		w.with(func() { w.cluster = nil })
		if _, err := w.issuer.Issue(t.Context(), tenant, web); !errors.Is(err, providers.ErrNotFound) || !strings.Contains(err.Error(), "TargetCluster fleet/tenant-1") {
			t.Errorf("got %v", err)
		}
	})
}

func TestSecretIsReadAgainAfterAnError(t *testing.T) {
	w := newWorld(t)
	w.readErr = errors.New("etcd is away")
	if _, err := w.issuer.Issue(t.Context(), tenant, web); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "fleet/tenant-1-kubeconfig") {
		t.Errorf("got %v", err)
	}
	w.with(func() { w.readErr = nil })
	w.wantToken("token-1")
}

func TestIssueAccess(t *testing.T) {
	w := newWorld(t)
	w.cluster.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueAccess}
	got := w.wantToken(planted)
	if life := got.NotAfter.Sub(w.clock()); life != 5*time.Minute {
		t.Errorf("an opaque token lives for %v, want 5m", life)
	}
}

func TestResolve(t *testing.T) {
	w := newWorld(t)
	got, err := w.issuer.Resolve(t.Context(), w.cluster)
	if err != nil {
		t.Fatal(err)
	}
	access, err := got.Access.Issue(t.Context(), providers.Request{})
	if err != nil || access.Token != planted {
		t.Errorf("access: %v", err)
	}
	if got.Endpoint.Server != w.target.URL || got.Delivery != v1alpha1.DeliveryDirect || got.DeliveryReason == "" {
		t.Errorf("resolved to %+v", got)
	}
	if issued, _ := w.counts(); issued != 0 {
		t.Error("the target was contacted")
	}
}

func TestEndpointOfSpecWinsFieldByField(t *testing.T) {
	w := newWorld(t)
	w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://API.example.com/"}
	got, err := w.issuer.Resolve(t.Context(), w.cluster)
	if err != nil {
		t.Fatal(err)
	}
	if got.Endpoint.Server != "https://api.example.com:443" || !bytes.Equal(got.Endpoint.CertificateAuthority, w.ca()) {
		t.Errorf("endpoint is %v", got.Endpoint)
	}
}

func TestResolveRefuses(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "tenant-1-kubeconfig", errors.New("no"))
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte(planted)})
	for name, test := range map[string]struct {
		change func(*world)
		reason string
		says   string
	}{
		"Secret missing": {func(w *world) { w.secret.Name = "another" }, resolve.ReasonSecretNotFound, "Secret fleet/tenant-1-kubeconfig"},
		"Secret of another namespace": {func(w *world) {
			w.secret.Namespace = "other"
			w.cluster.Spec.Access.Kubeconfig.Name = "other/tenant-1-kubeconfig"
		}, resolve.ReasonSecretNotFound, "Secret fleet/other/tenant-1-kubeconfig"},
		"Secret forbidden":   {func(w *world) { w.readErr = forbidden }, resolve.ReasonSecretForbidden, "select namespace fleet with the chart value secretAccess.namespaces"},
		"kubeconfig":         {func(w *world) { w.secret.Data["value"] = []byte(planted) }, resolve.ReasonInvalidKubeconfig, "Secret fleet/tenant-1-kubeconfig: key value"},
		"server":             {func(w *world) { w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: "http://a"} }, resolve.ReasonInvalidEndpoint, "spec.endpoint.server"},
		"link-local":         {func(w *world) { w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://169.254.169.254"} }, resolve.ReasonAddressRefused, "link-local"},
		"link-local, mapped": {func(w *world) { w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://[::ffff:a9fe:a9fe]"} }, resolve.ReasonAddressRefused, "link-local"},
		"link-local proxy":   {func(w *world) { w.secret.Data["value"] = w.kubeconfig(`,"proxy-url":"http://169.254.169.254"`) }, resolve.ReasonAddressRefused, "proxy-url"},
		"proxy scheme":       {func(w *world) { w.secret.Data["value"] = w.kubeconfig(`,"proxy-url":"ftp://u:` + planted + `@a"`) }, resolve.ReasonInvalidEndpoint, "proxy-url"},
		"proxy, but direct": {func(w *world) {
			w.secret.Data["value"] = w.kubeconfig(`,"proxy-url":"http://u:` + planted + `@a"`)
			w.cluster.Spec.Delivery = v1alpha1.DeliveryDirect
		}, resolve.ReasonDirectNotPossible, "proxyURL"},
		"CA is no PEM": {func(w *world) {
			w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{CertificateAuthorityData: []byte(planted)}
		}, resolve.ReasonInvalidEndpoint, "certificateAuthorityData"},
		"CA with a key": {func(w *world) {
			w.cluster.Spec.Endpoint = &v1alpha1.Endpoint{CertificateAuthorityData: append(w.ca(), key...)}
		}, resolve.ReasonInvalidEndpoint, "PRIVATE KEY"},
		"access":              {func(w *world) { w.cluster.Spec.Access = v1alpha1.Access{Type: "Other"} }, resolve.ReasonNotSupported, "spec.access.type Other is not supported by this version"},
		"issue":               {func(w *world) { w.cluster.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueFederation} }, resolve.ReasonNotSupported, "spec.issue.federation.audience"},
		"cluster profile":     {func(w *world) { w.cluster.Spec.ClusterProfile = &v1alpha1.ObjectReference{} }, resolve.ReasonClusterProfileNotFound, "does not exist"},
		"union without value": {func(w *world) { w.cluster.Spec.Access.Kubeconfig = nil }, resolve.ReasonNotSupported, "spec.access.kubeconfig"},
		"account incomplete":  {func(w *world) { w.cluster.Spec.Issue.TokenRequest.ServiceAccount.Name = "" }, resolve.ReasonNotSupported, "serviceAccount"},
		"duration": {func(w *world) {
			w.cluster.Spec.Issue.TokenRequest.Duration = &metav1.Duration{Duration: time.Minute}
		}, resolve.ReasonNotSupported, "10m"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			test.change(w)
			_, resolveErr := w.issuer.Resolve(t.Context(), w.cluster)
			_, issueErr := w.issuer.Issue(t.Context(), tenant, web)
			for _, err := range []error{resolveErr, issueErr} {
				invalid, ok := errors.AsType[*resolve.InvalidError](err)
				if !ok || invalid.Reason != test.reason || !strings.Contains(invalid.Message, test.says) || strings.Contains(err.Error(), planted) {
					t.Errorf("got %+v, want %s: %s", err, test.reason, test.says)
				}
			}
		})
	}
}

// TestDelivery: what in-cluster clients do not support, a proxy can.
func TestDelivery(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*world)
		want   v1alpha1.Delivery
		reason string
	}{
		"as it is":      {func(*world) {}, v1alpha1.DeliveryDirect, "clients support"},
		"asked for":     {func(w *world) { w.cluster.Spec.Delivery = v1alpha1.DeliveryProxy }, v1alpha1.DeliveryProxy, "spec.delivery is Proxy"},
		"a server name": {func(w *world) { w.secret.Data["value"] = w.kubeconfig(`,"tls-server-name":"example.com"`) }, v1alpha1.DeliveryProxy, "tlsServerName example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			test.change(w)
			resolution, err := w.issuer.Resolve(t.Context(), w.cluster)
			if err != nil || resolution.Delivery != test.want || !strings.Contains(resolution.DeliveryReason, test.reason) {
				t.Errorf("resolved to %s (%s), error %v", resolution.Delivery, resolution.DeliveryReason, err)
			}
			issued, err := w.issuer.Issue(t.Context(), tenant, web)
			if err != nil || issued.Delivery != test.want {
				t.Errorf("issued for delivery %s, error %v", issued.Delivery, err)
			}
		})
	}
}

func TestLoopbackIsRefused(t *testing.T) {
	w := newWorld(t, func(cfg *issuer.Config) { cfg.Policy.AllowLocal = false })
	_, err := w.issuer.Resolve(t.Context(), w.cluster)
	if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != resolve.ReasonAddressRefused || !strings.Contains(err.Error(), "Secret fleet/tenant-1-kubeconfig") {
		t.Errorf("got %v", err)
	}
}

func TestCreateNeedsClusterID(t *testing.T) {
	w := newWorld(t, func(cfg *issuer.Config) { cfg.ClusterID = "" })
	w.cluster.Spec.Issue.TokenRequest.Create = true
	_, err := w.issuer.Resolve(t.Context(), w.cluster)
	if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != resolve.ReasonNotSupported {
		t.Errorf("got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	complete := issuer.Config{Clusters: reader{}, Secrets: reader{}}
	for name, change := range map[string]func(*issuer.Config){
		"Clusters": func(cfg *issuer.Config) { cfg.Clusters = nil },
		"Secrets":  func(cfg *issuer.Config) { cfg.Secrets = nil },
		"MaxLife":  func(cfg *issuer.Config) { cfg.MaxLife = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := complete
			change(&cfg)
			if _, err := issuer.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want an error that names %s", err, name)
			}
		})
	}
}
