package webhook_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/webhook"
)

// TestDrainMovesClientsOn checks that clients which keep their connections open, like API servers,
// have left before the server stops.
func TestDrainMovesClientsOn(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			drain, _ := webhook.NewDrain(ctx, time.Hour)
			server := httptest.NewUnstartedServer(drain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Proto)
			})))
			server.EnableHTTP2 = protocol == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()

			if ask(t, server, protocol) {
				t.Fatal("the first request found a connection")
			}
			if !ask(t, server, protocol) {
				t.Error("the connection was not kept before draining")
			}
			stop()
			ask(t, server, protocol)
			if ask(t, server, protocol) {
				t.Error("the connection was kept while draining")
			}
		})
	}
}

// ask sends a request. It reports whether the request used an existing connection.
func ask(t *testing.T, server *httptest.Server, protocol string) (reused bool) {
	t.Helper()
	trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != protocol {
		t.Fatalf("got %q, %v", body, err)
	}
	return reused
}

func TestDrainTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		_, serving := webhook.NewDrain(ctx, 5*time.Second)
		start := time.Now()
		time.AfterFunc(time.Minute, stop)
		<-serving.Done()
		if took := time.Since(start); took != 65*time.Second {
			t.Errorf("it ended after %s", took)
		}
	})
}
