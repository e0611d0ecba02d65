package tumblebug_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/tokenapi"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/providertest"
	"github.com/keyferry/keyferry/providers/tumblebug"
)

const (
	accessToken = "planted-access-token"
	issuedToken = "planted-issued-token"
	answer      = `{"execCredential":{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"` + issuedToken + `"}}}`
)

// fake is a CB-Tumblebug with one namespace and cluster.
type fake struct {
	t *testing.T
	*httptest.Server
	down atomic.Bool
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ns, cluster, _ := strings.Cut(strings.TrimPrefix(req.RequestURI, "/tumblebug/ns/"), "/k8sCluster/")
	switch {
	case f.down.Load():
		says(503, `{"message":"starting"}`)(w, req)
	case req.Method != http.MethodGet:
		f.t.Errorf("was asked with %s", req.Method)
	case req.Header.Get("Authorization") != "Bearer "+accessToken:
		says(401, `{"message":"invalid or expired jwt"}`)(w, req)
	case ns != "team%20a":
		says(404, `{"message":"the namespace `+ns+` does not exist"}`)(w, req)
	case cluster != "tenant%2F1/token":
		says(500, `{"message":"no cluster `+cluster+`"}`)(w, req)
	default:
		says(200, answer)(w, req)
	}
}

func says(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func config(url string) tumblebug.Config {
	return tumblebug.Config{
		URL:       url,
		Namespace: "team a",
		Cluster:   "tenant/1",
		Secret:    "fleet/tumblebug",
		Data:      map[string][]byte{"token": []byte(accessToken)},
		Egress:    endpoint.Policy{AllowLocal: true},
	}
}

func provider(t *testing.T, cfg tumblebug.Config) *tokenapi.Provider {
	t.Helper()
	p, err := tumblebug.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConformance(t *testing.T) {
	answering := func(handle http.HandlerFunc) func(*testing.T) providers.Provider {
		return func(t *testing.T) providers.Provider {
			s := httptest.NewServer(handle)
			t.Cleanup(s.Close)
			return provider(t, config(s.URL))
		}
	}
	leak := `{"message":"you said Bearer ` + accessToken + `"}`
	providertest.Run(t, providertest.Suite{
		New:      func(t *testing.T) providers.Provider { return provider(t, config(newFake(t).URL)) },
		NotFound: answering(says(404, leak)),
		Refused:  answering(says(403, leak)),
		Unavailable: answering(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Retry-After", "7")
			says(429, leak)(w, req)
		}),
		RetryAfter: 7 * time.Second,
		Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
			asked := make(chan struct{})
			return answering(func(_ http.ResponseWriter, req *http.Request) {
				close(asked)
				<-req.Context().Done()
			})(t), asked
		},
		Secrets: []string{accessToken, issuedToken},
	})
}

func TestWhatItCannotDo(t *testing.T) {
	f := newFake(t)
	for name, test := range map[string]struct {
		change func(*tumblebug.Config)
		want   error
		says   string
	}{
		"token": {func(c *tumblebug.Config) { c.Data["token"] = []byte("other") }, providers.ErrRefused, "renew the token in Secret fleet/tumblebug"},
		"user": {func(c *tumblebug.Config) {
			c.Data = map[string][]byte{"username": []byte("u"), "password": []byte("p")}
		}, providers.ErrRefused, "check username and password in Secret fleet/tumblebug"},
		"namespace": {func(c *tumblebug.Config) { c.Namespace = "team b" }, providers.ErrNotFound, "CB-Tumblebug at " + f.URL + " for a token of cluster tenant/1 in namespace team b: 404 Not Found: the namespace team%20b does not exist"},
		"cluster":   {func(c *tumblebug.Config) { c.Cluster = "tenant/2" }, providers.ErrUnavailable, "500 Internal Server Error: no cluster tenant%2F2/token"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(f.URL)
			test.change(&cfg)
			if _, err := provider(t, cfg).Issue(t.Context(), providers.Request{}); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want that it is %q and says %q", err, test.want, test.says)
			}
		})
	}
}

func TestCredentialHolder(t *testing.T) {
	var sent []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		sent = append(sent, strings.Join(req.Header.Values("X-Credential-Holder"), " and "))
		says(200, answer)(w, req)
	}))
	t.Cleanup(s.Close)
	for _, holder := range []string{"", "team-a"} {
		cfg := config(s.URL)
		cfg.CredentialHolder = holder
		if _, err := provider(t, cfg).Issue(t.Context(), providers.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(sent) != 2 || sent[0] != "" || sent[1] != "team-a" {
		t.Errorf("sent the holders %q", sent)
	}
	cfg := config(s.URL)
	cfg.CredentialHolder = "a\r\nb: c"
	if _, err := tumblebug.New(cfg); err == nil || !strings.Contains(err.Error(), "spec.access.tumblebug.credentialHolder") {
		t.Errorf("got %v, want an error that names the field", err)
	}
}

func TestOutageAndRecovery(t *testing.T) {
	f := newFake(t)
	p := provider(t, config(f.URL))
	for _, down := range []bool{false, true, false} {
		f.down.Store(down)
		got, err := p.Issue(t.Context(), providers.Request{})
		switch {
		case down && (!errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "starting")):
			t.Errorf("while it is down: %v", err)
		case !down && (err != nil || got.Token != issuedToken):
			t.Errorf("while it is up: %v", err)
		}
	}
	f.Close()
	if _, err := p.Issue(t.Context(), providers.Request{}); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("while it is away: %v", err)
	}
}
