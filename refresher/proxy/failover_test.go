package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/internal/dnstest"
)

// failover contains a proxy in a bubble, and a target whose address in DNS changes.
type failover struct {
	*world

	name   *dnstest.Failover
	client *http.Client
}

// newFailover returns a failover from the handler old to a server that answers "new".
func newFailover(t *testing.T, dir string, http2 bool, old http.Handler) *failover {
	t.Helper()
	name := dnstest.NewInMemory(t, old, dnstest.Answer(http.StatusOK, "new"))
	p, listener := inMemory(t, dir, name.DialContext)
	end := time.Now().Add(24 * time.Hour)
	p.Set(Target{Server: mustParse(t, name.URL), CA: name.CA, Token: "target-token", NotAfter: end})
	f := &failover{world: &world{t: t, proxy: p, address: "localhost"}, name: name}
	f.client = f.world.client(http2)
	transport, ok := f.client.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the client has a %T", f.client.Transport)
	}
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return listener.dial(), nil }
	return f
}

// bubbles runs a test in a bubble, with clients of HTTP/1.1 and HTTP/2.
func bubbles(t *testing.T, test func(t *testing.T, dir string, http2 bool)) {
	protocols(t, func(t *testing.T, http2 bool) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) { test(t, dir, http2) })
	})
}

// TestFailover checks that the proxy follows a change of the target's address in DNS, even if the
// server at the old address still responds, and that it follows soon if these responses are not
// those of a working API server.
func TestFailover(t *testing.T) {
	for name, test := range map[string]struct {
		code    int
		auditID string
		want    time.Duration
	}{
		"works":                   {http.StatusOK, "id", maxAge},
		"has no such object":      {http.StatusNotFound, "id", maxAge},
		"forbids":                 {http.StatusForbidden, "id", maxAge},
		"throttles":               {http.StatusTooManyRequests, "id", maxAge},
		"is another server":       {http.StatusNotFound, "", maxAgeFailed},
		"is for other names":      {http.StatusMisdirectedRequest, "", maxAgeFailed},
		"does not know the token": {http.StatusUnauthorized, "id", maxAgeFailed},
		"is broken":               {http.StatusServiceUnavailable, "id", maxAgeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			bubbles(t, func(t *testing.T, dir string, http2 bool) {
				f := newFailover(t, dir, http2, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("Audit-Id", test.auditID)
					rw.WriteHeader(test.code)
					_, _ = io.WriteString(rw, "old")
				}))
				if code, body := f.get(f.client, "/api"); code != test.code || body != "old" {
					t.Fatalf("%d %s", code, body)
				}
				ask := func() string {
					_, body := f.get(f.client, "/api")
					return body
				}
				if got := f.name.FollowedAfter(t, ask); got != test.want {
					t.Errorf("the new address is followed after %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestFailoverKeepsStreams checks that a watch and an exec continue at the old address while new
// requests use the new one.
func TestFailoverKeepsStreams(t *testing.T) {
	bubbles(t, func(t *testing.T, dir string, http2 bool) {
		events := make(chan string)
		f := newFailover(t, dir, http2, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Upgrade") != "":
				upgrading(rw, r)
			case !isWatch(r):
				_, _ = io.WriteString(rw, "old")
			default:
				for {
					_ = http.NewResponseController(rw).Flush()
					select {
					case event := <-events:
						fmt.Fprintln(rw, event)
					case <-r.Context().Done():
						return
					}
				}
			}
		}))
		response, err := f.client.Do(f.request(http.MethodGet, "/api?watch=1", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		watch := bufio.NewReader(response.Body)
		exec := f.exec()
		defer exec.Close()
		f.name.Switch()
		for range 3 {
			<-time.After(maxAge)
			if _, body := f.get(f.client, "/api"); body != "new" {
				t.Fatalf("a new request has the answer %q", body)
			}
		}
		go func() { events <- "event" }()
		if got, err := watch.ReadString('\n'); got != "event\n" {
			t.Errorf("the watch has %q: %v", got, err)
		}
		line := make([]byte, len("line"))
		_, _ = io.WriteString(exec, "line")
		if _, err := io.ReadFull(exec, line); string(line) != "line" {
			t.Errorf("the exec has %q: %v", line, err)
		}
	})
}

// exec opens a stream like kubectl exec. The target returns what it receives.
func (f *failover) exec() io.ReadWriteCloser {
	f.t.Helper()
	client := f.world.client(false)
	transport, _ := client.Transport.(*http.Transport)
	own, _ := f.client.Transport.(*http.Transport)
	transport.DialContext = own.DialContext
	request := f.request(http.MethodGet, "/exec", http.NoBody)
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "SPDY/3.1")
	response, err := client.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	stream, ok := response.Body.(io.ReadWriteCloser)
	if !ok {
		f.t.Fatalf("no exec: %s", response.Status)
	}
	return stream
}
