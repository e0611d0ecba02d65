package tokenrequest_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/providertest"
	"github.com/keyferry/keyferry/providers/tokenrequest"
)

const (
	accessToken = "planted-access-token"
	issuedToken = "planted-issued-token"
)

// access is a Provider of what it is.
type access struct{ providers.Credential }

func (a access) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	if err := ctx.Err(); err != nil {
		return providers.Credential{}, providers.Unavailable(0, err)
	}
	return a.Credential, nil
}

func (access) ShareKey(providers.Request) string { return "" }

// target is an API server that answers all requests with handle, and the access to it.
func target(t *testing.T, handle http.HandlerFunc) (*httptest.Server, *access) {
	t.Helper()
	s := httptest.NewUnstartedServer(handle)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, &access{providers.Credential{
		Token:    accessToken,
		NotAfter: time.Now().Add(time.Hour),
		Endpoint: endpoint.Endpoint{
			Server:               s.URL,
			CertificateAuthority: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
		},
	}}
}

// config is a Provider's for a Fixed account.
func config(access providers.Provider) tokenrequest.Config {
	return tokenrequest.Config{
		Access:         access,
		Egress:         endpoint.Policy{AllowLocal: true},
		ServiceAccount: types.NamespacedName{Namespace: "fleet", Name: "deployer"},
		Duration:       time.Hour,
		Owner:          "cluster/fleet/tenant-1",
	}
}

func provider(t *testing.T, cfg tokenrequest.Config) *tokenrequest.Provider {
	t.Helper()
	p, err := tokenrequest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// says answers with a status and a JSON body.
func says(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func status(code int, reason, message, details string) http.HandlerFunc {
	return says(code, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":`+strconv.Itoa(code)+
		`,"reason":"`+reason+`","message":"`+message+`","details":{`+details+`}}`)
}

func token(token, end string) http.HandlerFunc {
	return says(http.StatusCreated, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"`+token+`","expirationTimestamp":`+end+`}}`)
}

func inAnHour() string {
	return `"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"`
}

// workload is access by workload identity: another one for each ServiceAccount, in exchange for the
// Pod's token.
type workload struct {
	*access
	asked []providers.Request
}

func (w *workload) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	w.asked = append(w.asked, req)
	return w.access.Issue(ctx, req)
}

func (*workload) ShareKey(req providers.Request) string { return req.Identity.ServiceAccountUID }

func TestWorkloadIdentityGoesThrough(t *testing.T) {
	_, to := target(t, token(issuedToken, inAnHour()))
	way := &workload{access: to}
	p := provider(t, config(way))
	one := providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1"}, SubjectToken: "planted-subject"}
	other := one
	other.Identity.ServiceAccountUID = "2"
	if _, err := p.Issue(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if len(way.asked) != 1 || way.asked[0] != one {
		t.Errorf("access was asked %+v", way.asked)
	}
	if providers.ShareKey(p, one) == providers.ShareKey(p, other) {
		t.Error("ServiceAccounts that get in as different identities share a token")
	}
	if strings.Contains(providers.ShareKey(p, one), one.SubjectToken) {
		t.Error("the share key holds the subject token")
	}
}

// keeper is access that is kept.
type keeper struct {
	access
	rejected []string
}

func (k *keeper) Rejected(_ providers.Request, c providers.Credential) {
	k.rejected = append(k.rejected, c.Token)
}

func TestOnlyRejectionIsToldToWhoKeepsAccess(t *testing.T) {
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   int
	}{
		"rejected":  {status(401, "Unauthorized", "no", ""), 1},
		"forbidden": {status(403, "Forbidden", "no", ""), 0},
		"failing":   {status(500, "InternalError", "no", ""), 0},
		"accepted":  {token(issuedToken, inAnHour()), 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, to := target(t, test.handle)
			k := &keeper{access: *to}
			_, err := provider(t, config(k)).Issue(t.Context(), providers.Request{})
			if len(k.rejected) != test.want || test.want == 1 && k.rejected[0] != accessToken {
				t.Errorf("told %d times of a rejection after %v", len(k.rejected), err)
			}
		})
	}
}

func TestConformance(t *testing.T) {
	answering := func(handle http.HandlerFunc) func(*testing.T) providers.Provider {
		return func(t *testing.T) providers.Provider {
			_, access := target(t, handle)
			return provider(t, config(access))
		}
	}
	leak := "you said " + accessToken
	providertest.Run(t, providertest.Suite{
		New:         answering(token(issuedToken, inAnHour())),
		NotFound:    answering(status(404, "NotFound", leak, `"name":"deployer","kind":"serviceaccounts"`)),
		Refused:     answering(status(403, "Forbidden", leak, "")),
		Unavailable: answering(status(429, "TooManyRequests", leak, `"retryAfterSeconds":7`)),
		RetryAfter:  7 * time.Second,
		Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
			asked := make(chan struct{})
			_, access := target(t, func(_ http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body) // else the server does not notice that the client went away
				close(asked)
				<-req.Context().Done()
			})
			return provider(t, config(access)), asked
		},
		Secrets: []string{accessToken, issuedToken},
		Request: providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1", PodUID: "2"}},
	})
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   error
		says   string
	}{
		"401":                          {status(401, "Unauthorized", "Unauthorized", ""), providers.ErrRefused, "renew it"},
		"403":                          {status(403, "Forbidden", "User a cannot create", ""), providers.ErrRefused, "create on serviceaccounts/token named deployer in namespace fleet"},
		"403 in HTML":                  {says(403, "<html>"+accessToken), providers.ErrRefused, "needs the permission create"},
		"404 of the account":           {status(404, "NotFound", "", `"name":"deployer","kind":"serviceaccounts"`), providers.ErrNotFound, "create it, or set spec.issue.tokenRequest.create"},
		"404 of the path":              {says(404, "404 page not found"), providers.ErrNotFound, "address and path"},
		"422":                          {status(422, "Invalid", "audiences is invalid", ""), providers.ErrRefused, "audiences is invalid"},
		"429":                          {status(429, "TooManyRequests", "slow down", `"retryAfterSeconds":1`), providers.ErrUnavailable, "slow down"},
		"500":                          {status(500, "InternalError", "etcd", ""), providers.ErrUnavailable, "etcd"},
		"503 in HTML":                  {says(503, "<html>"), providers.ErrUnavailable, ""},
		"redirect":                     {http.RedirectHandler("https://203.0.113.7/login?"+accessToken, http.StatusFound).ServeHTTP, providers.ErrRefused, "redirects"},
		"no JSON":                      {says(201, issuedToken), providers.ErrUnavailable, "no answer that can be read"},
		"torn JSON":                    {says(201, `{"status":{"token":"`+issuedToken), providers.ErrUnavailable, "no answer that can be read"},
		"no token":                     {token("", inAnHour()), providers.ErrRefused, "returned no token"},
		"no end":                       {token(issuedToken, "null"), providers.ErrRefused, "clocks"},
		"ended":                        {token(issuedToken, `"2020-01-01T00:00:00Z"`), providers.ErrRefused, "2020-01-01T00:00:00Z"},
		"connection closed, no answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, providers.ErrUnavailable, "requesting a token"},
	} {
		t.Run(name, func(t *testing.T) {
			s, access := target(t, test.handle)
			_, err := provider(t, config(access)).Issue(t.Context(), providers.Request{})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), s.URL) {
				t.Errorf("got %q, want that it is %q, says %q and %s", err, test.want, test.says, s.URL)
			}
			if err != nil && (strings.Contains(err.Error(), accessToken) || strings.Contains(err.Error(), issuedToken)) {
				t.Errorf("a secret in %q", err)
			}
		})
	}
}

func TestWrongCertificateAuthority(t *testing.T) {
	_, access := target(t, func(http.ResponseWriter, *http.Request) { t.Error("was asked") })
	access.Endpoint.CertificateAuthority = nil
	_, err := provider(t, config(access)).Issue(t.Context(), providers.Request{})
	if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "check that the certificate authority") {
		t.Errorf("got %v", err)
	}
}

func TestLoopbackIsRefused(t *testing.T) {
	_, access := target(t, func(http.ResponseWriter, *http.Request) { t.Error("was asked") })
	cfg := config(access)
	cfg.Egress = endpoint.Policy{}
	_, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
	if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v", err)
	}
}

func TestAccessFails(t *testing.T) {
	failed := providers.Unavailable(time.Minute, errors.New("cloud"))
	_, err := provider(t, config(failing{failed})).Issue(t.Context(), providers.Request{})
	if !errors.Is(err, failed) || providers.RetryAfter(err) != time.Minute {
		t.Errorf("got %v, want that of the access provider", err)
	}
}

type failing struct{ err error }

func (f failing) Issue(context.Context, providers.Request) (providers.Credential, error) {
	return providers.Credential{}, f.err
}

func TestEndpoint(t *testing.T) {
	s, access := target(t, token(issuedToken, inAnHour()))
	access.Endpoint.Server = "https://elsewhere.invalid"
	cfg := config(access)
	cfg.Endpoint.Server = s.URL
	got, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Endpoint.Server != s.URL || len(got.Endpoint.CertificateAuthority) == 0 {
		t.Errorf("endpoint is %v, want the configured server and the CA of the access", got.Endpoint)
	}
}

func TestConnections(t *testing.T) {
	var opened, closed atomic.Int32
	allClosed := make(chan struct{})
	s := httptest.NewUnstartedServer(token(issuedToken, inAnHour()))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			if closed.Add(1) == 1 {
				close(allClosed)
			}
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	access := &access{providers.Credential{Token: accessToken, Endpoint: endpoint.Endpoint{
		Server:               s.URL,
		CertificateAuthority: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	}}}
	p := provider(t, config(access))
	issue := func() {
		t.Helper()
		if _, err := p.Issue(t.Context(), providers.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		issue()
	}
	if got := opened.Load(); got != 1 {
		t.Errorf("5 issues in a row took %d connections, want 1", got)
	}
	access.Token = "renewed"
	issue()
	<-allClosed // or the test runs into its time limit
}

func TestShareKey(t *testing.T) {
	web := providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1", PodUID: "a"}}
	otherPod, recreated, db := web, web, web
	otherPod.Identity.PodUID = "b"
	recreated.Identity.ServiceAccountUID = "2"
	db.Identity.ServiceAccount = "db"

	_, access := target(t, token(issuedToken, inAnHour()))
	fixed := config(access)
	mirror := fixed
	mirror.ServiceAccount = types.NamespacedName{}
	alone := fixed
	alone.Access = failing{}
	for name, test := range map[string]struct {
		cfg   tokenrequest.Config
		other providers.Request
		same  bool
	}{
		"Fixed, other account":      {fixed, db, true},
		"Mirror, other Pod":         {mirror, otherPod, true},
		"Mirror, other account":     {mirror, db, false},
		"Mirror, recreated account": {mirror, recreated, false},
		"access is not shared":      {alone, otherPod, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := provider(t, test.cfg)
			if same := p.ShareKey(web) == p.ShareKey(test.other); same != test.same {
				t.Errorf("shared = %v, want %v", same, test.same)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	_, access := target(t, token(issuedToken, inAnHour()))
	for name, change := range map[string]func(*tokenrequest.Config){
		"no access":           func(cfg *tokenrequest.Config) { cfg.Access = nil },
		"too short":           func(cfg *tokenrequest.Config) { cfg.Duration = 9 * time.Minute },
		"half an account":     func(cfg *tokenrequest.Config) { cfg.ServiceAccount.Name = "" },
		"create, no owner":    func(cfg *tokenrequest.Config) { cfg.Create, cfg.Owner = true, "" },
		"revocable, no owner": func(cfg *tokenrequest.Config) { cfg.Revocable, cfg.Owner = true, "" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(access)
			change(&cfg)
			if _, err := tokenrequest.New(cfg); err == nil {
				t.Error("no error")
			}
		})
	}
}
