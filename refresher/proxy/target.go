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
	// idleUpstream is the time after which unused connections are closed. This includes connections of
	// an earlier target whose streams have ended.
	idleUpstream = 90 * time.Second
	// maxAge is how long new requests use the same connections; maxAgeFailed applies if the target has
	// failed. New connections follow a change of the target's address in DNS.
	maxAge, maxAgeFailed = 5 * time.Minute, 30 * time.Second
	// handshakeTimeout limits the TLS handshake with the target, and that with its proxy.
	handshakeTimeout = 10 * time.Second
	// maxConnecting limits the requests that wait for a new connection at the same time.
	maxConnecting = 8
	// maxConnectWait limits the time that other requests wait for their turn. If the target is down,
	// the requests before them need some time to fail.
	maxConnectWait = 10 * time.Second
	// pingAfter and pingTimeout detect a dead connection that carries only watches.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
	// maxFrame is the largest HTTP/2 frame to receive, in bytes. With Go's default of 16 KiB, a large
	// list would need many.
	maxFrame = 128 << 10
	// maxUnread limits what the target may send before a client reads it, in bytes, for one request.
	// It is the same as for clients without a proxy, so a distant target or a busy core is not slower.
	// maxAllUnread is the limit for all requests of a connection, which fits into the sidecar's
	// memory.
	maxUnread, maxAllUnread = 4 << 20, 32 << 20
	// maxRepeat is the largest body, in bytes, that is kept to be sent again.
	maxRepeat = 64 << 10
)

// DialFunc opens connections, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Target is an API server, the way to connect to it, and a credential.
type Target struct {
	// Server is the https URL of the API server. Its path is prepended to the path of each request.
	Server *url.URL
	// CA contains the PEM certificates that verify the server and an https proxy.
	CA []byte
	// ServerName is the name in the server's certificate; empty means the host of Server.
	ServerName string
	// Proxy is an http, https or socks5 URL; nil means none.
	Proxy *url.URL

	// Token or the PEM encoded Certificate and Key, or both.
	Token            string
	Certificate, Key []byte
	// NotAfter is the expiry of the credential, by this node's clock.
	NotAfter time.Time
}

// Check returns an error if a Target cannot work. The error contains neither a credential nor the
// URL of the proxy, which may have a password.
func (t Target) Check() error {
	switch {
	case t.Server == nil || t.Server.Scheme != "https" || t.Server.Hostname() == "":
		return errors.New("the server is not an https URL with a host")
	case t.Server.User != nil || t.Server.RawQuery != "" || t.Server.Fragment != "" || climbs(t.Server.Path):
		return errors.New("the server's URL has more than host, port and path")
	case !x509.NewCertPool().AppendCertsFromPEM(t.CA):
		return errors.New("the CA of the endpoint is missing or not PEM")
	case t.Token == "" && len(t.Certificate) == 0:
		return errors.New("there is neither a token nor a client certificate")
	case strings.ContainsFunc(t.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the token contains characters that are not valid in an HTTP header")
	}
	if len(t.Certificate) > 0 {
		if _, err := tls.X509KeyPair(t.Certificate, t.Key); err != nil {
			return errors.New("the client certificate and its key do not belong together")
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

// SameServer reports whether both targets have the same server, proxy, CA and server name.
func (t Target) SameServer(other Target) bool {
	return t.Server.String() == other.Server.String() && t.ServerName == other.ServerName && bytes.Equal(t.CA, other.CA) && text(t.Proxy) == text(other.Proxy)
}

func text(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.String()
}

// URL returns the URL in the target for a path and query.
func (t Target) URL(path, escapedPath, rawQuery string) *url.URL {
	return &url.URL{
		Scheme:   t.Server.Scheme,
		Host:     t.Server.Host,
		Path:     strings.TrimSuffix(t.Server.Path, "/") + path,
		RawPath:  strings.TrimSuffix(t.Server.EscapedPath(), "/") + escapedPath, // as it was written
		RawQuery: rawQuery,
	}
}

// Authorize sets the token in the header of a request.
func (t Target) Authorize(header http.Header) {
	if t.Token != "" {
		header.Set("Authorization", "Bearer "+t.Token)
	}
}

// Transport returns a transport for the target. The caller must have called Check. It does not use
// a proxy from the environment, which is the application's.
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
		// http.Transport would send the target's server name and client certificate to the proxy.
		plain := *t.Proxy
		plain.Scheme, plain.Host = "http", hostPort(t.Proxy.Hostname(), t.Proxy.Port(), "443")
		transport.Proxy = http.ProxyURL(&plain)
		transport.DialContext = dialTLS(dial, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: t.Proxy.Hostname()})
	default:
		transport.Proxy = http.ProxyURL(t.Proxy)
	}
	return transport
}

// dialTLS returns a DialFunc for TLS connections.
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

// upstream is a Target with its connections.
type upstream struct {
	Target

	requests *redial.Transport
	// upgrades uses HTTP/1.1, because HTTP/2 has no upgrades. Each request has its own connection.
	upgrades *http.Transport
	// connecting has an element for each request that waits for a connection, up to maxConnecting.
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

// next returns the upstream for t. It shares the connections of up unless t needs different ones.
// Then running requests keep the connections of up until they end.
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

// unhealthy reports whether a working API server would not send such a response. Then the target's
// DNS name may resolve to another address. API servers add an audit ID to each response: a 404
// without one is from another server.
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

// roundTrip sends a request to the target. It uses only the path and query of the request's URL.
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

// connect waits until a request may open a connection. ctx calls connected when the request has a
// connection; the caller must call it at the end, too. An http.Transport alone would open a
// connection for each of a thousand simultaneous requests, although ten are enough. A request that
// waits too long fails as if its own connection had failed.
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

// makeRepeatable buffers a small body, so that rewind can send it again.
func makeRepeatable(request *http.Request) error {
	if request.Body == nil || request.ContentLength <= 0 || request.ContentLength > maxRepeat {
		return nil
	}
	body := make([]byte, request.ContentLength)
	if _, err := io.ReadFull(request.Body, body); err != nil {
		return fmt.Errorf("reading the request's body: %w", err)
	}
	// Read to the end, because trailers follow the body.
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return fmt.Errorf("reading the request's body: %w", err)
	}
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	request.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// rewind prepares a sent request to be sent again. It reports false if that is not possible.
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

// refusesCredential is the result of outdated if the target rejects the credential.
const refusesCredential = "it refuses the credential"

// outdated returns why a request may have failed because the target or its credential has changed.
// It returns "" for other results, and if the target may have executed the request.
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
