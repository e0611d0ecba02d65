package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// mayUseAll allows every use.
func mayUseAll(authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// from returns a request from an address with a token.
func from(address, token string) *http.Request {
	r := request("{}")
	r.RemoteAddr = address
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// TestOnePodsFlood checks that a Pod which sends too many requests is rejected, while another Pod
// is served.
func TestOnePodsFlood(t *testing.T) {
	b := newBench(t, mayUseAll, issueAlways)
	codes := map[int]int{}
	for range 10 * questionsAtOnce {
		codes[b.do(from("10.0.0.1:1", podToken)).Code]++
	}
	if codes[http.StatusOK] != questionsAtOnce || codes[http.StatusTooManyRequests] != 9*questionsAtOnce {
		t.Errorf("answers: %v", codes)
	}
	refused := b.do(from("10.0.0.1:1", podToken))
	wantStatus(t, refused, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "Pod app/web-0 sends too many requests")
	if got := refused.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q", got)
	}
	if w := b.do(from("10.0.0.1:2", otherToken)); w.Code != http.StatusOK {
		t.Errorf("another Pod: code %d: %s", w.Code, w.Body)
	}
	if got := strings.Count(b.audit.String(), "sends too many requests"); got != 1 {
		t.Errorf("%d lines of the audit for one flood", got)
	}
	if got := counted(t, b, outcomeRefused, "429", "none"); got != 9*questionsAtOnce+1 {
		t.Errorf("the metric says %v", got)
	}
	b.now = b.now.Add(time.Second)
	for i := range questionsPerSecond + 1 {
		if w := b.do(from("10.0.0.1:1", podToken)); (w.Code == http.StatusOK) != (i < questionsPerSecond) {
			t.Errorf("question %d, a second later: code %d", i, w.Code)
		}
	}
}

// TestFloodOfBadTokens checks that only a few of an address's bad tokens cause a TokenReview, and
// that clients at other addresses are served.
func TestFloodOfBadTokens(t *testing.T) {
	reviews := 0
	b := newBench(t, mayUseAll, issueAlways)
	b.cfg.Authenticator = authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		reviews++
		return fakeTokens(ctx, token)
	})
	for i := range 10 * refusalsAtOnce {
		want := http.StatusUnauthorized
		if i >= refusalsAtOnce {
			want = http.StatusTooManyRequests
		}
		if w := b.do(from("10.0.0.1:1", tokenWith(fmt.Sprintf(`{"aud":"keyferry","sub":"%d"}`, i)))); w.Code != want {
			t.Fatalf("token %d: code %d: %s", i, w.Code, w.Body)
		}
	}
	if reviews != refusalsAtOnce {
		t.Errorf("%d TokenReviews", reviews)
	}
	if got := strings.Count(b.audit.String(), "\n") + 1; got != refusalsAtOnce+1 {
		t.Errorf("%d lines of the audit", got)
	}
	if w := b.do(from("10.0.0.2:1", podToken)); w.Code != http.StatusOK {
		t.Errorf("another address: code %d: %s", w.Code, w.Body)
	}
	b.now = b.now.Add(time.Second)
	if w := b.do(from("10.0.0.1:1", podToken)); w.Code != http.StatusOK {
		t.Errorf("a good token from the same address, a second later: code %d: %s", w.Code, w.Body)
	}
}

// TestSharesAreForgotten checks that the state of inactive clients is removed.
func TestSharesAreForgotten(t *testing.T) {
	now := start
	s := newShares(1, 2, func() time.Time { return now })
	for i := range 1000 {
		s.take(fmt.Sprint(i))
	}
	now = now.Add(time.Minute)
	s.take("last")
	if len(s.of) != 1 {
		t.Errorf("%d clients are kept", len(s.of))
	}
	now = now.Add(-time.Hour)
	if wait, _ := s.wait("last"); wait != 0 {
		t.Errorf("a clock that was set back makes a client wait for %v", wait)
	}
}

// memory is a listener for connections in memory, so that time in a synctest bubble passes only if
// all goroutines wait.
type memory struct {
	connections chan net.Conn
	closed      chan struct{}
	close       sync.Once
}

func newMemory() *memory {
	return &memory{connections: make(chan net.Conn), closed: make(chan struct{})}
}

type addressed struct {
	net.Conn
	from string
}

func (a addressed) RemoteAddr() net.Addr { return address(a.from) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func (m *memory) Accept() (net.Conn, error) {
	select {
	case connection := <-m.connections:
		return connection, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.close.Do(func() { close(m.closed) }); return nil }
func (m *memory) Addr() net.Addr { return address("10.0.0.100:443") }

func (m *memory) dial(from string) net.Conn {
	client, server := net.Pipe()
	m.connections <- addressed{server, from}
	return client
}

// serveInMemory runs the Server of a broker in a bubble.
func serveInMemory(t *testing.T, connections int, handler http.Handler) (*memory, *x509.CertPool) {
	t.Helper()
	donor := httptest.NewUnstartedServer(nil)
	donor.Listener.Close()
	donor.Listener = newMemory()
	donor.StartTLS()
	t.Cleanup(donor.Close)
	listener := newMemory()
	server, err := NewServer(ServerConfig{
		Listener: listener, Handler: handler, MaxConnections: connections, Log: logr.Discard(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &donor.TLS.Certificates[0], nil },
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-ended) })
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	return listener, roots
}

// TestSlowClients checks that slow clients are disconnected at each stage of a request.
func TestSlowClients(t *testing.T) {
	header := "POST " + request("").URL.Path + " HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer " + podToken + "\r\n"
	for name, test := range map[string]struct {
		plain bool   // without TLS
		sent  string // and then a byte in each second
		limit time.Duration
	}{
		"handshake": {plain: true, sent: "\x16", limit: 5 * time.Second},
		"header":    {sent: header + "X: ", limit: 5 * time.Second},
		"body":      {sent: header + "Content-Length: 1000\r\n\r\n", limit: 10 * time.Second},
		"silence":   {limit: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener, roots := serveInMemory(t, 8, newBench(t, mayUseAll, issueAlways))
				connection := listener.dial("10.0.0.1:1")
				defer connection.Close()
				if !test.plain {
					connection = tls.Client(connection, &tls.Config{RootCAs: roots, ServerName: "example.com", Time: time.Now})
				}
				start := time.Now()
				go func() {
					_, err := io.WriteString(connection, test.sent)
					for test.sent != "" && err == nil {
						select {
						case <-time.After(time.Second):
							_, err = connection.Write([]byte("x"))
						case <-t.Context().Done():
							return
						}
					}
				}()
				_, _ = io.Copy(io.Discard, connection)
				if took := time.Since(start); took > test.limit+2*time.Second {
					t.Errorf("it was served for %v", took)
				}
			})
		})
	}
}

// TestSlowClientsHoldNobodyUp checks that an address which opens as many connections as it can
// leaves some for others.
func TestSlowClientsHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections = 2 * minShare
		listener, roots := serveInMemory(t, connections, newBench(t, mayUseAll, issueAlways))
		closed := make(chan struct{}, 4*connections)
		for i := range cap(closed) {
			connection := listener.dial(fmt.Sprintf("10.0.0.1:%d", i))
			t.Cleanup(func() { _ = connection.Close() })
			go func() {
				_, _ = connection.Read(make([]byte, 1))
				closed <- struct{}{}
			}()
		}
		synctest.Wait()
		if got := cap(closed) - len(closed); got != minShare {
			t.Errorf("%d connections of one address are served", got)
		}

		connection := tls.Client(listener.dial("10.0.0.2:1"), &tls.Config{RootCAs: roots, ServerName: "example.com", Time: time.Now})
		t.Cleanup(func() { _ = connection.Close() })
		r := request("{}")
		r.Close = true
		must(t, r.Write(connection))
		response, err := http.ReadResponse(bufio.NewReader(connection), r)
		must(t, err)
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("another address: %s", response.Status)
		}
	})
}

// TestMetricsOfFloodsHaveFewLabels checks that requests cannot create new label values.
func TestMetricsOfFloodsHaveFewLabels(t *testing.T) {
	b := newBench(t, webMayUse, issueAlways)
	for i := range 200 {
		r := from(fmt.Sprintf("10.0.0.%d:1", i), tokenWith(fmt.Sprintf(`{"aud":"%d"}`, i)))
		r.URL.Path = fmt.Sprintf("/v1/namespaces/n%d/targetclusters/c%d/credential", i, i)
		b.do(r)
	}
	families, err := b.registry.Gather()
	must(t, err)
	for _, family := range families {
		if got := len(family.GetMetric()); got > 1 {
			t.Errorf("%s has %d series", family.GetName(), got)
		}
	}
}
