// Package redial makes HTTP clients follow DNS changes: after some time, and after a failure, new
// requests use new connections to the address to which the server's name resolves then.
package redial

import (
	"net/http"
	"sync"
	"time"
)

// Transport is an http.RoundTripper that replaces its connections. Requests in progress, such as
// watches, keep their connection until they end. All fields but MaxAgeFailed are required, and must
// not change once the Transport is in use. A Transport may be used concurrently.
type Transport struct {
	// New returns a transport that has no connections.
	New func() *http.Transport
	// MaxAge is how long new requests use the same connections. MaxAgeFailed applies instead once a
	// request has failed; zero means that the next request gets a new connection.
	MaxAge, MaxAgeFailed time.Duration
	// Failed reports whether a request failed, so that a server at another address might answer
	// better.
	Failed func(*http.Response, error) bool

	mu      sync.Mutex
	current *http.Transport // nil before the first request
	made    time.Time
	failed  bool // whether a request on current has failed
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	current, old := t.renew()
	if old != nil {
		old.CloseIdleConnections()
	}
	response, err := current.RoundTrip(request)
	if t.Failed(response, err) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.failed = t.failed || t.current == current
	}
	return response, err
}

// renew returns the transport for a new request, and the transport that it replaced, if any.
func (t *Transport) renew() (current, old *http.Transport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maxAge := t.MaxAge
	if t.failed {
		maxAge = t.MaxAgeFailed
	}
	if t.current == nil || time.Since(t.made) >= maxAge {
		old = t.current
		t.current, t.made, t.failed = t.New(), time.Now(), false
	}
	return t.current, old
}

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	current := t.current
	t.mu.Unlock()
	if current != nil {
		current.CloseIdleConnections()
	}
}
