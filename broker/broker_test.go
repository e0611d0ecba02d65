package broker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/tools/events"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// planted is part of every secret, so tests find it if a secret is logged.
const planted = "PLANTED-SECRET"

var (
	target = types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// issued is the default result of the issuer of a bench.
func issued() issuer.Issued {
	return issuer.Issued{
		Credential: providers.Credential{
			Token:    planted + ".target.token",
			NotAfter: start.Add(time.Hour),
			Endpoint: endpoint.Endpoint{
				Server:               "https://203.0.113.7:6443",
				CertificateAuthority: []byte("CA"),
				TLSServerName:        "kubernetes",
			},
		},
		Namespace:  "default",
		Delivery:   v1alpha1.DeliveryDirect,
		ClusterUID: "cluster-uid",
		ID:         "jti-1",
		IssuedAt:   start,
		RefreshAt:  start.Add(48 * time.Minute),
	}
}

// tokenWith returns an unsigned JWT. The fake authenticator recognizes it by its text.
func tokenWith(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + planted
}

func podUser(name, pod string) *user.DefaultInfo {
	return &user.DefaultInfo{
		Name:   serviceaccount.MakeUsername("app", name),
		UID:    "uid-of-" + name,
		Groups: []string{"system:serviceaccounts", "system:authenticated"},
		Extra: map[string][]string{
			serviceaccount.PodNameKey:                    {pod},
			serviceaccount.PodUIDKey:                     {"uid-of-" + pod},
			"authentication.kubernetes.io/credential-id": {"JTI=1"},
		},
	}
}

var (
	podToken     = tokenWith(`{"aud":["keyferry"]}`)
	otherToken   = tokenWith(`{"aud":["keyferry"],"sub":"other"}`)
	subjectToken = tokenWith(`{"aud":"sts.example","sub":"web"}`)
	otherSubject = tokenWith(`{"aud":"sts.example","sub":"other"}`)
	unbound      = tokenWith(`{"aud":["keyferry"],"sub":"unbound"}`)
	human        = tokenWith(`{"aud":["keyferry"],"sub":"human"}`)
	outage       = tokenWith(`{"aud":["keyferry"],"sub":"outage"}`)
	strayAnswer  = tokenWith(`{"aud":["keyferry"],"sub":"stray"}`)
)

// fakeTokens is an authenticator that accepts some tokens.
func fakeTokens(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	known := map[string]struct {
		audience string
		user     *user.DefaultInfo
	}{
		podToken:     {"keyferry", podUser("web", "web-0")},
		otherToken:   {"keyferry", podUser("other", "other-0")},
		subjectToken: {"sts.example", podUser("web", "web-0")},
		otherSubject: {"sts.example", podUser("web", "web-1")},
		unbound:      {"keyferry", &user.DefaultInfo{Name: "system:serviceaccount:app:web"}},
		human:        {"keyferry", &user.DefaultInfo{Name: "jane"}},
		strayAnswer:  {"other", podUser("web", "web-0")},
	}
	if token == outage {
		return nil, false, errors.New("connection refused")
	}
	entry, ok := known[token]
	if !ok {
		return nil, false, nil
	}
	wanted, _ := authenticator.AudiencesFrom(ctx)
	if token != strayAnswer && !wanted.Has(entry.audience) {
		return nil, false, nil
	}
	return &authenticator.Response{User: entry.user, Audiences: authenticator.Audiences{entry.audience}}, true, nil
}

type fakeAccess func(authorizer.Attributes) (authorizer.Decision, string, error)

func (f fakeAccess) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return f(a)
}

// webMayUse allows ServiceAccount app/web to use TargetCluster fleet/tenant-1, and nothing else.
func webMayUse(a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser().GetName() == "system:serviceaccount:app:web" && a.GetVerb() == "use" && a.IsResourceRequest() &&
		a.GetAPIGroup() == "keyferry.dev" && a.GetResource() == "targetclusters" && a.GetSubresource() == "" &&
		a.GetNamespace() == target.Namespace && a.GetName() == target.Name {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

type fakeIssuer func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error)

// logged collects log lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) logger() logr.Logger {
	return funcr.NewJSON(func(line string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, line)
	}, funcr.Options{Verbosity: 1})
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// bench is a Broker whose dependencies are fakes.
type bench struct {
	*Broker
	events     *events.FakeRecorder
	audit, log logged
	registry   *prometheus.Registry
	now        time.Time
	// findLock finds no lock, unless a test says otherwise.
	findLock func(locks.Access) (*locks.Lock, error)
}

func newBench(t testing.TB, access fakeAccess, issue fakeIssuer) *bench {
	t.Helper()
	b := &bench{events: events.NewFakeRecorder(16), registry: prometheus.NewRegistry(), now: start, findLock: func(locks.Access) (*locks.Lock, error) { return nil, nil }}
	broker, err := New(Config{
		Authenticator: authenticator.TokenFunc(fakeTokens),
		Authorizer:    access,
		FindLock:      func(_ context.Context, a locks.Access) (*locks.Lock, error) { return b.findLock(a) },
		Issuer:        issue,
		Audit:         b.audit.logger(),
		Log:           b.log.logger(),
		Metrics:       b.registry,
		Events:        b.events,
		Now:           func() time.Time { return b.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Broker = broker
	return b
}

// unlocked is a cluster without locks.
func unlocked(context.Context, locks.Access) (*locks.Lock, error) { return nil, nil }

func issueAlways(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
	return issued(), nil
}

// request returns a valid request, which tests may change.
func request(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, wire.TargetClusterPath(target.Namespace, target.Name), strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+podToken)
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (b *bench) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w
}

func TestCredential(t *testing.T) {
	var got providers.Request
	b := newBench(t, webMayUse, func(_ context.Context, cluster types.NamespacedName, req providers.Request) (issuer.Issued, error) {
		if cluster != target {
			t.Errorf("issued for %s", cluster)
		}
		got = req
		return issued(), nil
	})
	w := b.do(request(`{"subjectToken":"` + subjectToken + `"}`))
	if w.Code != http.StatusOK {
		t.Fatalf("code %d: %s", w.Code, w.Body)
	}
	want := providers.Request{
		Identity:     providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "uid-of-web", PodName: "web-0", PodUID: "uid-of-web-0"},
		SubjectToken: subjectToken,
	}
	if got != want {
		t.Errorf("issuer was asked for %+v, want %+v", got, want)
	}
	const answer = `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{"cluster":{` +
		`"server":"https://203.0.113.7:6443","tls-server-name":"kubernetes","certificate-authority-data":"Q0E=","config":{` +
		`"namespace":"default","issuedAt":"2026-01-02T03:04:05Z","refreshAt":"2026-01-02T03:52:05Z","delivery":"Direct","clusterUID":"cluster-uid"}},` +
		`"interactive":false},"status":{"expirationTimestamp":"2026-01-02T04:04:05Z","token":"PLANTED-SECRET.target.token"}}`
	if w.Body.String() != answer {
		t.Errorf("got  %s\nwant %s", w.Body, answer)
	}
	for name, value := range map[string]string{"Cache-Control": "no-store", "Content-Type": "application/json"} {
		if w.Header().Get(name) != value {
			t.Errorf("%s: %q, want %q", name, w.Header().Get(name), value)
		}
	}
	wantAudit(t, b, map[string]any{
		"msg": "credential issued", "outcome": "issued", "code": 200.0, "namespace": "app", "serviceAccount": "web", "pod": "web-0",
		"podUID": "uid-of-web-0", "targetCluster": "fleet/tenant-1", "notAfter": "2026-01-02T04:04:05Z", "credentialID": "jti-1", "latency": "0s",
	})
	if got := counted(t, b, "issued", "200", "miss"); got != 1 {
		t.Errorf("keyferry_issue_requests_total is %v", got)
	}
}

// TestAnswerIsAnExecCredential decodes the response with client-go's type.
func TestAnswerIsAnExecCredential(t *testing.T) {
	w := newBench(t, webMayUse, issueAlways).do(request("{}"))
	var credential clientauthentication.ExecCredential
	decoder := json.NewDecoder(w.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&credential); err != nil {
		t.Fatal(err)
	}
	if credential.GroupVersionKind() != clientauthentication.SchemeGroupVersion.WithKind("ExecCredential") ||
		credential.Spec.Cluster.Server != issued().Endpoint.Server || credential.Status.Token != issued().Token ||
		!credential.Status.ExpirationTimestamp.Time.Equal(issued().NotAfter) {
		t.Errorf("got %+v", credential)
	}
}

func TestNoBodyIsAnEmptyRequest(t *testing.T) {
	for _, body := range []string{"", "{}", " {} \n"} {
		b := newBench(t, webMayUse, issueAlways)
		r := request(body)
		r.Header.Del("Content-Type")
		if w := b.do(r); w.Code != http.StatusOK {
			t.Errorf("body %q: code %d: %s", body, w.Code, w.Body)
		}
	}
}

func TestRefusals(t *testing.T) {
	fails := func(err error) fakeIssuer {
		return func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
			return issuer.Issued{}, err
		}
	}
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	body := func(text string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		}
	}
	path := func(text string) func(*http.Request) {
		return func(r *http.Request) { r.URL.Path = text }
	}
	for _, test := range []struct {
		name    string
		change  func(*http.Request)
		access  fakeAccess
		issue   fakeIssuer
		code    int
		reason  metav1.StatusReason
		audit   string
		message string
		retry   string
	}{
		{name: "no token", change: func(r *http.Request) { r.Header.Del("Authorization") },
			code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "needs one Authorization header"},
		{name: "two tokens", change: func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+otherToken) },
			code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "needs one Authorization header"},
		{name: "basic auth", change: func(r *http.Request) { r.SetBasicAuth("jane", planted) },
			code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "must contain Bearer"},
		{name: "empty token", change: bearer(""), code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "must contain Bearer"},
		{name: "not a JWT", change: bearer(planted), code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "it is not a JWT"},
		{name: "not base64", change: bearer("a.%.c"), code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "it is not a JWT"},
		{name: "claims that are none", change: bearer(tokenWith(planted)), code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "claims cannot be read"},
		{name: "no audience", change: bearer(tokenWith(`{}`)), code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "has no audience"},
		{name: "token of the API server", change: bearer(tokenWith(`{"aud":["https://kubernetes.default.svc"]}`)),
			code: 401, reason: "Unauthorized", audit: "Unauthorized", message: `must have the audience "keyferry"`},
		{name: "unknown token", change: bearer(tokenWith(`{"aud":"keyferry","sub":"forged"}`)),
			code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "rejects the bearer token"},
		{name: "reviewed for another audience", change: bearer(strayAnswer),
			code: 401, reason: "Unauthorized", audit: "Unauthorized", message: "rejects the bearer token"},
		{name: "review fails", change: bearer(outage),
			code: 503, reason: "ServiceUnavailable", audit: "ServiceUnavailable", message: "could not verify the Pod's token", retry: "5"},
		{name: "not a ServiceAccount", change: bearer(human), code: 403, reason: "Forbidden", audit: "NotAServiceAccount", message: `"jane" is not a ServiceAccount`},
		{name: "not bound to a Pod", change: bearer(unbound), code: 403, reason: "Forbidden", audit: "NotBoundToPod", message: "ServiceAccount app/web is not bound to a Pod"},
		{name: "no use", change: bearer(otherToken), code: 403, reason: "Forbidden", audit: "Forbidden",
			message: `ServiceAccount app/other may not use TargetCluster fleet/tenant-1: grant the verb "use" on targetclusters.keyferry.dev "tenant-1" in namespace fleet: keyferry grant fleet/tenant-1 app/other`},
		{name: "no use of another cluster", change: path("/v1/namespaces/fleet/targetclusters/tenant-2/credential"),
			issue: fails(fmt.Errorf("TargetCluster fleet/tenant-2: %w", providers.ErrNotFound)),
			code:  403, reason: "Forbidden", audit: "Forbidden", message: "may not use TargetCluster fleet/tenant-2"},
		{name: "denied with a reason", access: func(authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionDeny, "outside of office hours", nil
		}, code: 403, reason: "Forbidden", audit: "Forbidden", message: "(outside of office hours)"},
		{name: "access review fails", access: func(authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionAllow, "", errors.New("connection refused")
		}, code: 503, reason: "ServiceUnavailable", audit: "ServiceUnavailable", message: "could not check the access of the Pod's ServiceAccount", retry: "5"},
		{name: "no such namespace name", change: path("/v1/namespaces/Fleet/targetclusters/tenant-1/credential"),
			code: 400, reason: "BadRequest", audit: "BadRequest", message: `namespace "Fleet"`},
		{name: "no such cluster name", change: path("/v1/namespaces/fleet/targetclusters/tenant_1/credential"),
			code: 400, reason: "BadRequest", audit: "BadRequest", message: `TargetCluster "tenant_1"`},
		{name: "unknown field", change: body(`{"subjectTokens":"` + planted + `"}`), code: 400, reason: "BadRequest", audit: "BadRequest", message: "one JSON object"},
		{name: "two objects", change: body(`{}{}`), code: 400, reason: "BadRequest", audit: "BadRequest", message: "one JSON object"},
		{name: "not JSON", change: body(planted), code: 400, reason: "BadRequest", audit: "BadRequest", message: "one JSON object"},
		{name: "large body", change: body(`{"subjectToken":"` + strings.Repeat("x", maxBody) + `"}`),
			code: 413, reason: "RequestEntityTooLarge", audit: "RequestEntityTooLarge", message: "larger than 65536 bytes"},
		{name: "large body of unknown length", change: func(r *http.Request) {
			body(`{"subjectToken":"` + strings.Repeat("x", maxBody) + `"}`)(r)
			r.ContentLength = -1
		}, code: 413, reason: "RequestEntityTooLarge", audit: "RequestEntityTooLarge", message: "larger than 65536 bytes"},
		{name: "form", change: func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") },
			code: 415, reason: "UnsupportedMediaType", audit: "UnsupportedMediaType", message: "must be application/json"},
		{name: "subject token of another Pod", change: body(`{"subjectToken":"` + otherSubject + `"}`),
			code: 403, reason: "Forbidden", audit: "SubjectTokenOfOther", message: "must belong to the Pod that sends the request"},
		{name: "subject token of another ServiceAccount", change: body(`{"subjectToken":"` + otherToken + `"}`),
			code: 403, reason: "Forbidden", audit: "SubjectTokenOfOther", message: "must belong to the Pod that sends the request"},
		{name: "subject token of no Pod", change: body(`{"subjectToken":"` + unbound + `"}`),
			code: 403, reason: "Forbidden", audit: "SubjectTokenOfOther", message: "must belong to the Pod that sends the request"},
		{name: "subject token that is none", change: body(`{"subjectToken":"` + planted + `"}`),
			code: 403, reason: "Forbidden", audit: "SubjectTokenInvalid", message: "the subjectToken is not a ServiceAccount token"},
		{name: "subject token that has ended", change: body(`{"subjectToken":"` + tokenWith(`{"aud":"sts.example","exp":1}`) + `"}`),
			code: 403, reason: "Forbidden", audit: "SubjectTokenInvalid", message: "rejects the subjectToken"},
		{name: "review of the subject token fails", change: body(`{"subjectToken":"` + outage + `"}`),
			code: 503, reason: "ServiceUnavailable", audit: "ServiceUnavailable", message: "could not verify the Pod's token", retry: "5"},
		{name: "invalid TargetCluster", issue: fails(&resolve.InvalidError{Reason: "SecretForbidden", Message: "Secret fleet/tenant-1 may not be read: add fleet to secretAccess.namespaces"}),
			code: 422, reason: "Invalid", audit: "SecretForbidden", message: "add fleet to secretAccess.namespaces"},
		{name: "no such TargetCluster", issue: fails(fmt.Errorf("TargetCluster fleet/tenant-1: %w", providers.ErrNotFound)),
			code: 404, reason: "NotFound", audit: "NotFound", message: "TargetCluster fleet/tenant-1: not found"},
		{name: "subject token that the provider needs is missing", issue: fails(fmt.Errorf("TargetCluster fleet/tenant-1: %w: recreate the Pod", resolve.ErrSubjectToken)),
			code: 403, reason: "Forbidden", audit: "SubjectTokenNeeded", message: "TargetCluster fleet/tenant-1: the provider exchanges a token of the Pod: recreate the Pod"},
		{name: "provider refuses", issue: fails(fmt.Errorf("serviceaccount app/web of https://203.0.113.7: %w", providers.ErrRefused)),
			code: 502, reason: "ProviderRefused", audit: "ProviderRefused", message: "serviceaccount app/web of https://203.0.113.7: refused"},
		{name: "provider away", issue: fails(providers.Unavailable(0, errors.New("connection refused"))),
			code: 503, reason: "ServiceUnavailable", audit: "ServiceUnavailable", message: "unavailable: connection refused", retry: "5"},
		{name: "provider asks for time", issue: fails(providers.Unavailable(1500*time.Millisecond, errors.New("too many requests"))),
			code: 503, reason: "ServiceUnavailable", audit: "ServiceUnavailable", message: "too many requests", retry: "2"},
		{name: "unknown error", issue: fails(errors.New("nil map")),
			code: 500, reason: "InternalError", audit: "InternalError", message: "failed to issue a credential of TargetCluster fleet/tenant-1; see its log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			access, issue := test.access, test.issue
			if access == nil {
				access = webMayUse
			}
			if issue == nil {
				issue = func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
					t.Error("a credential was issued")
					return issued(), nil
				}
			}
			b := newBench(t, access, issue)
			r := request("{}")
			if test.change != nil {
				test.change(r)
			}
			w := b.do(r)
			wantStatus(t, w, test.code, test.reason, test.message)
			if got := w.Header().Get("Retry-After"); got != test.retry {
				t.Errorf("Retry-After %q, want %q", got, test.retry)
			}
			if got := w.Header().Get("WWW-Authenticate") != ""; got != (test.code == 401) {
				t.Errorf("WWW-Authenticate is there: %v", got)
			}
			outcome := "refused"
			if test.code >= 500 {
				outcome = "failed"
			}
			wantAudit(t, b, map[string]any{"msg": "credential refused", "outcome": outcome, "code": float64(test.code), "reason": test.audit})
			told := 0
			if pod := test.audit != "NotAServiceAccount" && test.audit != "NotBoundToPod"; pod && (test.code == 403 || test.code == 404 || test.code == 422) {
				told = 1
			}
			if got := len(b.events.Events); got != told {
				t.Errorf("%d Events, want %d", got, told)
			}
			if got := counted(t, b, outcome, fmt.Sprint(test.code), "none"); got != 1 {
				t.Errorf("keyferry_issue_requests_total is %v", got)
			}
			for _, text := range []string{b.audit.String(), b.log.String(), w.Body.String()} {
				if strings.Contains(text, planted) || strings.Contains(text, podToken[:20]) {
					t.Errorf("a credential got out: %s", text)
				}
			}
		})
	}
}

func TestUnchanged(t *testing.T) {
	current := issued()
	b := newBench(t, webMayUse, func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
		return current, nil
	})
	first := b.do(request("{}"))
	tag := first.Header().Get("ETag")
	if first.Code != http.StatusOK || tag == "" {
		t.Fatalf("code %d, ETag %q", first.Code, tag)
	}
	again := func(tag string) *httptest.ResponseRecorder {
		r := request("{}")
		r.Header.Set("If-None-Match", tag)
		return b.do(r)
	}
	for _, have := range []string{tag, "W/" + tag, `"x", ` + tag} {
		if w := again(have); w.Code != http.StatusNotModified || w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
			t.Errorf("If-None-Match %s: code %d, ETag %s, body %q", have, w.Code, w.Header().Get("ETag"), w.Body)
		}
	}
	if got := strings.Count(b.audit.String(), `"outcome":"issued"`); got != 1 {
		t.Errorf("%d issues are audited, want the first only:\n%s", got, b.audit.String())
	}
	for _, have := range []string{`"x"`, "*", ""} {
		if w := again(have); w.Code != http.StatusOK {
			t.Errorf("If-None-Match %s: code %d", have, w.Code)
		}
	}
	current.Endpoint.Server = "https://203.0.113.8:6443"
	moved := again(tag)
	if moved.Code != http.StatusOK || moved.Header().Get("ETag") == tag {
		t.Errorf("endpoint moved: code %d, ETag %s", moved.Code, moved.Header().Get("ETag"))
	}
	b.now = current.RefreshAt
	if w := again(moved.Header().Get("ETag")); w.Code != http.StatusOK {
		t.Errorf("at refreshAt: code %d, want the credential", w.Code)
	}
	clock := clocktest.New()
	current.RefreshAt = clock.Now().Add(time.Hour)
	clock.Set(time.Hour) // as it is when a machine goes on that was suspended
	b.now = clock.Now()
	if w := again(b.do(request("{}")).Header().Get("ETag")); w.Code != http.StatusOK {
		t.Errorf("suspended until refreshAt: code %d, want the credential", w.Code)
	}
}

// TestUseIsAskedWithoutTheTokensExtra checks that only the ServiceAccount of a token is part of the
// access review.
func TestUseIsAskedWithoutTheTokensExtra(t *testing.T) {
	var asked user.Info
	b := newBench(t, func(a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked = a.GetUser()
		return authorizer.DecisionAllow, "", nil
	}, issueAlways)
	b.do(request("{}"))
	if len(asked.GetExtra()) != 0 || len(asked.GetGroups()) != 3 || asked.GetUID() != "uid-of-web" {
		t.Errorf("asked for %+v", asked)
	}
}

func TestSlowProviderIsAnsweredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, webMayUse, func(ctx context.Context, _ types.NamespacedName, _ providers.Request) (issuer.Issued, error) {
			<-ctx.Done()
			return issuer.Issued{}, ctx.Err()
		})
		wantStatus(t, b.do(request("{}")), 503, "ServiceUnavailable", "TargetCluster fleet/tenant-1 did not return a credential within 25s")
	})
}

func TestClientThatWentIsNotAudited(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := newBench(t, webMayUse, func(ctx context.Context, _ types.NamespacedName, _ providers.Request) (issuer.Issued, error) {
		cancel()
		return issuer.Issued{}, ctx.Err()
	})
	b.do(request("{}").WithContext(ctx))
	if got := b.audit.String(); got != "" {
		t.Errorf("audited: %s", got)
	}
	if got := counted(t, b, "abandoned", "499", "none"); got != 1 {
		t.Errorf("keyferry_issue_requests_total is %v", got)
	}
}

func TestNewWantsItsConfig(t *testing.T) {
	full := Config{
		Authenticator: authenticator.TokenFunc(fakeTokens), Authorizer: fakeAccess(webMayUse), FindLock: unlocked, Issuer: fakeIssuer(issueAlways),
		Metrics: prometheus.NewRegistry(),
	}
	for name, drop := range map[string]func(*Config){
		"Authenticator": func(c *Config) { c.Authenticator = nil },
		"Authorizer":    func(c *Config) { c.Authorizer = nil },
		"FindLock":      func(c *Config) { c.FindLock = nil },
		"Issuer":        func(c *Config) { c.Issuer = nil },
		"Metrics":       func(c *Config) { c.Metrics = nil },
	} {
		cfg := full
		drop(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func wantStatus(t *testing.T, w *httptest.ResponseRecorder, code int, reason metav1.StatusReason, message string) {
	t.Helper()
	var status metav1.Status
	decoder := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&status); err != nil {
		t.Fatalf("code %d, body is no Status: %v: %s", w.Code, err, w.Body)
	}
	if status.Kind != "Status" || status.APIVersion != "v1" || status.Status != "Failure" {
		t.Errorf("not a failure's Status: %s", w.Body)
	}
	if w.Code != code || int(status.Code) != code || status.Reason != reason || !strings.Contains(status.Message, message) {
		t.Errorf("code %d, body %s; want code %d, reason %s, message with %q", w.Code, w.Body, code, reason, message)
	}
	if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("header %v", w.Header())
	}
}

// wantAudit checks that there is one audit line, with at least these fields.
func wantAudit(t *testing.T, b *bench, fields map[string]any) {
	t.Helper()
	var line map[string]any
	if err := json.Unmarshal([]byte(b.audit.String()), &line); err != nil {
		t.Fatalf("audit is not one JSON line: %v:\n%s", err, b.audit.String())
	}
	for name, want := range fields {
		if line[name] != want {
			t.Errorf("audit: %s is %v, want %v", name, line[name], want)
		}
	}
}

func counted(t *testing.T, b *bench, outcome, code, cache string) float64 {
	t.Helper()
	var metric dto.Metric
	if err := b.measures.requests.WithLabelValues(outcome, code, cache).Write(&metric); err != nil {
		t.Fatal(err)
	}
	return metric.GetCounter().GetValue()
}
