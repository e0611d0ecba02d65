package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestForwards(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		w, target := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			rw.Header().Set("Warning", `299 - "x"`)
			rw.WriteHeader(http.StatusCreated)
			fmt.Fprintf(rw, "%s", body)
		})
		request := w.request(http.MethodPost, "/api/v1/namespaces/a%2Fb/pods?fieldSelector=a%3Db;c&x=%zz", strings.NewReader("body"))
		request.Host = "other.example.com" // and :authority
		request.Header.Set("Impersonate-User", "jane")
		request.Header.Add("Impersonate-Group", "a")
		request.Header.Add("Impersonate-Group", "b")
		request.Header.Set("X-Forwarded-For", "1.2.3.4")
		request.Header.Set("User-Agent", "")
		response, err := w.client(http2).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusCreated || string(body) != "body" || response.Header.Get("Warning") == "" {
			t.Errorf("%s %q %v", response.Status, body, response.Header)
		}
		got := w.seen()[0]
		if got.RequestURI != "/api/v1/namespaces/a%2Fb/pods?fieldSelector=a%3Db;c&x=%zz" {
			t.Errorf("the target was asked for %s", got.RequestURI)
		}
		if got.ProtoMajor != 2 || got.Host != target.Listener.Addr().String() {
			t.Errorf("the target was asked with %s for host %s", got.Proto, got.Host)
		}
		for name, want := range map[string][]string{
			"Authorization":     {"Bearer target-token"},
			"Impersonate-User":  {"jane"},
			"Impersonate-Group": {"a", "b"},
			"X-Forwarded-For":   nil,
			"User-Agent":        nil,
		} {
			if values := got.Header.Values(name); fmt.Sprint(values) != fmt.Sprint(want) {
				t.Errorf("%s is %q, want %q", name, values, want)
			}
		}
	})
}

func TestRefusalIsAStatus(t *testing.T) {
	w, target := newWorld(t, func(http.ResponseWriter, *http.Request) {})
	target.Close()
	code, body := w.get(w.client(true), "/api")
	var status struct {
		Kind, APIVersion, Status, Message string
		Code                              int
	}
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if code != http.StatusBadGateway || status.Kind != "Status" || status.APIVersion != "v1" || status.Status != "Failure" || status.Code != code ||
		!strings.Contains(status.Message, "cannot be reached") {
		t.Errorf("%d %s", code, body)
	}
}

// TestWatchStreams checks that the target's data arrives immediately, and that the target notices
// when the client disconnects.
func TestWatchStreams(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		gone := make(chan struct{})
		more := make(chan struct{})
		w, _ := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			control := http.NewResponseController(rw)
			_ = control.Flush() // a watch without events has a header only
			for range more {
				_, _ = io.WriteString(rw, "event\n")
				_ = control.Flush()
			}
			<-r.Context().Done()
			close(gone)
		})
		response, err := w.client(http2).Do(w.request(http.MethodGet, "/api/v1/pods?watch=1", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		for range 3 {
			more <- struct{}{}
			if line, err := lines.ReadString('\n'); err != nil || line != "event\n" {
				t.Fatalf("%q %v", line, err)
			}
		}
		close(more)
		response.Body.Close()
		<-gone
	})
}

// TestTargetBreaksOff checks that clients recognize an incomplete response.
func TestTargetBreaksOff(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		w, _ := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, "half")
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		})
		response, err := w.client(http2).Do(w.request(http.MethodGet, "/api", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err == nil {
			t.Errorf("%q came as a whole", body)
		}
	})
}

func TestTrailers(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		w, _ := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			rw.Header().Set("Trailer", "Sum")
			_, _ = io.WriteString(rw, "body")
			_ = http.NewResponseController(rw).Flush() // else it has a length, and trailers need chunks
			rw.Header().Set("Sum", "42")
		})
		response, err := w.client(http2).Do(w.request(http.MethodGet, "/api", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		if got := response.Trailer.Get("Sum"); got != "42" {
			t.Errorf("the trailer is %q", got)
		}
	})
}

// TestLargeBodies sends 64 MiB in each direction.
func TestLargeBodies(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		w, _ := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) })
		const size = 64 << 20
		sent, got := sha256.New(), sha256.New()
		response, err := w.client(http2).Do(w.request(http.MethodPost, "/api", io.TeeReader(io.LimitReader(rand.Reader, size), sent)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if n, err := io.Copy(got, response.Body); err != nil || n != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Errorf("%d bytes came back, error %v", n, err)
		}
	})
}

// TestUpgrade tests upgrades, as for exec, attach and port-forward, with both protocols of API
// servers.
func TestUpgrade(t *testing.T) {
	for _, protocol := range upgrades {
		t.Run(protocol, func(t *testing.T) {
			w, _ := newWorld(t, upgrading)
			w.wantUpgrade(t, protocol)
			if got := w.seen()[0]; got.Header.Get("Authorization") != "Bearer target-token" {
				t.Errorf("Authorization is %q", got.Header.Get("Authorization"))
			}
		})
	}
}

// TestRefusedCredentialIsRenewed checks that many requests which are rejected at the same time
// cause one renewal, and that all succeed.
func TestRefusedCredentialIsRenewed(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		w, target := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.Header.Get("Authorization") != "Bearer new-token" {
				rw.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(rw, "%s", body)
		})
		var mu sync.Mutex
		renewals := 0
		w.renew = func() {
			mu.Lock()
			defer mu.Unlock()
			renewals++
			w.proxy.Set(w.target(target, "new-token"))
		}
		client := w.client(http2)
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				body := fmt.Sprintf("body %d", i)
				if code, got := w.do(client, w.request(http.MethodPut, "/api", strings.NewReader(body))); code != http.StatusOK || got != body {
					t.Errorf("%d %q", code, got)
				}
			})
		}
		group.Wait()
		mu.Lock()
		defer mu.Unlock()
		if renewals != 1 || !w.refused {
			t.Errorf("%d renewals, because it was refused: %v", renewals, w.refused)
		}
	})
}

// TestRefusedTwice checks that the client gets the error if the new credential is rejected, too, or
// if the request cannot be repeated.
func TestRefusedTwice(t *testing.T) {
	tests := map[string]struct {
		body  io.Reader
		token string
		times int
	}{
		"the same credential": {http.NoBody, "target-token", 1},
		"a newer one":         {http.NoBody, "new-token", 2},
		"unknown length":      {io.MultiReader(strings.NewReader("x")), "new-token", 1},
		"too large to keep":   {strings.NewReader(strings.Repeat("x", maxRepeat+1)), "new-token", 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w, target := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				rw.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(rw, "the target's own words")
			})
			before := w.target(target, "target-token")
			w.proxy.Set(before)
			w.renew = func() {
				before.Token = test.token
				w.proxy.Set(before)
			}
			code, body := w.do(w.client(false), w.request(http.MethodPost, "/api", test.body))
			if code != http.StatusUnauthorized || body != "the target's own words" {
				t.Errorf("%d %q", code, body)
			}
			if got := len(w.seen()); got != test.times {
				t.Errorf("the target was asked %d times, want %d", got, test.times)
			}
		})
	}
}

// TestSwitchLeavesStreamsAlone changes the token, and then the server, during a stream.
func TestSwitchLeavesStreamsAlone(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		more := make(chan struct{})
		w, old := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") == "" {
				fmt.Fprint(rw, "old ", r.Header.Get("Authorization"))
				return
			}
			for range more {
				_, _ = io.WriteString(rw, "event\n")
				_ = http.NewResponseController(rw).Flush()
			}
		})
		client := w.client(http2)
		more2 := func(lines *bufio.Reader) {
			t.Helper()
			more <- struct{}{}
			if line, err := lines.ReadString('\n'); err != nil || line != "event\n" {
				t.Fatalf("%q %v", line, err)
			}
		}
		go func() { more <- struct{}{} }() // nothing is sent before the first event
		response, err := client.Do(w.request(http.MethodGet, "/api/v1/pods?watch=true", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		_, _ = lines.ReadString('\n')

		w.proxy.Set(w.target(old, "second-token"))
		if _, got := w.get(client, "/api"); got != "old Bearer second-token" {
			t.Errorf("after a new token: %q", got)
		}
		more2(lines)

		moved := w.serve(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "new ", r.Header.Get("Authorization")) })
		w.proxy.Set(w.target(moved, "third-token"))
		if _, got := w.get(client, "/api"); got != "new Bearer third-token" {
			t.Errorf("after a move: %q", got)
		}
		more2(lines)
		close(more)
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Errorf("the stream ended with %q %v", rest, err)
		}
	})
}

// TestMoveIsFollowed checks that a newer target is requested if the target cannot be reached, and
// that the request is sent there.
func TestMoveIsFollowed(t *testing.T) {
	w, old := newWorld(t, func(http.ResponseWriter, *http.Request) {})
	moved := w.serve(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) })
	w.renew = func() { w.proxy.Set(w.target(moved, "token")) }
	old.Close()
	if code, got := w.do(w.client(true), w.request(http.MethodPost, "/api", strings.NewReader("body"))); code != http.StatusOK || got != "body" {
		t.Errorf("%d %q", code, got)
	}
	if w.refused {
		t.Error("the credential is said to be refused, and it only could not be shown")
	}
}

// TestEndedCredential checks that the target decides whether the credential has expired, and that
// the error tells clients whether to retry.
func TestEndedCredential(t *testing.T) {
	w, target := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/lenient" {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	})
	ended := w.target(target, "token")
	ended.NotAfter = time.Now().Add(-time.Second)
	w.proxy.Set(ended)
	if code, body := w.get(w.client(true), "/lenient"); code != http.StatusOK {
		t.Errorf("where the target takes it: %d %s", code, body)
	}
	response, err := w.client(true).Do(w.request(http.MethodGet, "/api", http.NoBody))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" || !strings.Contains(string(body), "the credential for TargetCluster fleet/tenant-1 ended at") {
		t.Errorf("%s %v %s", response.Status, response.Header, body)
	}

	w.proxy.Fail(Problem{Reason: "the broker answers 403 Forbidden: no use", Refused: true})
	if code, body := w.get(w.client(true), "/api"); code != http.StatusServiceUnavailable || !strings.Contains(body, "ended at") || !strings.Contains(body, "no use") {
		t.Errorf("refused since: %d %s", code, body)
	}
}

// TestConnectionsAreLimited: a connection frees its place when it is closed, and only once.
func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections = 3
		inner := &memory{connections: make(chan net.Conn, connections), closed: make(chan struct{})}
		for range connections {
			connection := inner.dial()
			t.Cleanup(func() { _ = connection.Close() })
		}
		listener := Limit(inner, 1)
		defer listener.Close()
		accepted := make(chan net.Conn, connections)
		go func() {
			for connection, err := listener.Accept(); err == nil; connection, err = listener.Accept() {
				accepted <- connection
			}
		}()
		for range connections {
			synctest.Wait()
			if got := len(accepted); got != 1 {
				t.Fatalf("%d connections are open", got)
			}
			connection := <-accepted
			connection.Close()
			connection.Close()
		}
	})
}

// TestBodyBuffers checks the limit of large buffers.
func TestBodyBuffers(t *testing.T) {
	b := newBodyBuffers()
	for range 2 {
		var taken [][]byte
		for i := range 10 * maxLarge {
			buffer := b.Get()
			if want := map[bool]int{true: largeBuffer, false: mediumBuffer}[i < maxLarge]; len(buffer) != want {
				t.Fatalf("number %d has %d bytes, want %d", i, len(buffer), want)
			}
			taken = append(taken, buffer)
		}
		for _, buffer := range taken {
			b.Put(buffer)
		}
	}
}
