package dashboard

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// guard lets only the user's browser in. Other pages in this browser, other programs and other
// users of this machine can send requests to a loopback address, too.
//
//   - The Host must be a loopback name, so a page whose name is rebound to 127.0.0.1 gets nothing.
//   - The first URL has a random token. It is valid once, so it is worthless in a history.
//   - Afterwards a cookie is the credential. Browsers send cookies to all ports of a host. So the
//     cookie is limited to a random path, which no other server on this machine has.
//   - Requests from other origins are rejected, also from other ports of this host.
type guard struct {
	hosts   []string
	base    string // path of everything, such as "/3f9a…/"
	session string
	refuse  func(w http.ResponseWriter, code int, head, text string)
	welcome func(w http.ResponseWriter, next string)

	mu    sync.Mutex
	token string // empty after its use
}

const cookieName = "keyferry-dashboard"

// newGuard returns a guard for a server at a port of the loopback address.
func newGuard(port string) *guard {
	return &guard{
		hosts: []string{"127.0.0.1:" + port, "localhost:" + port},
		base:  "/" + strings.ToLower(rand.Text()) + "/", session: rand.Text(), token: rand.Text(),
	}
}

// firstURL is the URL to open. It works once.
func (g *guard) firstURL() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return "http://" + g.hosts[0] + g.base + "open?token=" + g.token
}

// contentSecurityPolicy allows the program's own files, and nothing inline.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func setHeaders(header http.Header) {
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("X-Content-Type-Options", "nosniff")
}

// protect calls next for requests of the user's browser, with the path below base.
func (g *guard) protect(next http.Handler) http.Handler {
	below := http.StripPrefix(strings.TrimSuffix(g.base, "/"), next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		switch {
		case !slices.Contains(g.hosts, r.Host):
			g.refuse(w, http.StatusMisdirectedRequest, "Wrong address", "Use the link that keyferry dashboard prints.")
		case r.URL.Path == "/favicon.ico":
			w.WriteHeader(http.StatusNoContent) // pages with an error have no icon
		case !strings.HasPrefix(r.URL.Path, g.base):
			g.refuse(w, http.StatusNotFound, "Not found", "Use the link that keyferry dashboard prints.")
		case r.URL.Path == g.base+"open" && r.Method == http.MethodGet:
			g.open(w, r)
		case !g.isOwnOrigin(r):
			g.refuse(w, http.StatusForbidden, "Forbidden", "Another page sent this request.")
		case !g.hasSession(r):
			g.refuse(w, http.StatusUnauthorized, "Not signed in", "Use the link that keyferry dashboard prints. If you used it already, run the command again.")
		default:
			below.ServeHTTP(w, r)
		}
	})
}

// open exchanges the token for the cookie.
func (g *guard) open(w http.ResponseWriter, r *http.Request) {
	if !g.hasSession(r) && !g.redeem(r.URL.Query().Get("token")) {
		g.refuse(w, http.StatusForbidden, "This link is not valid any more", "The link works once. Run keyferry dashboard again for a new one.")
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // loopback has no TLS
		Name: cookieName, Value: g.session, Path: g.base, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	// Not a redirect: browsers would send it without the cookie if the link is on another page.
	g.welcome(w, g.base)
}

// redeem reports whether a token is the valid one, which it is not again.
func (g *guard) redeem(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == "" || !isEqual(token, g.token) {
		return false
	}
	g.token = ""
	return true
}

func (g *guard) hasSession(r *http.Request) bool {
	cookie, err := r.Cookie(cookieName)
	return err == nil && isEqual(cookie.Value, g.session)
}

// isOwnOrigin reports whether a page of this server, or the user, sent the request. Requests that
// change something must say so.
func (g *guard) isOwnOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Method == http.MethodGet || r.Method == http.MethodHead
	}
	return origin == "http://"+r.Host
}

// isEqual takes the same time for all wrong values.
func isEqual(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
