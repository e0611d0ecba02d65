package loopback

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Internet is an HTTP proxy that answers for some hosts itself, over TLS, and connects to no other.
type Internet struct {
	hosts   map[string]http.Handler
	config  *tls.Config
	caFile  string
	address string
	served  chan net.Conn
}

// Serve starts an Internet with these hosts at a free port of the loopback interface, until ctx
// ends. It writes its CA certificate to dir.
func Serve(ctx context.Context, dir string, hosts map[string]http.Handler) (*Internet, error) {
	certificate, err := certificateFor(hosts)
	if err != nil {
		return nil, fmt.Errorf("creating a certificate: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	i := &Internet{
		hosts:  hosts,
		config: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		caFile: filepath.Join(dir, "ca.crt"),
		served: make(chan net.Conn),
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	if err := os.WriteFile(i.caFile, content, 0o600); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.address = listener.Addr().String()
	proxy := &http.Server{Handler: http.HandlerFunc(i.connect), ReadHeaderTimeout: time.Minute}
	sites := &http.Server{Handler: http.HandlerFunc(i.dispatch), ReadHeaderTimeout: time.Minute}
	go proxy.Serve(listener)                                                                       //nolint:errcheck // it ends with ctx
	go sites.Serve(&connections{accepted: i.served, address: listener.Addr(), closed: ctx.Done()}) //nolint:errcheck // likewise
	context.AfterFunc(ctx, func() {
		_ = proxy.Close()
		_ = sites.Close()
	})
	return i, nil
}

// ServeAt serves one host over plain HTTP at a free port of an IP address, until ctx ends, and
// returns address and port.
func ServeAt(ctx context.Context, ip string, host http.Handler) (address string, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: host, ReadHeaderTimeout: time.Minute}
	go server.Serve(listener) //nolint:errcheck // it ends with ctx
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return listener.Addr().String(), nil
}

// Environment returns the variables with which programs use this Internet: those written in Go, and
// curl.
func (i *Internet) Environment() []string {
	proxy := "http://" + i.address
	return []string{"HTTPS_PROXY=" + proxy, "https_proxy=" + proxy, "SSL_CERT_FILE=" + i.caFile, "CURL_CA_BUNDLE=" + i.caFile}
}

// connect answers a CONNECT request: it hands the connection over to the site.
func (i *Internet) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || port != "443" || i.hosts[host] == nil {
		http.Error(w, r.Host+" is not served here", http.StatusForbidden)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
		_ = conn.Close()
		return
	}
	i.served <- tls.Server(&bufferedConn{Conn: conn, reader: buffered.Reader}, i.config)
}

// dispatch answers a request to one of the hosts.
func (i *Internet) dispatch(w http.ResponseWriter, r *http.Request) {
	site := i.hosts[r.Host]
	if site == nil {
		http.Error(w, r.Host+" is not served here", http.StatusMisdirectedRequest)
		return
	}
	site.ServeHTTP(w, r)
}

// bufferedConn is a connection of which a part was read already.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.reader.Read(b) }

// connections is a listener for connections that others accepted.
type connections struct {
	accepted <-chan net.Conn
	address  net.Addr
	closed   <-chan struct{}
}

func (c *connections) Accept() (net.Conn, error) {
	select {
	case conn := <-c.accepted:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *connections) Close() error { return nil }

func (c *connections) Addr() net.Addr { return c.address }

// certificateFor creates a self-signed certificate for the hosts, which is its own CA.
func certificateFor(hosts map[string]http.Handler) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "loopback"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for host := range hosts {
		template.DNSNames = append(template.DNSNames, host)
	}
	slices.Sort(template.DNSNames)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
