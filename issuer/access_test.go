package issuer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
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

// uuids are those of the two clusters at NCP.
var uuids = map[string]string{"tenant-1": "D11328F1-ECA9-4F1B-BA22-921F61D9C5F1", "tenant-2": "D11328F1-ECA9-4F1B-BA22-921F61D9C5F2"}

// pair is two TargetClusters of one kind and their Secrets, a target, and a server that is
// CB-Spider and CB-Tumblebug.
type pair struct {
	t        *testing.T
	issuer   *issuer.Issuer
	objects  map[types.NamespacedName]client.Object
	target   *httptest.Server
	provider *httptest.Server

	mu     sync.Mutex
	now    time.Time
	fail   map[string]bool // by cluster, at the provider
	asked  int             // how often the provider was
	seen   []string        // Authorization headers, at the target
	reject string          // how those begin that it does not accept
	events []issuer.Event
}

func newPair(t *testing.T, kind v1alpha1.AccessType, issue v1alpha1.Issue) *pair {
	p := &pair{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), objects: map[types.NamespacedName]client.Object{}, fail: map[string]bool{}}
	p.target = httptest.NewTLSServer(http.HandlerFunc(p.serveTarget))
	t.Cleanup(p.target.Close)
	p.provider = httptest.NewServer(http.HandlerFunc(p.serveProvider))
	t.Cleanup(p.provider.Close)
	for _, name := range []string{"tenant-1", "tenant-2"} {
		p.add(&v1alpha1.TargetCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name, UID: types.UID(name), Generation: 1},
			Spec: v1alpha1.TargetClusterSpec{
				Endpoint: &v1alpha1.Endpoint{Server: p.target.URL, CertificateAuthorityData: (&world{target: p.target}).ca()},
				Access:   p.access(kind, name),
				Issue:    issue,
			},
		})
		p.add(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name + "-keys", UID: types.UID(name), ResourceVersion: "1"},
			Data:       keys(kind, name),
		})
	}
	var err error
	p.issuer, err = issuer.New(issuer.Config{Clusters: p, Secrets: p, Policy: endpoint.Policy{AllowLocal: true}, Now: p.clock, Observe: p.observe})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) access(kind v1alpha1.AccessType, name string) v1alpha1.Access {
	ref := v1alpha1.SecretReference{Name: name + "-keys"}
	switch kind {
	case v1alpha1.AccessEKS:
		return v1alpha1.Access{Type: kind, EKS: &v1alpha1.EKSAccess{ClusterName: name, Region: "eu-central-1", Credentials: &ref}}
	case v1alpha1.AccessNCP:
		return v1alpha1.Access{Type: kind, NCP: &v1alpha1.NCPAccess{ClusterUUID: uuids[name], Credentials: ref}}
	case v1alpha1.AccessSpider:
		return v1alpha1.Access{Type: kind, Spider: &v1alpha1.SpiderAccess{URL: p.provider.URL, Cluster: name, Connection: "c", Credentials: &ref}}
	default:
		return v1alpha1.Access{Type: kind, Tumblebug: &v1alpha1.TumblebugAccess{URL: p.provider.URL, Namespace: "ns", Cluster: name, Credentials: &ref}}
	}
}

func keys(kind v1alpha1.AccessType, name string) map[string][]byte {
	switch kind {
	case v1alpha1.AccessEKS:
		return map[string][]byte{"accessKeyID": []byte(name), "secretAccessKey": []byte(planted)}
	case v1alpha1.AccessNCP:
		return map[string][]byte{"accessKey": []byte(name), "secretKey": []byte(planted)}
	case v1alpha1.AccessSpider:
		return map[string][]byte{"username": []byte(name), "password": []byte(planted)}
	default:
		return map[string][]byte{"token": []byte(planted + name)}
	}
}

// serveProvider is CB-Spider, which knows each user's own cluster, and CB-Tumblebug, which knows it
// by the token.
func (p *pair) serveProvider(rw http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "+planted)
	if user, password, ok := req.BasicAuth(); ok && password == planted {
		name = user
	}
	known := req.RequestURI == "/spider/cluster/"+name+"/token?ConnectionName=c" || req.RequestURI == "/tumblebug/ns/ns/k8sCluster/"+name+"/token"
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if !known || p.fail[name] {
		rw.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprintf(rw, `{"message":"%s is of no use"}`, req.Header.Get("Authorization"))
		return
	}
	_, _ = fmt.Fprintf(rw, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"of-%s-at-%s","expirationTimestamp":%q}}`,
		name, p.now.Format("15.04"), p.now.Add(10*time.Minute).Format(time.RFC3339))
}

func (p *pair) serveTarget(rw http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, req.Header.Get("Authorization"))
	if p.reject != "" && strings.HasPrefix(req.Header.Get("Authorization"), p.reject) {
		answers(http.StatusUnauthorized, "Unauthorized", "")(rw, req)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(rw, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"issued","expirationTimestamp":%q}}`,
		p.now.Add(time.Hour).Format(time.RFC3339))
}

func (p *pair) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *pair) observe(e issuer.Event) { p.with(func() { p.events = append(p.events, e) }) }

func (p *pair) with(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *pair) add(o client.Object) { p.objects[client.ObjectKeyFromObject(o)] = o }

func (p *pair) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	o := p.objects[key]
	if o == nil {
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(o.DeepCopyObject()).Elem())
	return nil
}

func (*pair) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nothing is listed")
}

func (*pair) name(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "fleet", Name: name}
}

// cluster and secret are those of tenant-1.
func (p *pair) cluster() *v1alpha1.TargetCluster {
	return p.objects[types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}].(*v1alpha1.TargetCluster)
}

func (p *pair) secret() *corev1.Secret {
	return p.objects[types.NamespacedName{Namespace: "fleet", Name: "tenant-1-keys"}].(*corev1.Secret)
}

func (p *pair) ask(name string) (issuer.Issued, error) {
	return p.issuer.Issue(p.t.Context(), types.NamespacedName{Namespace: "fleet", Name: name}, web)
}

func (p *pair) issue(name string) issuer.Issued {
	p.t.Helper()
	issued, err := p.ask(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return issued
}

// eachProvider tests the kinds that have a provider of their own.
func eachProvider(t *testing.T, test func(*testing.T, v1alpha1.AccessType)) {
	for _, kind := range []v1alpha1.AccessType{v1alpha1.AccessEKS, v1alpha1.AccessNCP, v1alpha1.AccessSpider, v1alpha1.AccessTumblebug} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// signs reports whether a kind makes its tokens itself, so that it has no provider that could fail.
func signs(kind v1alpha1.AccessType) bool {
	return kind == v1alpha1.AccessEKS || kind == v1alpha1.AccessNCP
}

var (
	handOn     = v1alpha1.Issue{Type: v1alpha1.IssueAccess}
	fromTarget = v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "apps", Name: "deployer"},
	}}
)

func TestHandsOnTheTokenOfASource(t *testing.T) {
	eachProvider(t, func(t *testing.T, kind v1alpha1.AccessType) {
		p := newPair(t, kind, handOn)
		got := p.issue("tenant-1")
		life, refresh := 10*time.Minute, 450*time.Second
		switch kind {
		case v1alpha1.AccessEKS:
			life, refresh = 14*time.Minute, 672*time.Second
		case v1alpha1.AccessNCP:
			life, refresh = 240*time.Second, 120*time.Second
		}
		if got.NotAfter.Sub(p.clock()) != life || got.RefreshAt.Sub(p.clock()) != refresh {
			t.Errorf("ends after %v and is refreshed after %v, want %v and %v", got.NotAfter.Sub(p.clock()), got.RefreshAt.Sub(p.clock()), life, refresh)
		}
		if got.Endpoint.Server != p.target.URL || len(got.Endpoint.CertificateAuthority) == 0 || got.Delivery != v1alpha1.DeliveryDirect {
			t.Errorf("issued %v by %s", got.Endpoint, got.Delivery)
		}
		p.with(func() { p.now = p.now.Add(refresh) })
		if again := p.issue("tenant-1"); again.Token == got.Token {
			t.Error("it was not refreshed")
		}
	})
}

func TestGetsIntoTheTargetByASource(t *testing.T) {
	eachProvider(t, func(t *testing.T, kind v1alpha1.AccessType) {
		p := newPair(t, kind, fromTarget)
		if got := p.issue("tenant-1"); got.Token != "issued" || got.NotAfter.Sub(p.clock()) != time.Hour {
			t.Errorf("got %q for %v", got.Token, got.NotAfter.Sub(p.clock()))
		}
		want := "Bearer of-tenant-1-at-12.00"
		switch kind {
		case v1alpha1.AccessEKS:
			want = "Bearer k8s-aws-v1."
		case v1alpha1.AccessNCP:
			want = "Bearer k8s-ncp-v1."
		}
		if len(p.seen) != 1 || !strings.HasPrefix(p.seen[0], want) {
			t.Errorf("the target saw %q, want %s", p.seen, want)
		}
	})
}

func TestTwoOfAKind(t *testing.T) {
	eachProvider(t, func(t *testing.T, kind v1alpha1.AccessType) {
		p := newPair(t, kind, handOn)
		one, two := p.issue("tenant-1"), p.issue("tenant-2")
		if one.Token == two.Token {
			t.Error("both are given the same token")
		}
		p.with(func() { p.now, p.fail["tenant-1"] = p.now.Add(20*time.Minute), true })
		if signs(kind) {
			p.secret().Data = nil
			p.secret().ResourceVersion = "2"
		}
		if _, err := p.ask("tenant-1"); err == nil || strings.Contains(err.Error(), planted) {
			t.Errorf("the broken one: %v", err)
		}
		if again := p.issue("tenant-2"); again.Token == two.Token || !again.NotAfter.After(p.clock()) {
			t.Error("the other one was not refreshed")
		}
	})
}

func TestOutageOfASource(t *testing.T) {
	for _, kind := range []v1alpha1.AccessType{v1alpha1.AccessSpider, v1alpha1.AccessTumblebug} {
		t.Run(string(kind), func(t *testing.T) {
			p := newPair(t, kind, handOn)
			first := p.issue("tenant-1")
			p.with(func() { p.now, p.fail["tenant-1"] = p.now.Add(9*time.Minute), true })
			if kept := p.issue("tenant-1"); kept.Token != first.Token {
				t.Error("the outage took away a credential that lives")
			}
			p.with(func() { p.now = p.now.Add(time.Minute) })
			_, err := p.ask("tenant-1")
			if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "500 Internal Server Error") || strings.Contains(err.Error(), planted) {
				t.Errorf("at its end: %v", err)
			}
			p.with(func() { p.now, p.fail["tenant-1"] = p.now.Add(time.Minute), false })
			if again := p.issue("tenant-1"); again.Token != "of-tenant-1-at-12.11" {
				t.Errorf("after the outage: %s", again.Token)
			}
		})
	}
}

func TestChangedKeysAreUsed(t *testing.T) {
	eachProvider(t, func(t *testing.T, kind v1alpha1.AccessType) {
		p := newPair(t, kind, handOn)
		p.issue("tenant-1")
		p.secret().Data = keys(kind, "tenant-2")
		p.secret().ResourceVersion = "2"
		p.with(func() { p.now = p.now.Add(5 * time.Second) })
		switch _, err := p.ask("tenant-1"); {
		case signs(kind) && err != nil:
			t.Error(err)
		case !signs(kind) && err == nil:
			t.Error("the provider was not asked with the new keys, which are another's")
		}
	})
}

func TestSourcesAreRefused(t *testing.T) {
	setURL := func(c *v1alpha1.TargetCluster, url string) {
		if c.Spec.Access.Spider != nil {
			c.Spec.Access.Spider.URL = url
		} else {
			c.Spec.Access.Tumblebug.URL = url
		}
	}
	for name, test := range map[string]struct {
		kinds  string
		change func(*pair, *v1alpha1.TargetCluster)
		reason string
		says   string
	}{
		"no endpoint": {"EKS NCP Spider Tumblebug", func(_ *pair, c *v1alpha1.TargetCluster) { c.Spec.Endpoint = nil },
			resolve.ReasonInvalidEndpoint, "spec.endpoint.server: is empty, and this access type does not provide the endpoint of the target: set it"},
		"no CA": {"EKS NCP Spider Tumblebug", func(_ *pair, c *v1alpha1.TargetCluster) { c.Spec.Endpoint.CertificateAuthorityData = nil },
			resolve.ReasonNoCertificateAuthority, "set spec.endpoint.certificateAuthorityData"},
		"no field": {"EKS NCP Spider Tumblebug", func(_ *pair, c *v1alpha1.TargetCluster) { c.Spec.Access = v1alpha1.Access{Type: c.Spec.Access.Type} },
			resolve.ReasonNotSupported, ": set it"},
		"no Secret": {"EKS NCP Spider Tumblebug", func(p *pair, _ *v1alpha1.TargetCluster) {
			delete(p.objects, types.NamespacedName{Namespace: "fleet", Name: "tenant-1-keys"})
		}, resolve.ReasonSecretNotFound, ".credentials.name refers, does not exist"},
		"keys of another name": {"EKS NCP Spider Tumblebug", func(p *pair, _ *v1alpha1.TargetCluster) {
			p.secret().Data = map[string][]byte{"key": []byte(planted)}
		}, resolve.ReasonInvalidAccess, "Secret fleet/tenant-1-keys: "},
		"no region": {"EKS", func(_ *pair, c *v1alpha1.TargetCluster) { c.Spec.Access.EKS.Region = planted },
			resolve.ReasonInvalidAccess, "spec.access.eks.region"},
		"Ambient": {"EKS", func(_ *pair, c *v1alpha1.TargetCluster) {
			c.Spec.Access.EKS.Identity, c.Spec.Access.EKS.Credentials = v1alpha1.IdentityAmbient, nil
		}, resolve.ReasonAmbientRefused, "spec.access.eks.identity Ambient uses the broker's own identity"},
		"no UUID": {"NCP", func(_ *pair, c *v1alpha1.TargetCluster) { c.Spec.Access.NCP.ClusterUUID = planted },
			resolve.ReasonInvalidAccess, "spec.access.ncp.clusterUUID"},
		"no URL": {"Spider Tumblebug", func(_ *pair, c *v1alpha1.TargetCluster) { setURL(c, "http://u:"+planted+"@a") },
			resolve.ReasonInvalidAccess, ".url must have no user"},
		"link-local": {"Spider Tumblebug", func(_ *pair, c *v1alpha1.TargetCluster) { setURL(c, "http://169.254.169.254") },
			resolve.ReasonAddressRefused, ".url: 169.254.169.254 is a link-local address"},
	} {
		for kind := range strings.FieldsSeq(test.kinds) {
			t.Run(kind+"/"+name, func(t *testing.T) {
				p := newPair(t, v1alpha1.AccessType(kind), handOn)
				test.change(p, p.cluster())
				_, err := p.ask("tenant-1")
				invalid, ok := errors.AsType[*resolve.InvalidError](err)
				if !ok || invalid.Reason != test.reason || !strings.Contains(invalid.Message, test.says) || strings.Contains(err.Error(), planted) {
					t.Errorf("got %+v, want %s: %s", err, test.reason, test.says)
				}
			})
		}
	}
}

func TestWarnsOfPlainHTTP(t *testing.T) {
	eachProvider(t, func(t *testing.T, kind v1alpha1.AccessType) {
		p := newPair(t, kind, handOn)
		got, err := p.issuer.Resolve(t.Context(), p.cluster())
		if err != nil {
			t.Fatal(err)
		}
		if want := !signs(kind); want != strings.Contains(got.Warning, "plain http") {
			t.Errorf("warns %q", got.Warning)
		}
	})
}

func TestASourceWithoutCredentials(t *testing.T) {
	p := newPair(t, v1alpha1.AccessSpider, handOn)
	p.cluster().Spec.Access.Spider.Credentials = nil
	if _, err := p.issuer.Resolve(t.Context(), p.cluster()); err != nil {
		t.Errorf("without credentials: %v", err)
	}
}
