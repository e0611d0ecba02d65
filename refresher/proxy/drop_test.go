package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestDrop: open watches and upgraded connections end, waiting requests and new ones are told why,
// and the target is used again once it is set.
func TestDrop(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		arrived, gone := make(chan struct{}, 1), make(chan string, 3)
		w, target := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Upgrade") != "":
				upgrading(rw, r)
				gone <- "upgrade"
			case strings.Contains(r.URL.RawQuery, "watch=1"):
				_ = http.NewResponseController(rw).Flush()
				<-r.Context().Done()
				gone <- "watch"
			case r.URL.Path == "/slow":
				arrived <- struct{}{}
				<-r.Context().Done()
				gone <- "slow"
			default:
				_, _ = io.WriteString(rw, "answer")
			}
		})
		client := w.client(http2)
		watch, err := client.Do(w.request(http.MethodGet, "/api/v1/pods?watch=1", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Body.Close()
		connection, err := (&tls.Dialer{Config: w.tls()}).DialContext(t.Context(), "tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		fmt.Fprintf(connection, "GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer %s\r\n\r\n", w.proxy.config.Identity.Token())
		upgraded := bufio.NewReader(connection)
		if response, err := http.ReadResponse(upgraded, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v %v", response, err)
		}
		answered := make(chan string)
		go func() {
			code, body := w.get(client, "/slow")
			answered <- fmt.Sprint(code, " ", body)
		}()
		<-arrived

		w.proxy.Fail(Problem{Reason: "it is locked", Refused: true})
		w.proxy.Drop()
		if got := <-answered; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "there is no credential for TargetCluster fleet/tenant-1: it is locked") {
			t.Errorf("a request under way: %s", got)
		}
		if _, err := io.ReadAll(watch.Body); err == nil {
			t.Error("the watch seems to be complete")
		}
		if _, err := upgraded.ReadByte(); err == nil {
			t.Error("the upgraded connection is open")
		}
		for range 3 {
			<-gone // the target sees the end of each, too
		}
		if code, body := w.get(client, "/api"); code != http.StatusServiceUnavailable || !strings.Contains(body, "it is locked") {
			t.Errorf("a new request: %d %s", code, body)
		}

		w.proxy.Set(w.target(target, "target-token"))
		if code, body := w.get(client, "/api"); code != http.StatusOK || body != "answer" {
			t.Errorf("after Set: %d %s", code, body)
		}
	})
}
