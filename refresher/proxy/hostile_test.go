package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestHostile checks that nothing is sent to the target without the token, and with the token
// nothing is sent elsewhere.
func TestHostile(t *testing.T) {
	const token, subprotocol = "{token}", "base64url.bearer.authorization.k8s.io.{base64}"
	refused := map[string]struct {
		request string
		code    int
	}{
		"no token":              {"GET /api HTTP/1.1\r\nHost: x\r\n\r\n", 401},
		"wrong token":           {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n", 401},
		"empty token":           {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \r\n\r\n", 401},
		"prefix of the token":   {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "x\r\n\r\n", 401},
		"basic":                 {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + token + "\r\n\r\n", 401},
		"two, one right":        {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nAuthorization: Bearer other\r\n\r\n", 401},
		"two, joined":           {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + ", Bearer other\r\n\r\n", 401},
		"target's token":        {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer target-token\r\n\r\n", 401},
		"in the query":          {"GET /api?access_token=" + token + " HTTP/1.1\r\nHost: x\r\n\r\n", 401},
		"as a proxy's":          {"GET /api HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer " + token + "\r\n\r\n", 401},
		"wrong subprotocol":     {"GET /api HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.d3Jvbmc\r\n\r\n", 401},
		"subprotocol, other":    {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer other\r\nSec-WebSocket-Protocol: " + subprotocol + "\r\n\r\n", 401},
		"subprotocol, twice":    {"GET /api HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: " + subprotocol + ", " + subprotocol + "\r\n\r\n", 401},
		"upgrade":               {"GET /api HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 401},
		"upgrade to HTTP/2":     {"GET /api HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 401},
		"preface of HTTP/2":     {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 401},
		"HTTP/1.0":              {"GET /api HTTP/1.0\r\n\r\n", 401},
		"folded":                {"GET /api HTTP/1.1\r\nHost: x\r\nX: y\r\n Authorization: Bearer " + token + "\r\n\r\n", 401},
		"absolute form":         {"GET https://other.example.com/api HTTP/1.1\r\nHost: other.example.com\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"absolute, no host":     {"GET http:///api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"CONNECT":               {"CONNECT other.example.com:443 HTTP/1.1\r\nHost: other.example.com:443\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"CONNECT with a path":   {"CONNECT /api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"asterisk":              {"OPTIONS * HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"out of the path":       {"GET /../c-2/api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"out, encoded":          {"GET /a/%2e%2E/%2e./api HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"out, slashes encoded":  {"GET /a%2f..%2f..%2fc-2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"length and chunks":     {"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: identity\r\n\r\nbody", 501},
		"two lengths":           {"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody", 400},
		"space before a colon":  {"GET /api HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer " + token + "\r\n\r\n", 400},
		"two hosts":             {"GET /api HTTP/1.1\r\nHost: x\r\nHost: y\r\nAuthorization: Bearer " + token + "\r\n\r\n", 400},
		"header without an end": {"GET /api HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n", 431},
	}
	w, _ := newWorld(t, func(http.ResponseWriter, *http.Request) {})
	for name, test := range refused {
		t.Run(name, func(t *testing.T) {
			right := w.proxy.config.Identity.Token()
			response, body := w.raw(t, strings.NewReplacer(token, right, "{base64}", base64.RawURLEncoding.EncodeToString([]byte(right))).Replace(test.request))
			if response.StatusCode != test.code {
				t.Errorf("%s: %s", response.Status, body)
			}
			if strings.Contains(body, right) {
				t.Errorf("the answer repeats the token: %s", body)
			}
			if seen := w.seen(); len(seen) > 0 {
				t.Fatalf("it got to the target: %+v", seen[0])
			}
		})
	}
}

// TestSmuggling checks that the target sees only the target's credential, whatever a client with
// the token sends.
func TestSmuggling(t *testing.T) {
	tests := map[string]string{
		"Connection names Authorization": "Connection: Authorization, Impersonate-User, Host\r\n",
		"other host":                     "X-Forwarded-Host: other.example.com\r\nForwarded: host=other.example.com\r\nX-Forwarded-Proto: http\r\n",
		"subprotocols":                   "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.b3RoZXI\r\n",
		"proxy's":                        "Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n",
		"h2c":                            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"several upgrades":               "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
		"length and chunks":              "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n",
		"length of the next one":         "Content-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n",
		"trailer, not announced":         "Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer other\r\n",
		"trailer":                        "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n0\r\nAuthorization: Bearer other\r\n",
	}
	for name, headers := range tests {
		t.Run(name, func(t *testing.T) {
			w, target := newWorld(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
			response, body := w.raw(t, "GET /api HTTP/1.1\r\nHost: other.example.com\r\nAuthorization: bearer "+w.proxy.config.Identity.Token()+"\r\n"+headers+"\r\n")
			if response.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", response.Status, body)
			}
			seen := w.seen()
			if len(seen) != 1 {
				t.Fatalf("%d requests got to the target", len(seen))
			}
			got := seen[0]
			if values := got.Header.Values("Authorization"); len(values) != 1 || values[0] != "Bearer target-token" {
				t.Errorf("Authorization is %q", values)
			}
			if got.Host != target.Listener.Addr().String() {
				t.Errorf("the host is %s", got.Host)
			}
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-For", "Forwarded", "Sec-Websocket-Protocol", "Proxy-Authorization", "Upgrade", "Http2-Settings"} {
				if value := got.Header.Get(name); value != "" {
					t.Errorf("%s is %q", name, value)
				}
			}
			if len(got.Trailer) > 0 {
				t.Error("there is a trailer")
			}
		})
	}
}

// raw sends bytes and reads one response.
func (w *world) raw(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	connection, err := (&tls.Dialer{Config: w.tls()}).DialContext(t.Context(), "tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	go func() { _, _ = io.WriteString(connection, request) }()
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response, string(body)
}
