package tokenapi_test

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/tokenapi"
	"github.com/keyferry/keyferry/providers"
)

func data(pairs ...string) map[string][]byte {
	d := map[string][]byte{}
	for i := 0; i+1 < len(pairs); i += 2 {
		d[pairs[i]] = []byte(pairs[i+1])
	}
	return d
}

func config(server string) tokenapi.Config {
	return tokenapi.Config{
		Name:    "Example",
		Subject: "cluster c",
		Field:   "spec.access.example",
		URL:     server,
		Path:    []string{"clusters", "c", "token"},
		Secret:  "fleet/example",
		Data:    data("username", "user", "password", planted),
		Egress:  endpoint.Policy{AllowLocal: true},
		Now:     func() time.Time { return now },
	}
}

func serve(t *testing.T, cfg tokenapi.Config) *tokenapi.Provider {
	t.Helper()
	p, err := tokenapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newServer returns a server that answers with handle.
func newServer(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s
}

func says(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func TestRequest(t *testing.T) {
	for name, test := range map[string]struct {
		base   string // added to the URL
		path   []string
		query  url.Values
		data   map[string][]byte
		target string // wanted
		header string // wanted
	}{
		"user":            {path: []string{"a", "b"}, data: data("username", "user", "password", "p:w"), target: "/a/b", header: "Basic dXNlcjpwOnc="},
		"token":           {path: []string{"a"}, data: data("token", "t"), target: "/a", header: "Bearer t"},
		"nobody":          {path: []string{"a"}, target: "/a"},
		"slash at end":    {base: "/", path: []string{"a"}, target: "/a"},
		"path":            {base: "/behind/", path: []string{"a"}, target: "/behind/a"},
		"escaped path":    {base: "/a%2Fb/", path: []string{"c"}, target: "/a%2Fb/c"},
		"escaped segment": {path: []string{"a/../b c?d#e%2F", "ü"}, target: "/a%2F..%2Fb%20c%3Fd%23e%252F/%C3%BC"},
		"escaped query":   {path: []string{"a"}, query: url.Values{"x": {"a&b=c #d+e"}}, target: "/a?x=a%26b%3Dc+%23d%2Be"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, func(w http.ResponseWriter, req *http.Request) {
				if req.Method != http.MethodGet || req.RequestURI != test.target || req.Header.Get("Authorization") != test.header || req.Header.Get("Accept") != "application/json" {
					t.Errorf("was asked %s %s with %q", req.Method, req.RequestURI, req.Header)
				}
				says(200, withToken("t"))(w, req)
			})
			cfg := config(s.URL + test.base)
			cfg.Path, cfg.Query, cfg.Data = test.path, test.query, test.data
			if got, err := serve(t, cfg).Issue(t.Context(), providers.Request{}); err != nil || got.Token != "t" {
				t.Errorf("got %q, %v", got.Token, err)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	long := strings.Repeat("ä", 1000)
	leak := `{"message":"no such user: user:` + planted + `, dXNlcjpwbGFudGVkLXNlY3JldA== [end]"}`
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   error
		says   string
		retry  time.Duration
	}{
		"400":               {says(400, `{"message":"ConnectionName is missing"}`), providers.ErrRefused, "400 Bad Request: ConnectionName is missing", 0},
		"401":               {says(401, leak), providers.ErrRefused, "check username and password in Secret fleet/example", 0},
		"403":               {says(403, leak), providers.ErrRefused, "403 Forbidden: no such user: user:[credential], [credential] [end]", 0},
		"404":               {says(404, `{"message":"no namespace ns"}`), providers.ErrNotFound, "404 Not Found: no namespace ns: check spec.access.example", 0},
		"404 of a path":     {says(404, "404 page not found"), providers.ErrNotFound, "the path of its url", 0},
		"408":               {says(408, ""), providers.ErrUnavailable, "408 Request Timeout", 0},
		"429":               {says(429, `{"message":"slow down"}`, "Retry-After", "7"), providers.ErrUnavailable, "slow down", 7 * time.Second},
		"500":               {says(500, `{"message":"cluster c does not exist"}`), providers.ErrUnavailable, "500 Internal Server Error: cluster c does not exist", 0},
		"502 in HTML":       {says(502, "<html>"+planted), providers.ErrUnavailable, "502 Bad Gateway", 0},
		"503 until a date":  {says(503, "", "Retry-After", "Sun, 01 Mar 2026 12:01:00 GMT"), providers.ErrUnavailable, "503", time.Minute},
		"503, date is past": {says(503, "", "Retry-After", "Sun, 01 Mar 2026 11:00:00 GMT"), providers.ErrUnavailable, "503", 0},
		"503, no date":      {says(503, "", "Retry-After", "soon"), providers.ErrUnavailable, "503", 0},
		"message of lines":  {says(500, `{"message":"a\n\u001b[31m\tb\u0000"}`), providers.ErrUnavailable, "Error: a [31m b", 0},
		"long message":      {says(500, `{"message":"`+long+`"}`), providers.ErrUnavailable, "ää…", 0},
		"message no text":   {says(500, `{"message":{"a":1}}`), providers.ErrUnavailable, "500 Internal Server Error", 0},
		"redirect":          {http.RedirectHandler("http://203.0.113.7/?"+planted, http.StatusFound).ServeHTTP, providers.ErrRefused, "set spec.access.example.url to the address to which the server redirects", 0},
		"no content":        {says(204, ""), providers.ErrRefused, "204 No Content", 0},
		"portal":            {says(200, "<html>"+planted), providers.ErrUnavailable, "cannot be read as an ExecCredential", 0},
		"empty token":       {says(200, withToken("")), providers.ErrRefused, "has no token", 0},
		"too long":          {says(200, withToken(strings.Repeat("a", 256<<10))), providers.ErrUnavailable, "longer than 256 KiB", 0},
		"torn answer":       {says(200, withToken(planted), "Content-Length", "100000"), providers.ErrUnavailable, "EOF", 0},
		"no answer":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, providers.ErrUnavailable, "EOF", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, test.handle)
			_, err := serve(t, config(s.URL)).Issue(t.Context(), providers.Request{})
			if !errors.Is(err, test.want) || providers.RetryAfter(err) != test.retry {
				t.Fatalf("got %v (again after %v), want that it is %q (%v)", err, providers.RetryAfter(err), test.want, test.retry)
			}
			for _, want := range []string{test.says, "asking Example at " + s.URL + " for a token of cluster c"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), planted) || len(err.Error()) > 700 {
				t.Errorf("a secret, or too much, in %q", err)
			}
		})
	}
}

func TestMendOf401(t *testing.T) {
	s := newServer(t, says(401, ""))
	for want, change := range map[string]func(*tokenapi.Config){
		"set spec.access.example.credentials":                          func(c *tokenapi.Config) { c.Secret, c.Data = "", nil },
		"renew the token in Secret fleet/example":                      func(c *tokenapi.Config) { c.Data = data("token", planted) },
		"add username and password, or token, to Secret fleet/example": func(c *tokenapi.Config) { c.Data = data("ca.crt", certificate(t)) },
		"check username and password in Secret fleet/example":          func(*tokenapi.Config) {},
	} {
		cfg := config(s.URL)
		change(&cfg)
		if _, err := serve(t, cfg).Issue(t.Context(), providers.Request{}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want that it says %q", err, want)
		}
	}
}

// certificate is some certificate, in PEM.
func certificate(t *testing.T) string {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return pemOf(s)
}

func pemOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(says(200, withToken("t")))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)

	cfg := config(s.URL)
	_, err := serve(t, cfg).Issue(t.Context(), providers.Request{})
	if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "check ca.crt in the Secret of spec.access.example.credentials") {
		t.Errorf("an unknown authority: %v", err)
	}
	cfg.Data["ca.crt"] = []byte(pemOf(s))
	p := serve(t, cfg)
	if got, err := p.Issue(t.Context(), providers.Request{}); err != nil || got.Token != "t" {
		t.Errorf("its own authority: %q, %v", got.Token, err)
	}
	if p.Warning() != "" {
		t.Errorf("warns %q", p.Warning())
	}
}

func TestPlainHTTPWarns(t *testing.T) {
	if got := serve(t, config("http://example.com:1024")).Warning(); !strings.Contains(got, "spec.access.example.url is plain http") || !strings.Contains(got, "use https") {
		t.Errorf("warns %q", got)
	}
}

func TestLoopbackIsRefused(t *testing.T) {
	cfg := config(newServer(t, func(http.ResponseWriter, *http.Request) { t.Error("was asked") }).URL)
	cfg.Egress = endpoint.Policy{}
	if _, err := serve(t, cfg).Issue(t.Context(), providers.Request{}); !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v", err)
	}
}

func TestGivesUp(t *testing.T) {
	s := newServer(t, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	p := serve(t, config(s.URL))
	p.GiveUpAfter(time.Millisecond)
	if _, err := p.Issue(t.Context(), providers.Request{}); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "gave up waiting") {
		t.Errorf("got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*tokenapi.Config)
		says   string
	}{
		"no URL":                 {func(c *tokenapi.Config) { c.URL = "" }, "spec.access.example.url is not a URL"},
		"no scheme":              {func(c *tokenapi.Config) { c.URL = "example.com:1024" }, "spec.access.example.url is not a URL"},
		"other scheme":           {func(c *tokenapi.Config) { c.URL = "ftp://example.com" }, `has the scheme "ftp"`},
		"password in URL":        {func(c *tokenapi.Config) { c.URL = "http://u:" + planted + "@example.com" }, "must have no user"},
		"malformed URL":          {func(c *tokenapi.Config) { c.URL = "http://u:" + planted + "@[" }, "spec.access.example.url is not a URL"},
		"query in URL":           {func(c *tokenapi.Config) { c.URL += "?" + planted }, "must have no user, query"},
		"empty name":             {func(c *tokenapi.Config) { c.Path[1] = "" }, `spec.access.example: "" is not a valid name`},
		"way up":                 {func(c *tokenapi.Config) { c.Path[1] = ".." }, `spec.access.example: ".." is not a valid name`},
		"no keys":                {func(c *tokenapi.Config) { c.Data = data("user", planted) }, "none of the keys"},
		"password alone":         {func(c *tokenapi.Config) { delete(c.Data, "username") }, "contains only one of username and password"},
		"user alone":             {func(c *tokenapi.Config) { delete(c.Data, "password") }, "contains only one of username and password"},
		"user and token":         {func(c *tokenapi.Config) { c.Data["token"] = []byte(planted) }, "remove one of them"},
		"password with line end": {func(c *tokenapi.Config) { c.Data["password"] = []byte(planted + "\n") }, "key password contains a newline"},
		"user with line end":     {func(c *tokenapi.Config) { c.Data["username"] = []byte("user\n") }, "key username contains a newline"},
		"user with colon":        {func(c *tokenapi.Config) { c.Data["username"] = []byte("a:b") }, "colon"},
		"token with line end":    {func(c *tokenapi.Config) { c.Data = data("token", planted+"\n") }, "key token contains spaces"},
		"no certificate":         {func(c *tokenapi.Config) { c.Data["ca.crt"] = []byte(planted) }, "key ca.crt: "},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config("http://example.com")
			test.change(&cfg)
			_, err := tokenapi.New(cfg)
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it says %q", err, test.says)
			}
		})
	}
}
