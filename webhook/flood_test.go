package webhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/internal/serving"
)

// serveReviews serves a Handler like the program, on all loopback addresses. change, if not nil,
// changes the server's configuration.
func serveReviews(t *testing.T, h http.Handler, change func(*ServerConfig)) (port string, roots *x509.CertPool) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", ":0")
	must(t, err)
	_, port, err = net.SplitHostPort(listener.Addr().String())
	must(t, err)
	return port, serveReviewsAt(t, listener, h, change).RootCAs
}

// serveReviewsAt returns the configuration of a client that verifies the server.
func serveReviewsAt(t *testing.T, listener net.Listener, h http.Handler, change func(*ServerConfig)) *tls.Config {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	cfg := ServerConfig{
		Listener: listener, Handler: h, Log: logr.Discard(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &donor.TLS.Certificates[0], nil },
	}
	if change != nil {
		change(&cfg)
	}
	server, err := NewServer(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
	})
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	return &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12}
}

// clientAt returns a client with its own source address.
func clientAt(t *testing.T, address string, roots *x509.CertPool) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// held is a body whose last byte never arrives.
type held struct {
	left int
	end  <-chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	if h.left == 0 {
		<-h.end
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(p), h.left)
	h.left -= n
	clear(p[:n])
	return n, nil
}

// TestHostileClientHoldsNobodyUp: a client without credentials sends bodies without their last
// bytes, over as many connections as it gets. It can use only a part of the memory, and an API
// server is served meanwhile.
func TestHostileClientHoldsNobodyUp(t *testing.T) {
	h := testHandler(t, nil)
	h.bodyTimeout = maxRequestTimeout // so that nothing ends by itself
	port, roots := serveReviews(t, h, nil)
	const requests, size = 60, 6 << 20
	end, done := make(chan struct{}), make(chan struct{}, requests)
	hostile := clientAt(t, "127.0.0.2", roots)
	for range requests {
		go func() {
			defer func() { done <- struct{}{} }()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://127.0.0.1:"+port+PathPods+"?timeout=30s", &held{left: size - 1, end: end})
			if err != nil {
				t.Error(err)
				return
			}
			request.ContentLength = size
			if response, err := hostile.Do(request); err == nil {
				_ = response.Body.Close()
			}
		}()
	}
	defer func() {
		close(end)
		for range requests {
			<-done
		}
	}()
	if !eventually(func() bool {
		return h.memory.Held("127.0.0.2") == maxMemoryPerAddress/(size+requestMemory)*(size+requestMemory)
	}) {
		t.Fatalf("the client holds %d bytes", h.memory.Held("127.0.0.2"))
	}
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	if memory.HeapAlloc > 128<<20 {
		t.Errorf("the heap is %d MiB", memory.HeapAlloc>>20)
	}

	apiServer := clientAt(t, "127.0.0.3", roots)
	body := reviewOf(t, metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, running("web", pod("shop", annotated("cluster", "fleet/tenant-1"))))
	for range 100 {
		response, err := apiServer.Post("https://127.0.0.1:"+port+PathPods+"?timeout=10s", "application/json", bytes.NewReader(body))
		must(t, err)
		answer, err := io.ReadAll(response.Body)
		must(t, err)
		_ = response.Body.Close()
		if !strings.Contains(string(answer), `"allowed":true`) {
			t.Fatalf("%s: %.300s", response.Status, answer)
		}
	}
}

// memoryListener accepts connections that stay in the process. In a synctest bubble, no timeout of
// the server expires while a goroutine works, even on a slow machine.
type memoryListener struct {
	connections chan net.Conn
	closed      chan struct{}
	close       func()
}

func newMemoryListener() *memoryListener {
	l := &memoryListener{connections: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case connection := <-l.connections:
		return connection, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error   { l.close(); return nil }
func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{} }

// from returns a dialer with this source address.
func (l *memoryListener) from(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		l.connections <- connectionFrom{server, &net.TCPAddr{IP: net.ParseIP(address)}}
		return client, nil
	}
}

type connectionFrom struct {
	net.Conn

	address net.Addr
}

func (c connectionFrom) RemoteAddr() net.Addr { return c.address }

// TestConnectionsOfAnAddress checks the limit for the connections of an address.
func TestConnectionsOfAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := newMemoryListener()
		config := serveReviewsAt(t, listener, testHandler(t, nil), nil)
		for i := range maxConnectionsPerAddress + 1 {
			err := handshake(t, listener.from("192.0.2.2"), config)
			if (err == nil) != (i < maxConnectionsPerAddress) {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		must(t, handshake(t, listener.from("192.0.2.3"), config))
	})
}

// handshake opens a connection that stays idle until the end of the test.
func handshake(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), config *tls.Config) error {
	t.Helper()
	connection, err := dial(t.Context(), "tcp", "")
	must(t, err)
	t.Cleanup(func() { _ = connection.Close() })
	return tls.Client(connection, config).HandshakeContext(t.Context())
}

// TestBusyAPIServers: API servers call webhooks by HTTP/1.1, keep idle connections for each kind of
// webhook, and may all use the same address.
func TestBusyAPIServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := newMemoryListener()
		config := serveReviewsAt(t, listener, testHandler(t, nil), nil)
		for range 50 {
			must(t, handshake(t, listener.from("192.0.2.3"), config))
		}
		transport := &http.Transport{DialContext: listener.from("192.0.2.3"), TLSClientConfig: config}
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport}
		body := reviewOf(t, metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, running("web", pod("shop", annotated("cluster", "fleet/tenant-1"))))
		const reviews = 200
		answers, begin := make(chan error, reviews), make(chan struct{})
		for range reviews {
			go func() {
				<-begin
				response, err := client.Post("https://192.0.2.1"+PathPods+"?timeout=10s", "application/json", bytes.NewReader(body))
				if err == nil {
					err = response.Body.Close()
					if response.StatusCode != http.StatusOK {
						err = errors.New(response.Status)
					}
				}
				answers <- err
			}()
		}
		close(begin)
		for range reviews {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestBodyWithoutLength checks that a body without a Content-Length, or with too large a one, is
// not read.
func TestBodyWithoutLength(t *testing.T) {
	h := testHandler(t, nil)
	for name, test := range map[string]struct {
		length int64
		code   int
	}{
		"no length": {-1, http.StatusLengthRequired},
		"too long":  {maxBody + 1, http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, PathPods, iotest{t})
			r.ContentLength = test.length
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.code {
				t.Errorf("code %d", w.Code)
			}
		})
	}
}

// iotest is a body that fails the test when it is read.
type iotest struct{ t *testing.T }

func (i iotest) Read([]byte) (int, error) {
	i.t.Error("the body was read")
	return 0, io.EOF
}

// TestBodyWaitsForOthers checks that a request which gets no memory for its body in time is
// rejected. API servers repeat it.
func TestBodyWaitsForOthers(t *testing.T) {
	h := testHandler(t, nil)
	h.memory = serving.NewBudget(1<<20, 1<<20)
	release, err := h.memory.Take(t.Context(), "192.0.2.1", 1<<20) // the address of httptest's requests
	must(t, err)
	r := httptest.NewRequest(http.MethodPost, PathPods+"?timeout=1ms", strings.NewReader("{}"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" {
		t.Errorf("code %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
	release()
	r = httptest.NewRequest(http.MethodPost, PathPods+"?timeout="+time.Minute.String(), strings.NewReader("{}"))
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest {
		t.Errorf("code %d", w.Code)
	}
}

// TestUnreadAnswers: an answer can be a hundred times as long as its request. A client that sends
// such requests, and does not read the answers, can use only a part of the memory.
func TestUnreadAnswers(t *testing.T) {
	var spec strings.Builder
	for _, list := range []string{"initContainers", "containers"} {
		fmt.Fprintf(&spec, `%q:[{}%s],`, list, strings.Repeat(",{}", 199))
	}
	request := func(spec string) []byte {
		body := `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","namespace":"shop","operation":"CREATE",` +
			`"resource":{"group":"","version":"v1","resource":"pods"},"object":{"metadata":{"annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}},` +
			`"spec":{` + spec + `"os":{}}}}}`
		return fmt.Appendf(nil, "POST %s?timeout=30s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", PathPods, len(body), body)
	}
	synctest.Test(t, func(t *testing.T) {
		listener, h := newMemoryListener(), testHandler(t, nil)
		config := serveReviewsAt(t, listener, h, nil)
		connect := func(address string, request []byte) net.Conn {
			connection, err := listener.from(address)(t.Context(), "tcp", "")
			must(t, err)
			t.Cleanup(func() { _ = connection.Close() })
			encrypted := tls.Client(connection, config)
			_, err = encrypted.Write(request)
			must(t, err)
			return encrypted
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range maxConnectionsPerAddress {
			connect("192.0.2.2", request(spec.String()))
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
			t.Errorf("the heap has grown by %d MiB", grown>>20)
		}
		if held := h.memory.Held("192.0.2.2"); held < maxMemoryPerAddress/2 || held > maxMemoryPerAddress {
			t.Errorf("the client holds %d bytes", held)
		}
		answer, err := http.ReadResponse(bufio.NewReader(connect("192.0.2.3", request(spec.String()))), nil)
		must(t, err)
		if answer.StatusCode != http.StatusOK {
			t.Errorf("an API server gets %s", answer.Status)
		}
		must(t, answer.Body.Close())
	})
}

// TestReusedMemoryIsCounted: a client sends large bodies, and then small ones slowly. The memory of
// the large bodies is not reused for the small ones, which hold less.
func TestReusedMemoryIsCounted(t *testing.T) {
	h := testHandler(t, nil)
	large := new(scratch)
	large.body.Grow(200 << 10)
	h.putScratch(large)
	if got := h.takeScratch(requestMemory); got.size() > requestMemory {
		t.Errorf("a request that holds %d bytes uses %d", requestMemory, got.size())
	}
}
