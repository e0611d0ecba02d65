package spider_test

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
	"github.com/keyferry/keyferry/providers/spider"
)

const (
	password = "planted-password"
	token    = "planted-issued-token"
	answer   = `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"` + token + `"}}`
)

// fake is a CB-Spider with one cluster.
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
	username, given, _ := req.BasicAuth()
	switch {
	case f.down.Load():
		says(503, `{"message":"starting"}`)(w, req)
	case req.Method != http.MethodGet:
		f.t.Errorf("was asked with %s", req.Method)
	case username != "user" || given != password:
		says(401, `{"message":"Unauthorized"}`)(w, req)
	case req.FormValue("ConnectionName") == "":
		says(400, `{"message":"ConnectionName is required"}`)(w, req)
	case req.FormValue("ConnectionName") != "ncp & co":
		says(500, `{"message":"`+req.FormValue("ConnectionName")+` does not exist"}`)(w, req)
	case req.RequestURI != "/spider/cluster/tenant%2F1/token?ConnectionName=ncp+%26+co":
		says(500, `{"message":"no cluster at `+req.RequestURI+`"}`)(w, req)
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

func config(url string) spider.Config {
	return spider.Config{
		URL:        url,
		Cluster:    "tenant/1",
		Connection: "ncp & co",
		Secret:     "fleet/spider",
		Data:       map[string][]byte{"username": []byte("user"), "password": []byte(password)},
		Egress:     endpoint.Policy{AllowLocal: true},
	}
}

func provider(t *testing.T, cfg spider.Config) *tokenapi.Provider {
	t.Helper()
	p, err := spider.New(cfg)
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
	leak := `{"message":"you said ` + password + `"}`
	providertest.Run(t, providertest.Suite{
		New:      func(t *testing.T) providers.Provider { return provider(t, config(newFake(t).URL)) },
		NotFound: answering(says(404, leak)),
		Refused:  answering(says(401, leak)),
		Unavailable: answering(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Retry-After", "7")
			says(500, leak)(w, req)
		}),
		RetryAfter: 7 * time.Second,
		Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
			asked := make(chan struct{})
			return answering(func(_ http.ResponseWriter, req *http.Request) {
				close(asked)
				<-req.Context().Done()
			})(t), asked
		},
		Secrets: []string{password, token},
	})
}

func TestWhatItCannotDo(t *testing.T) {
	f := newFake(t)
	for name, test := range map[string]struct {
		change func(*spider.Config)
		want   error
		says   string
	}{
		"password":   {func(c *spider.Config) { c.Data["password"] = []byte("other") }, providers.ErrRefused, "check username and password in Secret fleet/spider"},
		"no user":    {func(c *spider.Config) { c.Secret, c.Data = "", nil }, providers.ErrRefused, "set spec.access.spider.credentials"},
		"connection": {func(c *spider.Config) { c.Connection = "aws" }, providers.ErrUnavailable, "CB-Spider at " + f.URL + " for a token of cluster tenant/1 of connection aws: 500 Internal Server Error: aws does not exist"},
		"cluster":    {func(c *spider.Config) { c.Cluster = "tenant/2" }, providers.ErrUnavailable, "no cluster at /spider/cluster/tenant%2F2/token"},
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

func TestOutageAndRecovery(t *testing.T) {
	f := newFake(t)
	p := provider(t, config(f.URL))
	for _, down := range []bool{false, true, false} {
		f.down.Store(down)
		got, err := p.Issue(t.Context(), providers.Request{})
		switch {
		case down && (!errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "starting")):
			t.Errorf("while it is down: %v", err)
		case !down && (err != nil || got.Token != token):
			t.Errorf("while it is up: %v", err)
		}
	}
	f.Close()
	if _, err := p.Issue(t.Context(), providers.Request{}); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("while it is away: %v", err)
	}
}
