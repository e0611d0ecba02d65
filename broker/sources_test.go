package broker

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/issuing"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/issuer"
)

// fleet is two TargetClusters of each source, all behind one broker, with what these sources ask: targets that issue tokens, and one server
// that is CB-Spider, CB-Tumblebug and Google.
type fleet struct {
	*world
	t       *testing.T
	source  *httptest.Server
	targets map[string]*httptest.Server
	keys    map[string]string // of Google's service accounts, as PEM

	mu      sync.Mutex
	ahead   time.Duration // of the real time, which the API server goes by
	fail    map[string]bool
	entered map[string][]string // with which Authorization headers each target was
}

// kinds are those of the sources; local are those that ask nobody, and can be broken by their Secrets only.
var (
	kinds = []v1alpha1.AccessType{v1alpha1.AccessKubeconfig, v1alpha1.AccessEKS, v1alpha1.AccessGKE, v1alpha1.AccessNCP, v1alpha1.AccessSpider, v1alpha1.AccessTumblebug}
	local = []v1alpha1.AccessType{v1alpha1.AccessKubeconfig, v1alpha1.AccessEKS, v1alpha1.AccessNCP}
)

func nameOf(kind v1alpha1.AccessType, n int) string {
	return fmt.Sprintf("%s-%d", strings.ToLower(string(kind)), n)
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, targets: map[string]*httptest.Server{}, keys: map[string]string{}, fail: map[string]bool{}, entered: map[string][]string{}}
	f.source = httptest.NewServer(http.HandlerFunc(f.serveSource))
	t.Cleanup(f.source.Close)
	f.world = newWorld(t, ReviewTTLs{ValidToken: time.Hour, Allowed: time.Hour}, func(w *world) Issuer {
		conditions := issuing.New(w.Client, 20*time.Millisecond, f.now, w.log.logger())
		go func() { _ = conditions.Start(t.Context()) }()
		issue, err := issuer.New(issuer.Config{Clusters: w.Client, Secrets: w.Client, AllowLocalAddresses: true, Now: f.now, Observe: conditions.Observe})
		must(t, err)
		return issue
	})
	for _, kind := range kinds {
		for n := range 2 {
			f.create(kind, nameOf(kind, n+1))
		}
	}
	role := &rbacv1.Role{ObjectMeta: f.meta("use-all"), Rules: []rbacv1.PolicyRule{{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, Verbs: []string{"use"}}}}
	must(t, f.Create(t.Context(), role))
	must(t, f.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: f.meta("use-all"),
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: f.namespace, Name: "web"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
	}))
	return f
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

// create makes a TargetCluster, its Secret, and the target itself.
func (f *fleet) create(kind v1alpha1.AccessType, name string) {
	f.t.Helper()
	target := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		f.with(func() { f.entered[name] = append(f.entered[name], req.Header.Get("Authorization")) })
		rw.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(rw, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"issued-by-%s-%s","expirationTimestamp":%q}}`,
			name, rand.Text(), f.now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	f.t.Cleanup(target.Close)
	f.targets[name] = target
	must(f.t, f.Create(f.t.Context(), &corev1.Secret{ObjectMeta: f.meta(name), Data: f.data(kind, name)}))
	must(f.t, f.Create(f.t.Context(), &v1alpha1.TargetCluster{
		ObjectMeta: f.meta(name),
		Spec: v1alpha1.TargetClusterSpec{
			Endpoint: &v1alpha1.Endpoint{Server: target.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: target.Certificate().Raw})},
			Access:   f.access(kind, name),
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "robots", Name: "robot"},
			}},
		},
	}))
}

func (f *fleet) access(kind v1alpha1.AccessType, name string) v1alpha1.Access {
	ref := v1alpha1.SecretReference{Name: name}
	access := v1alpha1.Access{Type: kind}
	switch kind {
	case v1alpha1.AccessKubeconfig:
		access.Kubeconfig = &v1alpha1.KubeconfigAccess{Name: name}
	case v1alpha1.AccessEKS:
		access.EKS = &v1alpha1.EKSAccess{ClusterName: name, Region: "eu-central-1", Identity: v1alpha1.IdentitySecret, Credentials: &ref}
	case v1alpha1.AccessGKE:
		access.GKE = &v1alpha1.GKEAccess{Identity: v1alpha1.IdentitySecret, Credentials: &ref}
	case v1alpha1.AccessNCP:
		access.NCP = &v1alpha1.NCPAccess{ClusterUUID: "D11328F1-ECA9-4F1B-BA22-921F61D9C5F" + name[len(name)-1:], Credentials: ref}
	case v1alpha1.AccessSpider:
		access.Spider = &v1alpha1.SpiderAccess{URL: f.source.URL, Cluster: name, Connection: "c", Credentials: &ref}
	case v1alpha1.AccessTumblebug:
		access.Tumblebug = &v1alpha1.TumblebugAccess{URL: f.source.URL, Namespace: "ns", Cluster: name, Credentials: &ref}
	default:
		f.t.Fatalf("no TargetCluster of type %s", kind)
	}
	return access
}

// data is a Secret's that makes sense.
func (f *fleet) data(kind v1alpha1.AccessType, name string) map[string][]byte {
	secret := []byte(planted + name)
	switch kind {
	case v1alpha1.AccessKubeconfig:
		return map[string][]byte{"kubeconfig": fmt.Appendf(nil, `{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"clusters":[{"name":"a","cluster":{"server":"https://a.example"}}],"users":[{"name":"a","user":{"token":%q}}]}`, secret)}
	case v1alpha1.AccessEKS:
		return map[string][]byte{"accessKeyID": []byte(name), "secretAccessKey": secret}
	case v1alpha1.AccessGKE:
		return map[string][]byte{"key.json": f.googleKey(name)}
	case v1alpha1.AccessNCP:
		return map[string][]byte{"accessKey": []byte(name), "secretKey": secret}
	case v1alpha1.AccessSpider:
		return map[string][]byte{"username": []byte(name), "password": secret}
	default:
		return map[string][]byte{"token": secret}
	}
}

func (f *fleet) googleKey(name string) []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(f.t, err)
	f.keys[name] = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "private_key": f.keys[name], "client_email": name + "@project.iam.gserviceaccount.com", "token_uri": f.source.URL,
	})
	must(f.t, err)
	return text
}

// serveSource gives whose credentials it sees a token of its own; one that is to fail has what it sent repeated.
func (f *fleet) serveSource(rw http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "+planted)
	if user, password, ok := req.BasicAuth(); ok && password == planted+user {
		name = user
	}
	assertion := req.FormValue("assertion")
	if parts := strings.Split(assertion, "."); len(parts) == 3 {
		var claims struct{ Iss string }
		text, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(text, &claims)
		name, _, _ = strings.Cut(claims.Iss, "@")
	}
	f.mu.Lock()
	fail := f.fail[name]
	f.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	token := planted + "access-of-" + name + "-" + rand.Text()
	switch {
	case fail:
		said := req.Header.Get("Authorization") + assertion + planted + name
		rw.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(rw).Encode(map[string]string{"message": said, "error": "temporarily_unavailable", "error_description": said})
	case assertion != "":
		_, _ = fmt.Fprintf(rw, `{"access_token":%q,"expires_in":3600,"token_type":"Bearer"}`, token)
	default:
		_, _ = fmt.Fprintf(rw, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":%q,"expirationTimestamp":%q}}`,
			token, f.now().Add(10*time.Minute).UTC().Format(time.RFC3339))
	}
}

// set breaks a source, or mends it.
func (f *fleet) set(kind v1alpha1.AccessType, name string, broken bool) {
	f.t.Helper()
	if !slices.Contains(local, kind) {
		f.with(func() { f.fail[name] = broken })
		return
	}
	var secret corev1.Secret
	must(f.t, f.Get(f.t.Context(), types.NamespacedName{Namespace: f.namespace, Name: name}, &secret))
	secret.Data = f.data(kind, name)
	if broken {
		secret.Data = map[string][]byte{"kubeconfig": []byte(planted), "accessKey": []byte(planted + "\n"), "accessKeyID": []byte(planted + "\n")}
	}
	must(f.t, f.Update(f.t.Context(), &secret))
}

// TestTwoOfEachSource: of two TargetClusters of each source behind one broker, one that breaks and is mended again does nothing to the other, and
// no secret gets anywhere.
func TestTwoOfEachSource(t *testing.T) {
	f := newFleet(t)
	pod := f.token(t, wire.Audience, f.pod)
	f.target.Name = nameOf(kinds[0], 1)
	f.eventually(t, pod, http.StatusOK)

	var told []string // by the broker, where it did not issue
	ask := func(name string) (string, int) {
		f.target.Name = name
		credential, code, status := f.ask(t, pod, "{}")
		if code != http.StatusOK {
			told = append(told, status.String())
		} else if !strings.HasPrefix(credential.Status.Token, "issued-by-"+name+"-") {
			t.Errorf("%s: the token is %s", name, credential.Status.Token)
		}
		return credential.Status.Token, code
	}
	for _, kind := range kinds {
		one, two := nameOf(kind, 1), nameOf(kind, 2)
		for _, name := range []string{one, two} {
			if _, code := ask(name); code != http.StatusOK {
				t.Errorf("%s: code %d: %s", name, code, told[len(told)-1])
			}
		}
		before, _ := ask(two)
		f.set(kind, one, true)
		f.with(func() { f.ahead += 61 * time.Minute })
		if _, code := ask(one); code == http.StatusOK {
			t.Errorf("%s: a credential is issued by a source that is broken", one)
		}
		if after, code := ask(two); code != http.StatusOK || after == before {
			t.Errorf("%s, beside a broken one: code %d", two, code)
		}
		f.wantIssuing(one, metav1.ConditionFalse, slices.Contains(local, kind))
		f.wantIssuing(two, metav1.ConditionTrue, false)
		f.set(kind, one, false)
		f.with(func() { f.ahead += 10 * time.Second })
		if _, code := ask(one); code != http.StatusOK {
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

// wantIssuing waits for the condition Issuing. A Secret that makes no sense is no matter of issuing: the controller says so.
func (f *fleet) wantIssuing(name string, status metav1.ConditionStatus, unless bool) {
	f.t.Helper()
	if unless {
		return
	}
	var cluster v1alpha1.TargetCluster
	err := wait.PollUntilContextTimeout(f.t.Context(), 10*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		err := f.Get(ctx, types.NamespacedName{Namespace: f.namespace, Name: name}, &cluster)
		return meta.IsStatusConditionPresentAndEqual(cluster.Status.Conditions, v1alpha1.ConditionIssuing, status), err
	})
	if err != nil {
		f.t.Errorf("%s: Issuing is not %s: %v: %+v", name, status, err, cluster.Status.Conditions)
	}
}

// wantOwnEntries checks that no two targets were entered with the same credential.
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
	if len(f.entered) != 2*len(kinds) {
		f.t.Errorf("%d targets were entered, want %d", len(f.entered), 2*len(kinds))
	}
}

// wantNoSecret looks for what was planted, for the tokens that were issued, and for those of clouds by their prefixes.
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
