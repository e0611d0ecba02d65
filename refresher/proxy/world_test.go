package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// world contains a proxy on loopback, and a target.
type world struct {
	t       *testing.T
	proxy   *Proxy
	address string
	renew   func()
	refused bool // what renew was called for last

	mu       sync.Mutex
	requests []*http.Request // that the target got
}

func newWorld(t *testing.T, handler http.HandlerFunc) (*world, *httptest.Server) {
	t.Helper()
	id, err := LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, renew: func() {}}
	w.proxy = New(Config{
		Cluster:  "TargetCluster fleet/tenant-1",
		Identity: id,
		Renew:    func(_ context.Context, refused bool) { w.refused = refused; w.renew() },
		Dial:     new(net.Dialer).DialContext,
		Log:      slog.New(slog.DiscardHandler),
	})
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.proxy.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	target := w.serve(handler)
	w.proxy.Set(w.target(target, "target-token"))
	return w, target
}

// serve runs an API server.
func (w *world) serve(handler http.HandlerFunc) *httptest.Server {
	return w.serveWith(handler, func(*http.Server) {})
}

func (w *world) serveWith(handler http.HandlerFunc, change func(*http.Server)) *httptest.Server {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests = append(w.requests, r)
		w.mu.Unlock()
		handler(rw, r)
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = discard()
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert}
	change(server.Config)
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return server
}

func (w *world) target(server *httptest.Server, token string) Target {
	u, err := url.Parse(server.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	target := Target{Server: u, CA: pemOf(server.Certificate()), Token: token, NotAfter: time.Now().Add(time.Hour)}
	if err := target.Check(); err != nil {
		w.t.Fatal(err)
	}
	return target
}

func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// seen returns the requests that the target received.
func (w *world) seen() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests
}

func (w *world) tls() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.proxy.config.Identity.CA())
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
}

// client returns an in-cluster client for HTTP/2, or for HTTP/1.1 only.
func (w *world) client(http2 bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: w.tls(), Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// request returns an authenticated request.
func (w *world) request(method, path string, body io.Reader) *http.Request {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+w.address+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+w.proxy.config.Identity.Token())
	return request
}

// get requests a path and returns status code and body.
func (w *world) get(client *http.Client, path string) (int, string) {
	w.t.Helper()
	return w.do(client, w.request(http.MethodGet, path, http.NoBody))
}

func (w *world) do(client *http.Client, request *http.Request) (int, string) {
	w.t.Helper()
	response, err := client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// protocols runs a test with clients of HTTP/1.1 and HTTP/2.
func protocols(t *testing.T, test func(t *testing.T, http2 bool)) {
	for name, http2 := range map[string]bool{"HTTP 1.1": false, "HTTP 2": true} {
		t.Run(name, func(t *testing.T) { test(t, http2) })
	}
}

// upgrading is the handler of a target that upgrades the connection and returns what it receives.
func upgrading(rw http.ResponseWriter, r *http.Request) {
	protocol := r.Header.Get("Upgrade")
	if !upgrades.has(protocol) {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	connection, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	fmt.Fprintf(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-Websocket-Protocol: %s\r\n\r\n",
		protocol, r.Header.Get("Sec-Websocket-Protocol"))
	_, _ = io.Copy(connection, buffered)
}

// wantUpgrade sends a request like kubectl exec to an upgrading target. It presents the token like
// a browser.
func (w *world) wantUpgrade(t *testing.T, protocol string) {
	t.Helper()
	connection, err := (&tls.Dialer{Config: w.tls()}).DialContext(t.Context(), "tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	token := base64.RawURLEncoding.EncodeToString([]byte(w.proxy.config.Identity.Token()))
	fmt.Fprintf(connection, "GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Protocol: v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.%s\r\n\r\n", protocol, token)
	reader := bufio.NewReader(connection)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-Websocket-Protocol") != "v5.channel.k8s.io" {
		t.Fatalf("%s %v", response.Status, response.Header)
	}
	for i := range 3 {
		line := fmt.Sprintf("line %d\n", i)
		_, _ = io.WriteString(connection, line)
		if got, err := reader.ReadString('\n'); got != line {
			t.Fatalf("%q came back as %q: %v", line, got, err)
		}
	}
}
