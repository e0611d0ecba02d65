// Package internet replaces the Internet in tests: it serves hosts under their real names, over
// TLS.
//
// The tested code needs no changes for it: it uses the proxy and the CA certificates that its
// environment variables name, as in a company network.
package internet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"
)

// Internet serves the hosts that tests add, and no others.
type Internet struct {
	proxy, hosts *httptest.Server
	file         string // the CA certificate
	authority    *x509.Certificate
	key          crypto.Signer // of the CA and of each host

	mu      sync.Mutex
	serving map[string]*http.Handler
}

// Connect makes this process, and programs that it starts, use an Internet, and no other hosts
// outside this machine. It is for TestMain: call it before the first request, because the
// environment is read once.
func Connect() (*Internet, error) {
	i := &Internet{serving: map[string]*http.Handler{}}
	if err := i.makeAuthority(); err != nil {
		return nil, err
	}
	i.proxy = httptest.NewServer(http.HandlerFunc(i.connect))
	i.hosts = httptest.NewUnstartedServer(http.HandlerFunc(i.serve))
	i.hosts.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: i.certificate}
	i.hosts.Config.ErrorLog = log.New(io.Discard, "", 0)
	i.hosts.Config.IdleTimeout = time.Second // unused connections are not leaks of the tests
	i.hosts.StartTLS()
	const linkLocal = "169.254.0.0/16" // not part of it
	for name, value := range map[string]string{
		"HTTPS_PROXY": i.proxy.URL, "https_proxy": i.proxy.URL, "NO_PROXY": linkLocal, "no_proxy": linkLocal, "SSL_CERT_FILE": i.file,
	} {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// Close removes what Connect created. It does not restore the environment.
func (i *Internet) Close() {
	i.proxy.Close()
	i.hosts.Close()
	_ = os.Remove(i.file)
}

// Serve makes handler serve host, at every port, until stop is called, t ends, or another handler
// is set for host.
func (i *Internet) Serve(t testing.TB, host string, handler http.Handler) (stop func()) {
	served := &handler
	i.mu.Lock()
	defer i.mu.Unlock()
	i.serving[host] = served
	stop = func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.serving[host] == served {
			delete(i.serving, host)
		}
	}
	t.Cleanup(stop)
	return stop
}

// handler returns the handler for an address; nil if there is none.
func (i *Internet) handler(address string) http.Handler {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if served := i.serving[host]; served != nil {
		return *served
	}
	return nil
}

// connect is the handler of the HTTP proxy.
func (i *Internet) connect(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodConnect || i.handler(req.Host) == nil {
		http.Error(w, "there is no such host", http.StatusBadGateway)
		return
	}
	there, err := (&net.Dialer{}).DialContext(req.Context(), "tcp", i.hosts.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = there.Close() }()
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = here.Close() }()
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(there, here)
		_ = there.Close()
	}()
	_, _ = io.Copy(here, there)
}

// serve closes connections that were opened before the host was replaced.
func (i *Internet) serve(w http.ResponseWriter, req *http.Request) {
	handler := i.handler(req.Host)
	if handler == nil {
		panic(http.ErrAbortHandler)
	}
	handler.ServeHTTP(w, req)
}

func (i *Internet) makeAuthority() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	i.key = key
	i.authority = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "internet of a test"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, i.authority, i.authority, key.Public(), key)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "keyferry-ca-*.crt")
	if err != nil {
		return err
	}
	i.file = file.Name()
	return errors.Join(pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: der}), file.Close())
}

func (i *Internet) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{hello.ServerName}, NotAfter: i.authority.NotAfter,
	}, i.authority, i.key.Public(), i.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key}, nil
}
