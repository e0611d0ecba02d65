package dashboard

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// newGuarded returns a guard in front of a handler that answers "inside" and its path.
func newGuarded() (*guard, http.Handler) {
	g := newGuard("8150")
	g.refuse = func(w http.ResponseWriter, code int, head, _ string) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, head)
	}
	g.welcome = func(w http.ResponseWriter, next string) { _, _ = io.WriteString(w, "welcome to "+next) }
	handler := g.protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "inside "+r.URL.Path) }))
	return g, handler
}

func send(handler http.Handler, method, target string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, http.NoBody)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// signIn follows the first link, and returns what adds the session to a request.
func signIn(t testing.TB, g *guard, handler http.Handler) func(*http.Request) {
	t.Helper()
	w := send(handler, http.MethodGet, g.firstURL(), nil)
	cookies := w.Result().Cookies()
	if w.Code != http.StatusOK || len(cookies) != 1 {
		t.Fatalf("the first link: %d, cookies %v", w.Code, cookies)
	}
	return func(r *http.Request) { r.AddCookie(cookies[0]) }
}

func TestSession(t *testing.T) {
	g, handler := newGuarded()
	page := "http://127.0.0.1:8150" + g.base + "access"
	if w := send(handler, http.MethodGet, page, nil); w.Code != http.StatusUnauthorized {
		t.Errorf("without a session: %d", w.Code)
	}
	if w := send(handler, http.MethodGet, page, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookieName, Value: "guess"}) }); w.Code != http.StatusUnauthorized {
		t.Errorf("with another session: %d", w.Code)
	}
	if w := send(handler, http.MethodGet, strings.Replace(g.firstURL(), g.token, "guess", 1), nil); w.Code != http.StatusForbidden || len(w.Result().Cookies()) > 0 {
		t.Errorf("with another token: %d", w.Code)
	}
	session := signIn(t, g, handler)
	for _, host := range []string{"127.0.0.1:8150", "localhost:8150"} {
		if w := send(handler, http.MethodGet, "http://"+host+g.base+"access", session); w.Code != http.StatusOK || w.Body.String() != "inside /access" {
			t.Errorf("%s: %d %s", host, w.Code, w.Body)
		}
	}
}

// TestLinkWorksOnce: a link in a history, in the list of processes or in a log is worthless.
func TestLinkWorksOnce(t *testing.T) {
	g, handler := newGuarded()
	link := g.firstURL()
	session := signIn(t, g, handler)
	if w := send(handler, http.MethodGet, link, nil); w.Code != http.StatusForbidden || len(w.Result().Cookies()) > 0 {
		t.Errorf("the second use by another client: %d, cookies %v", w.Code, w.Result().Cookies())
	}
	if w := send(handler, http.MethodGet, g.firstURL(), nil); w.Code != http.StatusForbidden {
		t.Errorf("an empty token: %d", w.Code)
	}
	if w := send(handler, http.MethodGet, link, session); w.Code != http.StatusOK {
		t.Errorf("the second use by the same browser: %d", w.Code)
	}
}

// TestCookie: scripts cannot read it, other sites cannot use it, and other servers of this machine
// do not receive it: browsers send cookies to all ports of a host.
func TestCookie(t *testing.T) {
	g, handler := newGuarded()
	cookie := send(handler, http.MethodGet, g.firstURL(), nil).Result().Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Domain != "" {
		t.Errorf("got %s", cookie)
	}
	if secret := strings.Trim(cookie.Path, "/"); cookie.Path != g.base || len(secret) < 20 {
		t.Errorf("its path is %q", cookie.Path)
	}
	if cookie.Value == g.token || strings.Contains(g.firstURL(), cookie.Value) {
		t.Error("the session is in the link")
	}
}

// TestDNSRebinding: a page whose name resolves to 127.0.0.1 is of this origin for the browser.
func TestDNSRebinding(t *testing.T) {
	g, handler := newGuarded()
	session := signIn(t, g, handler)
	for _, host := range []string{"attacker.example:8150", "attacker.example", "127.0.0.1", "127.0.0.1:80", "localhost.attacker.example:8150", "[::1]:8150", ""} {
		for _, path := range []string{g.base, g.base + "open?token=" + g.token, "/"} {
			w := send(handler, http.MethodGet, path, func(r *http.Request) {
				session(r)
				r.Host = host
			})
			if w.Code != http.StatusMisdirectedRequest {
				t.Errorf("host %q, %s: %d %s", host, path, w.Code, w.Body)
			}
		}
	}
}

// TestCrossOrigin: other pages cannot use the session, also not those at another port of the host,
// for which browsers send the cookie.
func TestCrossOrigin(t *testing.T) {
	g, handler := newGuarded()
	session := signIn(t, g, handler)
	own := "http://127.0.0.1:8150"
	for name, test := range map[string]struct {
		method  string
		headers map[string]string
		want    int
	}{
		"user types":            {http.MethodGet, map[string]string{"Sec-Fetch-Site": "none"}, http.StatusOK},
		"own link":              {http.MethodGet, map[string]string{"Sec-Fetch-Site": "same-origin"}, http.StatusOK},
		"own form":              {http.MethodPost, map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": own}, http.StatusOK},
		"own form, old browser": {http.MethodPost, map[string]string{"Origin": own}, http.StatusOK},
		"form without origin":   {http.MethodPost, nil, http.StatusForbidden},
		"sandboxed form":        {http.MethodPost, map[string]string{"Origin": "null"}, http.StatusForbidden},
		"other port":            {http.MethodGet, map[string]string{"Sec-Fetch-Site": "same-site"}, http.StatusForbidden},
		"other port, fetch":     {http.MethodGet, map[string]string{"Origin": "http://127.0.0.1:9999"}, http.StatusForbidden},
		"other port, form":      {http.MethodPost, map[string]string{"Origin": "http://127.0.0.1:9999"}, http.StatusForbidden},
		"other site":            {http.MethodGet, map[string]string{"Sec-Fetch-Site": "cross-site"}, http.StatusForbidden},
		"other scheme":          {http.MethodPost, map[string]string{"Origin": "https://127.0.0.1:8150"}, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			w := send(handler, test.method, own+g.base+"pods/app/web/check", func(r *http.Request) {
				session(r)
				for key, value := range test.headers {
					r.Header.Set(key, value)
				}
			})
			if w.Code != test.want {
				t.Errorf("got %d", w.Code)
			}
		})
	}
}

// TestOutside: without the random path, a client does not even see the files of the page.
func TestOutside(t *testing.T) {
	g, handler := newGuarded()
	session := signIn(t, g, handler)
	for _, path := range []string{"/", "/access", "/assets/page.js", strings.TrimSuffix(g.base, "/"), "/.." + g.base} {
		if w := send(handler, http.MethodGet, "http://127.0.0.1:8150"+path, session); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// TestHeaders: each answer has them, also those with errors.
func TestHeaders(t *testing.T) {
	g, handler := newGuarded()
	for _, target := range []string{g.firstURL(), "http://127.0.0.1:8150" + g.base, "http://127.0.0.1:8150/", "http://attacker.example/"} {
		header := send(handler, http.MethodGet, target, nil).Header()
		for key, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"Referrer-Policy":         "same-origin", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
			"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := header.Get(key); got != want {
				t.Errorf("%s: %s is %q", target, key, got)
			}
		}
	}
}

// TestLoopbackOnly: no other machine can connect.
func TestLoopbackOnly(t *testing.T) {
	d := newTestDashboard(t, nil)
	s, err := d.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.listener.Close()
	link, err := url.Parse(s.URL())
	if err != nil || link.Hostname() != "127.0.0.1" || !strings.HasPrefix(s.listener.Addr().String(), "127.0.0.1:") {
		t.Errorf("it listens at %s, and the link is %s", s.listener.Addr(), link)
	}
}
