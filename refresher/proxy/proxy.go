// Package proxy lets in-cluster clients work on an API server that they cannot express themselves:
// one behind a path, a proxy or another server name, or that wants a client certificate, or that
// moves while they run.
//
// It listens at loopback only, speaks HTTP/1.1 and HTTP/2 over TLS with a certificate authority of
// the Pod's own, and forwards what comes with the Pod's own token to one target, with the
// credential of the moment. Nothing is forwarded without that token, and nothing anywhere else.
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
	// maxHeader bounds the header of a request. The longest are those of kubectl exec, which has the
	// command in its URL.
	maxHeader = 128 << 10
	// headerTimeout bounds the TLS handshake, and how slowly a header may come.
	headerTimeout = 10 * time.Second
	// idleTimeout is longer than that of clients, so that it is they who close a connection that is
	// not used.
	idleTimeout = 3 * time.Minute

	// Bodies are copied through buffers: large ones, while no more than maxLarge of them are in use,
	// medium ones else, and small ones for watches, of which there are many and each has one all the
	// time.
	largeBuffer, mediumBuffer, smallBuffer = 128 << 10, 32 << 10, 4 << 10

	maxLarge = 16
)

// Config of a Proxy. All of it is required.
type Config struct {
	// Cluster is what the target is called, for messages, such as "TargetCluster fleet/tenant-1".
	Cluster string
	// Identity is what clients know the proxy by, and the proxy them.
	Identity *Identity
	// Renew asks for a newer target, and returns once the answer has been given to Set, or there is
	// none. It is called when the target refuses the credential, or cannot be reached: once at a time,
	// and not more often than every few seconds.
	Renew func(ctx context.Context, refused bool)
	// Dial opens connections to targets and their proxies.
	Dial DialFunc
	// Log gets a line for what makes Renew necessary, and nothing of a request.
	Log *slog.Logger
}

// Proxy forwards requests to the target of the moment. It may be used concurrently.
type Proxy struct {
	config  Config
	plain   http.Handler
	watches http.Handler

	// current is nil before there is a target.
	current atomic.Pointer[upstream]

	// mu guards what follows, and writing current.
	mu sync.Mutex
	// news is closed, and another made, at each Set and Fail.
	news    chan struct{}
	problem Problem
	// renewal is closed when the one under way is over; nil if there is none.
	renewal chan struct{}
	renewed time.Time
}

// New returns a Proxy without a target: requests wait for one for a short time.
func New(config Config) *Proxy {
	p := &Proxy{config: config, news: make(chan struct{})}
	p.plain = p.forwarder(newBodyBuffers())
	p.watches = p.forwarder(newBuffers(smallBuffer))
	return p
}

// Serve answers what listener accepts until ctx ends. It always returns an error, which is
// http.ErrServerClosed if ctx has ended.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           p,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true, GetCertificate: p.config.Identity.certificate},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// One stream that is not read from must not hold up the others of its connection.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 512 << 10, MaxReceiveBufferPerConnection: 8 << 20},
		// OPTIONS * is not for just anybody either.
		DisableGeneralOptionsHandler: true,
		// What it would log is what clients do to themselves.
		ErrorLog: discard(),
	}
	defer context.AfterFunc(ctx, func() {
		_ = server.Close() // of its listener, which nothing depends on
	})()
	return server.ServeTLS(limit(listener, maxConnections), "", "")
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

// climbs reports whether a path, decoded, could lead out of the target's own path.
func climbs(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// isWatch is right for all that clients send; where it is not, the wrong buffer is used.
func isWatch(r *http.Request) bool {
	return strings.Contains(r.URL.RawQuery, "watch=1") || strings.Contains(r.URL.RawQuery, "watch=true") || strings.Contains(r.URL.RawQuery, "follow=true")
}

// bearerProtocol is how browsers, which can set no header on a WebSocket, present a token to an API
// server
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#putting-a-bearer-token-in-a-websocket-subprotocol).
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// authentic reports whether a request comes from who can read the Pod's own token. One that
// presents several tokens does not know.
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

// splitProtocols returns the subprotocols of a WebSocket, and the tokens that are presented among
// them, still encoded.
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

// forwarder forwards what has been found authentic.
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
			// Nothing else that API servers know; as h2c it would be a way past everything above.
			r.Header.Del("Upgrade")
		}
		// A target may answer while it is still being sent a body. An error means HTTP/2, where that is
		// so anyway.
		_ = http.NewResponseController(w).EnableFullDuplex()
		forward.ServeHTTP(w, r)
	})
}

// rewrite leaves of a request what is for the target. Where to and with what credential is
// RoundTrip's to say.
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
	r.Out.URL.RawQuery = r.In.URL.RawQuery // with what Go cannot parse, too
	r.Out.Trailer = nil                    // could hold any header, and API servers read none
}

// words is a set of those that HTTP compares without case.
type words []string

var upgrades = words{"websocket", "SPDY/3.1"}

func (w words) has(word string) bool {
	return slices.ContainsFunc(w, func(known string) bool { return strings.EqualFold(known, word) })
}

// RoundTrip implements http.RoundTripper for the forwarders: it sends a request, which is theirs to
// change, to the target of the moment. If that refuses the credential or cannot be reached, newer
// ones are asked for, and the request is sent once more.
func (p *Proxy) RoundTrip(request *http.Request) (*http.Response, error) {
	first, err := p.await(request.Context())
	if err != nil {
		return nil, err
	}
	if err := makeRepeatable(request); err != nil {
		return nil, err
	}
	response, err := first.roundTrip(request)
	reason := outdated(response, err)
	if reason == "" {
		return response, err
	}
	next := p.renew(request.Context(), first, reason)
	switch {
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

// discardBody reads a body, so that its connection can be used again; an API server has little to
// say with a 401.
func discardBody(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, smallBuffer)
	_ = response.Body.Close()
}

// Set makes target, which was found good by Check, the one that requests from now on go to. Those
// under way stay where they are.
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

// renew returns the target after first, which did not do for the given reason: at once if there is
// one by now, else as soon as it has been asked for. It is first itself if there is none.
func (p *Proxy) renew(ctx context.Context, first *upstream, reason string) *upstream {
	p.mu.Lock()
	if p.current.Load() != first {
		p.mu.Unlock()
		return p.current.Load()
	}
	if p.renewal == nil && time.Since(p.renewed) >= renewInterval {
		p.renewal = make(chan struct{})
		p.config.Log.Warn("asking the broker, as the target does not answer as it should", "reason", reason)
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
	// renewInterval keeps a target that refuses everything from making many questions to the broker
	// out of many requests.
	renewInterval = 5 * time.Second
	// renewTimeout is how long requests wait for an answer.
	renewTimeout = 10 * time.Second
)

// askOnce calls Renew for all who wait for done.
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

// bodyBuffers are large ones for the first who want one.
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
