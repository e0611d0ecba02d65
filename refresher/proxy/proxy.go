// Package proxy lets in-cluster clients use an API server that their configuration does not
// support: one with a path, a proxy, another server name or a client certificate, or whose endpoint
// changes while they run.
//
// The proxy listens on loopback only. It serves HTTP/1.1 and HTTP/2 over TLS with the Pod's own CA.
// It forwards requests with the Pod's own token to one target, with the target's current
// credential, and rejects all other requests.
package proxy

import (
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxHeader limits the header of a request, in bytes. The longest are those of kubectl exec, which
	// has the command in its URL.
	maxHeader = 128 << 10
	// headerTimeout limits the TLS handshake, and the time to read a header.
	headerTimeout = 10 * time.Second
	// idleTimeout is longer than that of clients, so that clients close unused connections.
	idleTimeout = 3 * time.Minute

	// Sizes of the buffers for bodies, in bytes. The first maxLarge bodies use large buffers and the
	// others medium ones. Watches use small buffers, because there are many and each holds a buffer
	// all the time.
	largeBuffer, mediumBuffer, smallBuffer = 128 << 10, 32 << 10, 4 << 10

	maxLarge = 16
)

// Config configures a Proxy. All fields are required.
type Config struct {
	// Cluster is the name of the target in messages, such as "TargetCluster fleet/tenant-1".
	Cluster string
	// Identity is the proxy's CA and its clients' token.
	Identity *Identity
	// Renew requests a newer target, and returns after the result was passed to Set or Fail. It is
	// called if the target rejects the credential (refused) or cannot be reached: one call at a time,
	// and only every few seconds.
	Renew func(ctx context.Context, refused bool)
	// Dial opens connections to targets and their proxies.
	Dial DialFunc
	// Log gets a line for each call of Renew. It gets nothing about requests.
	Log *slog.Logger
}

// Proxy forwards requests to the current target. It may be used concurrently.
type Proxy struct {
	config  Config
	plain   http.Handler
	watches http.Handler

	// current is nil until there is a target.
	current atomic.Pointer[upstream]
	// lifetime ends when the target is dropped.
	lifetime atomic.Pointer[lifetime]

	// mu guards the fields below, and writes of current.
	mu sync.Mutex
	// news is closed and replaced by each Set and Fail.
	news    chan struct{}
	problem Problem
	// renewal is closed when the current call of Renew returns; nil if there is none.
	renewal chan struct{}
	renewed time.Time
}

// New returns a Proxy without a target. Requests wait a short time for the first target.
func New(config Config) *Proxy {
	p := &Proxy{config: config, news: make(chan struct{})}
	p.lifetime.Store(newLifetime())
	p.plain = p.forwarder(newBodyBuffers())
	p.watches = p.forwarder(newBuffers(smallBuffer))
	return p
}

// Serve serves connections of listener until ctx is done. It always returns an error:
// http.ErrServerClosed if ctx is done.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           p,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true, GetCertificate: p.config.Identity.certificate},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// A stream that the client does not read must not block the other streams of its connection.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 512 << 10, MaxReceiveBufferPerConnection: 8 << 20},
		// OPTIONS * needs the token, too.
		DisableGeneralOptionsHandler: true,
		// It would only log errors that clients cause.
		ErrorLog: discard(),
	}
	defer context.AfterFunc(ctx, func() {
		_ = server.Close() // the error is that of closing the listener, on which nothing depends
	})()
	return server.ServeTLS(Limit(listener, maxConnections), "", "")
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !p.authentic(r.Header):
		unauthenticated.write(w)
	case r.Method == http.MethodConnect || r.URL.Scheme != "" || r.URL.Host != "" || !strings.HasPrefix(r.URL.Path, "/"):
		notAForwardProxy.write(w)
	case climbs(r.URL.Path):
		dotSegments.write(w)
	case isWatch(r):
		p.watches.ServeHTTP(w, r)
	default:
		p.plain.ServeHTTP(w, r)
	}
}

// climbs reports whether a decoded path has a segment that could leave the target's own path.
func climbs(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// isWatch reports whether a request is a watch or follows a log. If it is wrong, only the size of
// the buffer is.
func isWatch(r *http.Request) bool {
	return strings.Contains(r.URL.RawQuery, "watch=1") || strings.Contains(r.URL.RawQuery, "watch=true") || strings.Contains(r.URL.RawQuery, "follow=true")
}

// bearerProtocol is the prefix of a WebSocket subprotocol with a bearer token, for browsers, which
// cannot set a header
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#putting-a-bearer-token-in-a-websocket-subprotocol).
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// authentic reports whether a request has the Pod's token. A request with several tokens is
// rejected.
func (p *Proxy) authentic(header http.Header) bool {
	switch presented := header.Values("Authorization"); len(presented) {
	case 0:
		_, tokens := splitProtocols(header.Values("Sec-Websocket-Protocol"))
		if len(tokens) != 1 {
			return false
		}
		token, err := base64.RawURLEncoding.DecodeString(tokens[0])
		return err == nil && p.isToken(token)
	case 1:
		scheme, token, _ := strings.Cut(presented[0], " ")
		return strings.EqualFold(scheme, "Bearer") && p.isToken([]byte(strings.TrimSpace(token)))
	default:
		return false
	}
}

func (p *Proxy) isToken(presented []byte) bool {
	return subtle.ConstantTimeCompare(presented, []byte(p.config.Identity.Token())) == 1
}

// splitProtocols splits the subprotocols of a WebSocket from the tokens among them, which are still
// encoded.
func splitProtocols(values []string) (protocols, tokens []string) {
	for _, value := range values {
		for protocol := range strings.SplitSeq(value, ",") {
			protocol = strings.TrimSpace(protocol)
			if token, ok := strings.CutPrefix(protocol, bearerProtocol); ok {
				tokens = append(tokens, token)
			} else if protocol != "" {
				protocols = append(protocols, protocol)
			}
		}
	}
	return protocols, tokens
}

// forwarder returns a handler that forwards authenticated requests.
func (p *Proxy) forwarder(buffers httputil.BufferPool) http.Handler {
	forward := &httputil.ReverseProxy{
		Rewrite:      rewrite,
		Transport:    p,
		BufferPool:   buffers,
		ErrorLog:     discard(),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { explain(err).write(w) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !upgrades.has(r.Header.Get("Upgrade")) {
			// API servers know no other upgrades, and h2c would bypass all checks above.
			r.Header.Del("Upgrade")
		}
		// A target may respond before it has read the whole body. An error means HTTP/2, which allows
		// that anyway.
		_ = http.NewResponseController(w).EnableFullDuplex()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(p.lifetime.Load().ctx, cancel)() // before the target is read
		forward.ServeHTTP(w, r.WithContext(ctx))
	})
}

// rewrite removes the parts of a request that are not for the target. RoundTrip sets the target's
// address and credential.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.Header.Del("Authorization")
	if offered := r.Out.Header.Values("Sec-Websocket-Protocol"); len(offered) > 0 {
		protocols, tokens := splitProtocols(offered)
		switch {
		case len(tokens) > 0 && len(protocols) == 0:
			r.Out.Header.Del("Sec-Websocket-Protocol")
		case len(tokens) > 0:
			r.Out.Header.Set("Sec-Websocket-Protocol", strings.Join(protocols, ", "))
		}
	}
	r.Out.URL.RawQuery = r.In.URL.RawQuery // including parts that Go cannot parse
	r.Out.Trailer = nil                    // could contain any header, and API servers read none
}

// words is a set of words that are compared without case, as in HTTP.
type words []string

var upgrades = words{"websocket", "SPDY/3.1"}

func (w words) has(word string) bool {
	return slices.ContainsFunc(w, func(known string) bool { return strings.EqualFold(known, word) })
}

// RoundTrip implements http.RoundTripper: it sends a request, which it may change, to the current
// target. If the target rejects the credential or cannot be reached, RoundTrip requests a newer
// target and sends the request once more.
func (p *Proxy) RoundTrip(request *http.Request) (*http.Response, error) {
	first, err := p.await(request.Context())
	if err != nil {
		return nil, err
	}
	if err := makeRepeatable(request); err != nil {
		return nil, err
	}
	response, err := first.roundTrip(request)
	reason, next := outdated(response, err), first
	if reason != "" {
		next = p.renew(request.Context(), first, reason)
	}
	switch {
	case next == nil || p.current.Load() == nil: // dropped
		if response != nil {
			_ = response.Body.Close()
		}
		return nil, p.noCredential("there is no credential for " + p.config.Cluster)
	case reason == "":
		return response, err
	case next == first && response != nil && !time.Now().Before(first.NotAfter):
		discardBody(response)
		return nil, p.noCredential("the credential for " + p.config.Cluster + " ended at " + first.NotAfter.UTC().Format(time.RFC3339))
	case next == first || !rewind(request):
		return response, err
	case response != nil:
		discardBody(response)
	}
	return next.roundTrip(request)
}

// discardBody reads the body, so that the connection can be reused. The body of a 401 of an API
// server is short.
func discardBody(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, smallBuffer)
	_ = response.Body.Close()
}

// Set makes target the target of new requests. The caller must have called Check. Running requests
// keep their connection.
func (p *Proxy) Set(target Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if before := p.current.Load(); before != nil {
		p.current.Store(before.next(target, p.config.Dial))
	} else {
		p.current.Store(newUpstream(target, p.config.Dial))
	}
	p.problem = Problem{}
	p.announce()
}

// Drop removes the target, and ends all requests to it, also watches and upgraded connections.
// Until Set, requests are answered with the Problem of Fail. It must not be called at the same time
// as Set.
func (p *Proxy) Drop() {
	if before := p.current.Swap(nil); before != nil {
		before.requests.CloseIdleConnections()
	}
	p.lifetime.Swap(newLifetime()).end()
}

// lifetime is the context of all requests to a target.
type lifetime struct {
	ctx context.Context //nolint:containedctx // of the target, not of a call
	end context.CancelFunc
}

func newLifetime() *lifetime {
	ctx, end := context.WithCancel(context.Background())
	return &lifetime{ctx, end}
}

// renew returns the newer target after first failed for the given reason. If there is none yet, it
// requests one and waits for it. If there is no newer target, it returns first; if the target was
// dropped, nil.
func (p *Proxy) renew(ctx context.Context, first *upstream, reason string) *upstream {
	p.mu.Lock()
	if p.current.Load() != first {
		p.mu.Unlock()
		return p.current.Load()
	}
	if p.renewal == nil && time.Since(p.renewed) >= renewInterval {
		p.renewal = make(chan struct{})
		p.config.Log.Warn("the target does not answer correctly: asking the broker for a new credential", "reason", reason)
		go p.askOnce(p.renewal, reason == refusesCredential) //nolint:gosec // for all who wait, whichever of them gives up
	}
	renewal := p.renewal
	p.mu.Unlock()
	if renewal != nil {
		select {
		case <-renewal:
		case <-ctx.Done():
		}
	}
	return p.current.Load()
}

const (
	// renewInterval limits the requests to the broker if the target rejects everything.
	renewInterval = 5 * time.Second
	// renewTimeout limits the time that requests wait for a newer target.
	renewTimeout = 10 * time.Second
)

// askOnce calls Renew for all goroutines that wait for done.
func (p *Proxy) askOnce(done chan struct{}, refused bool) {
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
	defer cancel()
	p.config.Renew(ctx, refused)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renewal, p.renewed = nil, time.Now()
	close(done)
}

// buffers is a pool of buffers of one size.
type buffers struct {
	size int
	pool sync.Pool
}

func newBuffers(size int) *buffers { return &buffers{size: size} }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, b.size)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }

// bodyBuffers is a pool with a limited number of large buffers. The others are medium ones.
type bodyBuffers struct {
	large, medium *buffers
	places        chan struct{}
}

func newBodyBuffers() *bodyBuffers {
	return &bodyBuffers{large: newBuffers(largeBuffer), medium: newBuffers(mediumBuffer), places: make(chan struct{}, maxLarge)}
}

// Get implements httputil.BufferPool.
func (b *bodyBuffers) Get() []byte {
	select {
	case b.places <- struct{}{}:
		return b.large.Get()
	default:
		return b.medium.Get()
	}
}

// Put implements httputil.BufferPool.
func (b *bodyBuffers) Put(buffer []byte) {
	if len(buffer) == mediumBuffer {
		b.medium.Put(buffer)
		return
	}
	b.large.Put(buffer)
	<-b.places
}

// hostPort returns the address to dial for a URL's host.
func hostPort(host, port, defaultPort string) string {
	return net.JoinHostPort(host, cmp.Or(port, defaultPort))
}
