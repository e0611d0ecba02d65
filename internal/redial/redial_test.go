package redial_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/internal/dnstest"
	"github.com/keyferry/keyferry/internal/redial"
)

const (
	maxAge       = time.Minute
	maxAgeFailed = 10 * time.Second
	idleTimeout  = 2 * maxAge
)

// client is a Transport to the servers of a Failover.
type client struct {
	*redial.Transport

	t    *testing.T
	name *dnstest.Failover
	// dialed is how many connections were made, and open how many of them are.
	dialed, open atomic.Int32
}

// closing is a connection that is counted while it is open.
type closing struct {
	net.Conn
	open   *atomic.Int32
	closed atomic.Bool
}

func (c *closing) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// protocols runs a test in a bubble, over both versions of HTTP.
func protocols(t *testing.T, old http.Handler, test func(t *testing.T, c *client)) {
	for protocol, http2 := range map[string]bool{"HTTP 1.1": false, "HTTP 2": true} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				name := dnstest.NewInMemory(t, old, dnstest.Answer(http.StatusOK, "new"))
				c := &client{t: t, name: name}
				c.Transport = &redial.Transport{
					New:          func() *http.Transport { return c.connections(http2) },
					MaxAge:       maxAge,
					MaxAgeFailed: maxAgeFailed,
					Failed: func(response *http.Response, err error) bool {
						return err != nil || response.StatusCode == http.StatusNotFound
					},
				}
				t.Cleanup(c.CloseIdleConnections)
				test(t, c)
			})
		})
	}
}

func (c *client) connections(http2 bool) *http.Transport {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.name.CA)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		IdleConnTimeout: idleTimeout,
		Protocols:       new(http.Protocols),
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			connection, err := c.name.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			c.dialed.Add(1)
			c.open.Add(1)
			return &closing{Conn: connection, open: &c.open}, nil
		},
	}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	return transport
}

func (c *client) send(path string) *http.Response {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.name.URL+path, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	response, err := c.RoundTrip(request)
	if err != nil {
		c.t.Fatal(err)
	}
	return response
}

// ask returns the name of the server that answers.
func (c *client) ask() string {
	c.t.Helper()
	response := c.send("/")
	defer response.Body.Close()
	name, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(name)
}

func TestAge(t *testing.T) {
	protocols(t, dnstest.Answer(http.StatusOK, "old"), func(t *testing.T, c *client) {
		if got := c.ask(); got != "old" {
			t.Fatalf("%s answers", got)
		}
		if got := c.name.FollowedAfter(t, c.ask); got != maxAge {
			t.Errorf("the new address is followed after %v", got)
		}
		if got := c.dialed.Load(); got != 2 {
			t.Errorf("%d connections were made", got)
		}
	})
}

func TestFailure(t *testing.T) {
	protocols(t, dnstest.Answer(http.StatusNotFound, "old"), func(t *testing.T, c *client) {
		if got := c.ask(); got != "old" {
			t.Fatalf("%s answers", got)
		}
		if got := c.name.FollowedAfter(t, c.ask); got != maxAgeFailed {
			t.Errorf("the new address is followed after %v", got)
		}
		if got := c.dialed.Load(); got != 2 {
			t.Errorf("%d connections were made", got)
		}
		<-time.After(maxAge - time.Second)
		c.ask()
		if got := c.dialed.Load(); got != 2 {
			t.Errorf("%d connections were made: a failure shortens the use of the next connection, too", got)
		}
	})
}

// TestStreamsStay: an answer that is still being read keeps its connection, which is closed
// afterwards.
func TestStreamsStay(t *testing.T) {
	const last = "last\n"
	var more chan string
	old := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/watch" {
			_, _ = io.WriteString(w, "old")
			return
		}
		for {
			select {
			case line := <-more:
				_, _ = io.WriteString(w, line)
				_ = http.NewResponseController(w).Flush()
				if line == last {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	protocols(t, old, func(t *testing.T, c *client) {
		more = make(chan string)
		go func() { more <- "first\n" }()
		watch := c.send("/watch")
		defer watch.Body.Close()
		lines := bufio.NewReader(watch.Body)
		if got, err := lines.ReadString('\n'); got != "first\n" {
			t.Fatalf("the watch begins with %q: %v", got, err)
		}
		c.name.Switch()
		<-time.After(maxAge)
		if got := c.ask(); got != "new" {
			t.Fatalf("%s answers a new request", got)
		}
		<-time.After(10 * maxAge)
		go func() { more <- last }()
		if got, err := io.ReadAll(lines); string(got) != last || err != nil {
			t.Errorf("the watch ends with %q: %v", got, err)
		}
		<-time.After(idleTimeout)
		synctest.Wait()
		if got := c.open.Load(); got != 0 {
			t.Errorf("%d connections are open that nothing uses", got)
		}
	})
}
