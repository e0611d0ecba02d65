package serving

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

func testLimits() Limits {
	return Limits{Connections: 8, PerAddress: 8, HeaderBytes: 32 << 10, Read: time.Minute, Write: time.Minute, Idle: time.Minute}
}

// serve runs a Server with a certificate of httptest until stop is called; stop returns what Start
// did.
func serve(t testing.TB, handler http.Handler) (server *Server, url string, client *http.Client, stop func() error) {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	t.Cleanup(donor.Close)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err = New(Config{
		Listener: listener, Handler: handler, TLS: &tls.Config{Certificates: donor.TLS.Certificates, MinVersion: tls.VersionTLS12},
		Limits: testLimits(), ShutdownTimeout: time.Minute, Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	stop = func() error { cancel(); return <-ended }
	return server, "https://" + listener.Addr().String(), donor.Client(), stop
}

func TestServerDrains(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	server, url, client, stop := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, r.Proto)
	}))
	answer := make(chan string, 1)
	go func() {
		response, err := client.Get(url)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer func() { _ = response.Body.Close() }()
		body, _ := io.ReadAll(response.Body)
		answer <- string(body)
	}()
	<-arrived
	if err := server.Ready(nil); err != nil {
		t.Errorf("not ready while serving: %v", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for server.Ready(nil) == nil { //nolint:revive // waits for the other goroutine
	}
	close(release)
	if got := <-answer; got != "HTTP/1.1" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopping: %v", err)
	}
	if response, err := client.Get(url); err == nil {
		_ = response.Body.Close()
		t.Error("still serves")
	}
}

func TestServerLimits(t *testing.T) {
	_, url, client, stop := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("TLS 1.1", func(t *testing.T) {
		old := transport(t, client)
		old.TLSClientConfig.MaxVersion = tls.VersionTLS11
		old.TLSClientConfig.MinVersion = tls.VersionTLS10
		response, err := (&http.Client{Transport: old}).Get(url)
		if err == nil {
			_ = response.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("large header", func(t *testing.T) {
		one := transport(t, client)
		one.Protocols = new(http.Protocols)
		one.Protocols.SetHTTP1(true)
		one.TLSClientConfig.NextProtos = nil
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.Repeat("x", testLimits().HeaderBytes+8<<10))
		response, err := (&http.Client{Transport: one}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("code %d", response.StatusCode)
		}
	})
}

// transport returns one of the test's own, like the client's.
func transport(t testing.TB, client *http.Client) *http.Transport {
	t.Helper()
	original, ok := client.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the client's transport is a %T", client.Transport)
	}
	return original.Clone()
}

// certificates returns the certificate of httptest.
func certificates(t *testing.T) []tls.Certificate {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	return donor.TLS.Certificates
}
