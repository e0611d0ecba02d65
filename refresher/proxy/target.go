package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/keyferry/keyferry/internal/redial"
)

const (
	// idleUpstream is how long a connection is kept that nothing uses; also one of an earlier target,
	// once its last stream has ended.
	idleUpstream = 90 * time.Second
	// maxAge is how long new requests use the same connections, and maxAgeFailed how long once the
	// target has failed: after that, the proxy follows a change of the target's address in DNS.
	maxAge, maxAgeFailed = 5 * time.Minute, 30 * time.Second
	// handshakeTimeout bounds each of the TLS handshakes with a target and its proxy.
	handshakeTimeout = 10 * time.Second
	// maxConnecting is how many requests may be about to have a connection made.
	maxConnecting = 8
	// maxConnectWait is how long another one waits for its turn: where a target is away, those before
	// it take their time to fail.
	maxConnectWait = 10 * time.Second
	// pingAfter and pingTimeout find out that a target is gone on which nothing but watches are open.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
	// maxFrame is the largest part of an answer that comes at once; Go's own 16 KiB make a large list
	// many of them.
	maxFrame = 128 << 10
	// maxUnread is what a target may send before a client reads it: as much as clients without a proxy
	// let it, so that neither a target far away nor a core that others use makes it slower.
	// maxAllUnread is that for all of a connection's clients, which a sidecar has the memory for.
	maxUnread, maxAllUnread = 4 << 20, 32 << 20
	// maxRepeat is the largest body that is kept to be sent again.
	maxRepeat = 64 << 10
)

// DialFunc opens connections, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Target is an API server, how to get there, and a credential for it.
type Target struct {
	// Server is its https URL. A path is put before that of each request.
	Server *url.URL
	// CA are the certificates that the server, and a proxy with https, are verified by, in PEM.
	CA []byte
	// ServerName is the name in the server's certificate; empty means the host of Server.
	ServerName string
	// Proxy is an http, https or socks5 URL; nil means none.
	Proxy *url.URL

	// Token, or Certificate and Key in PEM, or both.
	Token            string
	Certificate, Key []byte
	// NotAfter is when the credential ends, by this node's clock.
	NotAfter time.Time
}

// Check refuses a Target that cannot work. It never quotes a credential, nor the URL of a proxy,
// which may hold one.
func (t Target) Check() error {
	switch {
	case t.Server == nil || t.Server.Scheme != "https" || t.Server.Hostname() == "":
		return errors.New("the server is not an https URL with a host")
	case t.Server.User != nil || t.Server.RawQuery != "" || t.Server.Fragment != "" || climbs(t.Server.Path):
		return errors.New("the server's URL has more than host, port and path")
	case !x509.NewCertPool().AppendCertsFromPEM(t.CA):
		return errors.New("the certificate authority of the endpoint is missing or not PEM")
	case t.Token == "" && len(t.Certificate) == 0:
		return errors.New("there is neither a token nor a client certificate")
	case strings.ContainsFunc(t.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the token holds characters that no HTTP header can")
	}
	if len(t.Certificate) > 0 {
		if _, err := tls.X509KeyPair(t.Certificate, t.Key); err != nil {
			return errors.New("the client certificate and its key do not make a pair")
		}
	}
	if t.Proxy != nil {
		switch t.Proxy.Scheme {
		case "http", "https", "socks5", "socks5h":
		default:
			return errors.New("the proxy of the endpoint is not an http, https or socks5 URL")
		}
		if t.Proxy.Hostname() == "" {
			return errors.New("the URL of the endpoint's proxy has no host")
		}
	}
	return nil
}

// SameServer reports whether both are the same API server, known by the same CA, in the same way.
func (t Target) SameServer(other Target) bool {
	return t.Server.String() == other.Server.String() && t.ServerName == other.ServerName && bytes.Equal(t.CA, other.CA) && text(t.Proxy) == text(other.Proxy)
}

func text(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.String()
}

// URL returns where in the target a request goes.
func (t Target) URL(path, escapedPath, rawQuery string) *url.URL {
	return &url.URL{
		Scheme:   t.Server.Scheme,
		Host:     t.Server.Host,
		Path:     strings.TrimSuffix(t.Server.Path, "/") + path,
		RawPath:  strings.TrimSuffix(t.Server.EscapedPath(), "/") + escapedPath, // as it was written
		RawQuery: rawQuery,
	}
}

// Authorize puts the token into the header of a request.
func (t Target) Authorize(header http.Header) {
	if t.Token != "" {
		header.Set("Authorization", "Bearer "+t.Token)
	}
}

// Transport returns connections to the target, which was found good by Check. It takes no proxy
// from the environment: that is meant for the application.
func (t Target) Transport(dial DialFunc) *http.Transport {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(t.CA)
	transport := &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: t.ServerName},
		TLSHandshakeTimeout:    handshakeTimeout,
		DisableCompression:     true,
		IdleConnTimeout:        idleUpstream,
		MaxIdleConnsPerHost:    32,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     maxUnread,
			MaxReceiveBufferPerConnection: maxAllUnread,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			MaxReadFrameSize:              maxFrame,
		},
	}
	if len(t.Certificate) > 0 {
		if pair, err := tls.X509KeyPair(t.Certificate, t.Key); err == nil {
			transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
		}
	}
	switch {
	case t.Proxy == nil:
	case t.Proxy.Scheme == "https":
		// http.Transport would show the proxy the target's server name and client certificate.
		plain := *t.Proxy
		plain.Scheme, plain.Host = "http", hostPort(t.Proxy.Hostname(), t.Proxy.Port(), "443")
		transport.Proxy = http.ProxyURL(&plain)
		transport.DialContext = dialTLS(dial, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: t.Proxy.Hostname()})
	default:
		transport.Proxy = http.ProxyURL(t.Proxy)
	}
	return transport
}

// dialTLS opens TLS connections.
func dialTLS(dial DialFunc, config *tls.Config) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		secure := tls.Client(connection, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = connection.Close()
			return nil, fmt.Errorf("connecting to the proxy: %w", err)
		}
		return secure, nil
	}
}

// upstream is a Target with the connections to it.
type upstream struct {
	Target

	requests *redial.Transport
	// upgrades is HTTP/1.1, because HTTP/2 has no upgrades. Each request has a connection of its own.
	upgrades *http.Transport
	// connecting is full while maxConnecting requests wait for a connection.
	connecting chan struct{}
}

func newUpstream(t Target, dial DialFunc) *upstream {
	dial = gatherAll(dial)
	up := &upstream{
		Target: t,
		requests: &redial.Transport{
			New:          func() *http.Transport { return t.Transport(dial) },
			MaxAge:       maxAge,
			MaxAgeFailed: maxAgeFailed,
			Failed:       unhealthy,
		},
		upgrades:   t.Transport(dial),
		connecting: make(chan struct{}, maxConnecting),
	}
	up.upgrades.DisableKeepAlives = true
	up.upgrades.Protocols = new(http.Protocols)
	up.upgrades.Protocols.SetHTTP1(true)
	return up
}

// next returns the upstream for t. It has the same connections unless they would be made
// differently for t: then those of up serve what is under way, and end with it.
func (up *upstream) next(t Target, dial DialFunc) *upstream {
	same := up.SameServer(t) && bytes.Equal(up.Certificate, t.Certificate) && bytes.Equal(up.Key, t.Key)
	switch {
	case same && up.Token == t.Token && up.NotAfter.Equal(t.NotAfter):
		return up
	case same:
		return &upstream{Target: t, requests: up.requests, upgrades: up.upgrades, connecting: up.connecting}
	default:
		up.requests.CloseIdleConnections()
		return newUpstream(t, dial)
	}
}

// unhealthy reports whether an API server that works would not have answered so. Then the target's
// name may resolve to another address by now. API servers put an audit ID into each answer: a 404
// without one comes from another server.
func unhealthy(response *http.Response, err error) bool {
	if err != nil {
		return !errors.Is(err, context.Canceled)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusMisdirectedRequest:
		return true
	case http.StatusNotFound:
		return response.Header.Get("Audit-Id") == ""
	default:
		return response.StatusCode >= http.StatusInternalServerError
	}
}

// roundTrip sends a request of which only path and query say where to.
func (up *upstream) roundTrip(request *http.Request) (*http.Response, error) {
	connected, ctx, err := up.connect(request.Context())
	if err != nil {
		return nil, err
	}
	defer connected()
	out := request.WithContext(ctx)
	out.URL = up.URL(request.URL.Path, request.URL.EscapedPath(), request.URL.RawQuery)
	out.Host = up.Server.Host
	out.Header.Del("Authorization")
	up.Authorize(out.Header)
	if out.Header.Get("Upgrade") != "" {
		return up.upgrades.RoundTrip(out)
	}
	return up.requests.RoundTrip(out)
}

// connect waits until a request may ask for a connection; connected is called by ctx when it has
// one, and has to be called in the end. An http.Transport alone makes a connection for each of a
// thousand requests that come at once, though ten could carry them all. A request whose turn does
// not come fails as if its own connection had not been made.
func (up *upstream) connect(ctx context.Context) (connected func(), _ context.Context, _ error) {
	timer := time.NewTimer(maxConnectWait)
	defer timer.Stop()
	select {
	case up.connecting <- struct{}{}:
	case <-timer.C:
		return nil, nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("too many requests wait for a connection")}
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	connected = sync.OnceFunc(func() { <-up.connecting })
	return connected, httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected() }}), nil
}

// makeRepeatable keeps a small body, so that rewind can have it sent again.
func makeRepeatable(request *http.Request) error {
	if request.Body == nil || request.ContentLength <= 0 || request.ContentLength > maxRepeat {
		return nil
	}
	body := make([]byte, request.ContentLength)
	if _, err := io.ReadFull(request.Body, body); err != nil {
		return fmt.Errorf("reading the request's body: %w", err)
	}
	// To its end, which is where trailers are.
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return fmt.Errorf("reading the request's body: %w", err)
	}
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	request.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// rewind makes a request that was sent ready to be sent again, or tells that it cannot be.
func rewind(request *http.Request) bool {
	if request.Body == nil || request.Body == http.NoBody {
		return true
	}
	if request.GetBody == nil {
		return false
	}
	var err error
	request.Body, err = request.GetBody()
	return err == nil
}

// refusesCredential is what outdated says of an answer of the target.
const refusesCredential = "it refuses the credential"

// outdated says why what came of a request may be because the target is another by now, or its
// credential. It is empty if it is not, and if the target may have done what was asked.
func outdated(response *http.Response, err error) string {
	if err == nil {
		if response.StatusCode == http.StatusUnauthorized {
			return refusesCredential
		}
		return ""
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return err.Error()
	}
	return ""
}
