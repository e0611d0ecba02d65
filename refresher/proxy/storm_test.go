package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestManyWatchesAtOnce: if clients open all their watches at once, for example when a target is
// back, the proxy opens few more connections than the watches need. Each connection costs memory.
func TestManyWatchesAtOnce(t *testing.T) {
	const clients, watches, perConnection = 8, 125, 100
	w, _ := newWorld(t, nil)
	var connections atomic.Int32
	target := w.serveWith(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		if isWatch(r) {
			<-r.Context().Done()
		}
	}, func(server *http.Server) {
		server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: perConnection}
		server.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
	})
	w.proxy.Set(w.target(target, "target-token"))
	var open sync.WaitGroup
	for range clients {
		client := w.client(true)
		w.get(client, "/api") // it is connected
		for range watches {
			open.Go(func() {
				response, err := client.Do(w.request(http.MethodGet, "/api/v1/pods?watch=1", http.NoBody))
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { _ = response.Body.Close() })
			})
		}
	}
	open.Wait()
	const need = clients * watches / perConnection
	if got := connections.Load(); got < need || got > need*(maxConnecting+1) {
		t.Errorf("%d connections for %d watches, of which each can have %d", got, clients*watches, perConnection)
	}
}

// TestSlowAnswersHoldUpNobody checks that a target may delay its responses, including headers, for
// any number of requests.
func TestSlowAnswersHoldUpNobody(t *testing.T) {
	answer := make(chan struct{})
	arrived := make(chan struct{})
	w, _ := newWorld(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-answer
		}
	})
	client := w.client(true)
	var slow sync.WaitGroup
	for range maxConnecting + 1 {
		slow.Go(func() { w.get(client, "/slow") })
		<-arrived
	}
	if code, _ := w.get(client, "/api"); code != http.StatusOK {
		t.Errorf("code %d", code)
	}
	close(answer)
	slow.Wait()
}

// TestUnreadAnswersHoldUpNobody checks that clients may leave large responses unread. The proxy
// buffers a limited part of each.
func TestUnreadAnswersHoldUpNobody(t *testing.T) {
	const unread = 6
	sent := make(chan struct{})
	w, _ := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = rw.Write(make([]byte, maxUnread))
			sent <- struct{}{}
			_, _ = rw.Write(make([]byte, maxUnread)) // does not end while nobody reads
		}
	})
	transport := &http.Transport{TLSClientConfig: w.tls(), ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	for range unread {
		response, err := client.Do(w.request(http.MethodGet, "/large", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = response.Body.Close() })
		<-sent
	}
	if code, _ := w.get(client, "/api"); code != http.StatusOK {
		t.Errorf("code %d", code)
	}
}

// TestTargetAway checks that a request fails in time while connections to the target fail slowly,
// however many other requests wait.
func TestTargetAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		defer close(back)
		hanging := func(context.Context, string, string) (net.Conn, error) {
			<-back
			return nil, net.ErrClosed
		}
		up := newUpstream(Target{Server: mustParse(t, "https://target.example")}, hanging)
		ctx, cancel := context.WithCancel(t.Context())
		var before sync.WaitGroup
		ask := func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "/api", http.NoBody)
			if err != nil {
				t.Error(err)
			}
			response, err := up.roundTrip(request)
			if err == nil {
				response.Body.Close()
			}
			return err
		}
		for range maxConnecting {
			before.Go(func() { _ = ask() })
		}
		synctest.Wait()
		start := time.Now()
		err := ask()
		if took := time.Since(start); took != maxConnectWait || outdated(nil, err) == "" {
			t.Errorf("after %s: %v", took, err)
		}
		cancel()
		before.Wait()
		if err := ask(); !errors.Is(err, context.Canceled) {
			t.Errorf("of a client that has gone: %v", err)
		}
	})
}
