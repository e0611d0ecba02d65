package refresher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher/cabundle"
	"github.com/keyferry/keyferry/refresher/proxy"
)

const localAddress = "127.0.0.1:16443"

// inProxyBubble runs test in a world whose refresher uses delivery by proxy.
func inProxyBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	inBubble(t, func(t *testing.T, w *world) {
		w.config.Delivery, w.config.ProxyAddress, w.config.ProxyDir = Proxy, localAddress, t.TempDir()
		w.config.Listen = func(_ context.Context, _, address string) (net.Listener, error) {
			return w.network.listen(address), nil
		}
		test(t, w)
	})
}

// serveAPI runs an API server that returns its name to clients with a good token.
func (w *world) serveAPI(address, name string, good func(token string) bool) {
	w.serve(address, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); !good(token) {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(rw, name, r.URL.Path)
	}))
}

func (w *world) current(token string) bool { return token == w.broker.lastToken() }

// asApplication requests /api like an in-cluster client with the current files.
func (w *world) asApplication() (int, string) {
	w.t.Helper()
	response, err := w.application(false)(http.MethodGet, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// application returns an in-cluster client with the current files. Each request uses a new
// connection.
func (w *world) application(http2 bool) func(method string, body io.Reader) (*http.Response, error) {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(w.file("ca.crt")))
	token := w.file("token")
	transport := &http.Transport{
		DialContext: w.network.dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, ForceAttemptHTTP2: http2, DisableKeepAlives: true,
	}
	return func(method string, body io.Reader) (*http.Response, error) {
		request, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+localAddress+"/api", body)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		return transport.RoundTrip(request)
	}
}

func (w *world) wantAnswer(want string) {
	w.t.Helper()
	if code, got := w.asApplication(); code != http.StatusOK || got != want {
		w.t.Errorf("the application is answered %d %q, want %q", code, got, want)
	}
}

// TestProxyOutlivesRenewalsAndRestarts checks that the clients' configuration stays the same, even
// if the credential or the sidecar is replaced.
func TestProxyOutlivesRenewalsAndRestarts(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.serveAPI("127.0.0.1:6443", "target", w.current)
		w.broker.life = 10 * time.Minute
		p := w.start()
		token, ca := w.file("token"), w.file("ca.crt")
		if strings.HasPrefix(token, "token-") || ca == string(w.broker.ca) {
			t.Fatalf("the application gets the target's own token or CA: %q %q", token, ca)
		}
		if got := w.file("env"); got != "KUBERNETES_SERVICE_HOST='127.0.0.1'\nKUBERNETES_SERVICE_PORT='16443'\nKUBERNETES_SERVICE_PORT_HTTPS='16443'\n" {
			t.Errorf("env is %q", got)
		}
		for range 30 {
			pass(time.Minute)
			w.wantAnswer("target/api")
		}
		p.stop()
		if err := p.ended(); err != nil {
			t.Fatal(err)
		}
		p = w.start()
		w.wantAnswer("target/api")
		if w.file("token") != token || w.file("ca.crt") != ca {
			t.Error("after a restart of the sidecar, the application needs another token or CA")
		}
		p.stop()
	})
}

// TestProxyFollowsTheTarget checks that the proxy uses another endpoint or CA only after the target
// has answered there.
func TestProxyFollowsTheTarget(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.serveAPI("127.0.0.1:6443", "old", func(string) bool { return true })
		p := w.start()
		w.broker.set(func() { w.broker.server = newServer + "/k8s/c-1" })
		pass(2 * pollInterval)
		w.wantAnswer("old/api")
		if err := p.failure(); err == nil || !strings.Contains(err.Error(), "keeps the old endpoint") {
			t.Errorf("the failure is %v", err)
		}
		w.serveAPI("[::1]:6443", "new", w.current)
		pass(maxBackOff)
		w.wantAnswer("new/k8s/c-1/api")
		if err := p.ended(); !errors.Is(err, errRunning) {
			t.Errorf("Run ended: %v", err)
		}

		// A CA that is not the target's yet is added to the one that is.
		both := string(newCA(t)) + string(w.broker.ca)
		w.broker.set(func() { w.broker.ca = []byte(both) })
		pass(cabundle.Overlap)
		w.wantAnswer("new/k8s/c-1/api")
		p.stop()
	})
}

// TestProxyFollowsAtOnce checks that the first request uses the new endpoint if the old one is
// gone.
func TestProxyFollowsAtOnce(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		p := w.start() // nothing is at the old endpoint
		w.serveAPI("[::1]:6443", "new", w.current)
		w.broker.set(func() { w.broker.server = newServer })
		w.wantAnswer("new/api")
		if refused := w.broker.toldRefused(); len(refused) > 0 {
			t.Errorf("the broker is told that %q is refused, and it only could not be shown", refused)
		}
		p.stop()
	})
}

// TestProxyRestartsForAnotherCluster: the informers of an application must not get another cluster.
func TestProxyRestartsForAnotherCluster(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.serveAPI("127.0.0.1:6443", "target", w.current)
		w.broker.clusterUID = "uid-1"
		p := w.start()
		w.broker.set(func() { w.broker.clusterUID = "uid-2" })
		pass(pollInterval + w.config.RestartSpread)
		if err := p.ended(); !errors.Is(err, ErrRestart) {
			t.Errorf("Run returned %v", err)
		}
		if got := w.state().ClusterUID; got != "uid-2" {
			t.Errorf("the files are for cluster %q", got)
		}
	})
}

// TestProxyAsksTheBrokerWhenRefused checks that the proxy requests another credential at once, but
// not for each of many requests.
func TestProxyAsksTheBrokerWhenRefused(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.serveAPI("127.0.0.1:6443", "target", func(token string) bool { return token == "token-2" })
		p := w.start()
		first := w.broker.etag
		w.wantAnswer("target/api")
		if got := w.broker.toldRefused(); !slices.Equal(got, []string{first}) {
			t.Errorf("the broker is told that %q is refused, want %q", got, first)
		}

		w.broker.set(func() { w.broker.current.Spec.Cluster.Config.RefreshAt = time.Time{} })
		pass(time.Minute) // token-3 is refused, too
		before := len(w.broker.requests())
		for range 100 {
			if code, _ := w.asApplication(); code != http.StatusUnauthorized {
				t.Fatalf("answered with %d", code)
			}
		}
		if got := len(w.broker.requests()) - before; got != 1 {
			t.Errorf("the broker was asked %d times", got)
		}
		p.stop()
	})
}

// TestProxyBeforeAnOlderBroker checks that a broker without support for rejected credentials
// returns nothing newer, without harm.
func TestProxyBeforeAnOlderBroker(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.broker.old = true
		w.serveAPI("127.0.0.1:6443", "target", func(token string) bool { return token == "token-2" })
		p := w.start()
		if code, _ := w.asApplication(); code != http.StatusUnauthorized {
			t.Errorf("answered with %d", code)
		}
		pass(48 * time.Minute) // when it is renewed anyway
		w.wantAnswer("target/api")
		p.stop()
	})
}

// TestProxyWithoutABroker checks that the last credential is used until it expires, and that
// clients then get the reason.
func TestProxyWithoutABroker(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		end := time.Now().Add(time.Hour)
		w.serveAPI("127.0.0.1:6443", "target", func(token string) bool { return w.current(token) && time.Now().Before(end) })
		p := w.start()
		w.broker.set(func() { w.broker.down = true })
		pass(59 * time.Minute)
		w.wantAnswer("target/api")
		pass(time.Minute)
		if code, body := w.asApplication(); code != http.StatusServiceUnavailable || !strings.Contains(body, "the credential for TargetCluster fleet/tenant-1 ended at 2000-01-01T01:00:00Z: asking the broker: ") {
			t.Errorf("after the end: %d %s", code, body)
		}
		p.stop()
	})
}

// TestRestartedProxyNeedsNoBroker checks that a sidecar which is killed while the broker is down
// continues with its last credential until it expires.
func TestRestartedProxyNeedsNoBroker(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		expiry := time.Now().Add(time.Hour)
		w.serveAPI("127.0.0.1:6443", "target", func(token string) bool { return w.current(token) && time.Now().Before(expiry) })
		p := w.start()
		w.broker.set(func() { w.broker.down = true })
		p.stop()
		if err := p.ended(); err != nil {
			t.Fatal(err)
		}

		pass(59 * time.Minute)
		p = w.start()
		w.wantAnswer("target/api")
		if code, body := p.healthz(); code != http.StatusOK {
			t.Errorf("healthz: %d %s", code, body)
		}
		p.stop()
		if err := p.ended(); err != nil {
			t.Fatal(err)
		}

		pass(time.Minute)
		p = w.start()
		if code, body := w.asApplication(); code != http.StatusServiceUnavailable ||
			!strings.Contains(body, "there is no credential for TargetCluster fleet/tenant-1") {
			t.Errorf("after the expiry: %d %s", code, body)
		}
		w.broker.set(func() { w.broker.down = false })
		expiry = time.Now().Add(time.Hour)
		pass(time.Minute)
		w.wantAnswer("target/api")
		p.stop()
	})
}

// TestStoredCredential checks that a credential is stored completely, and that only its owner can
// read the file.
func TestStoredCredential(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		certificate, key := newPair(t)
		proxyURL := &url.URL{Scheme: "http", User: url.UserPassword("user", "secret"), Host: "proxy.example.com:3128"}
		want := credential{
			target: proxy.Target{
				Server: &url.URL{Scheme: "https", Host: "127.0.0.1:6443", Path: "/k8s/clusters/c-1"}, CA: newCA(t),
				ServerName: "api.example.com", Proxy: proxyURL,
				Token: "token-1", Certificate: []byte(certificate), Key: []byte(key), NotAfter: time.Now().Add(time.Hour),
			},
			clusterUID: "uid-1", namespace: "shop", delivery: wire.DeliveryProxy,
			notAfter: time.Now().Add(time.Hour), refreshAt: time.Now().Add(48 * time.Minute),
		}
		r, err := New(w.config)
		if err != nil {
			t.Fatal(err)
		}
		r.save(want)
		if info, err := os.Stat(r.credentialPath()); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		content, err := os.ReadFile(r.credentialPath())
		if err != nil {
			t.Fatal(err)
		}
		got, err := storedCredential(content, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if want, got := fmt.Sprintf("%+v", want.answer()), fmt.Sprintf("%+v", got.answer()); got != want {
			t.Errorf("stored as\n%s\nrestored as\n%s", want, got)
		}
	})
}

// TestUnusableStoredCredential checks that the sidecar ignores an unusable stored credential and
// gets one from the broker.
func TestUnusableStoredCredential(t *testing.T) {
	for name, spoil := range map[string]func(content string) string{
		"cut off":         func(content string) string { return content[:len(content)/2] },
		"empty":           func(string) string { return "" },
		"another cluster": func(content string) string { return strings.ReplaceAll(content, "uid-1", "uid-2") },
	} {
		t.Run(name, func(t *testing.T) {
			inProxyBubble(t, func(t *testing.T, w *world) {
				w.serveAPI("127.0.0.1:6443", "target", w.current)
				w.broker.set(func() { w.broker.clusterUID = "uid-1" })
				p := w.start()
				p.stop()
				if err := p.ended(); err != nil {
					t.Fatal(err)
				}
				content, err := os.ReadFile(p.credentialPath())
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p.credentialPath(), []byte(spoil(string(content))), 0o600); err != nil {
					t.Fatal(err)
				}
				w.broker.set(func() { w.broker.down = true })
				p = w.start()
				if code, _ := w.asApplication(); code != http.StatusServiceUnavailable {
					t.Errorf("with the spoilt file: %d", code)
				}
				w.broker.set(func() { w.broker.down = false })
				pass(time.Minute)
				w.wantAnswer("target/api")
				p.stop()
			})
		})
	}
}

func TestProxyWithoutAPort(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.config.Listen = func(context.Context, string, string) (net.Listener, error) {
			return nil, errors.New("address already in use")
		}
		p := w.start()
		err := p.ended()
		if err == nil || !strings.Contains(err.Error(), "address already in use") || w.terminationMessage() != err.Error() {
			t.Errorf("Run returned %v, the termination message is %q", err, w.terminationMessage())
		}
	})
}

func TestProxyConfig(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		want   string
	}{
		"no address":      {func(c *Config) { c.ProxyAddress = "" }, "--proxy-address"},
		"not at loopback": {func(c *Config) { c.ProxyAddress = "0.0.0.0:16443" }, "needs a loopback address"},
		"a name":          {func(c *Config) { c.ProxyAddress = "localhost:16443" }, "needs a loopback address"},
		"no port":         {func(c *Config) { c.ProxyAddress = "127.0.0.1:0" }, "needs a loopback address"},
		"no directory":    {func(c *Config) { c.ProxyDir = "" }, "--proxy-dir"},
		"an endpoint":     {func(c *Config) { c.Endpoint = oldServer }, "--endpoint is for --delivery=direct only"},
		"direct":          {func(c *Config) { c.Delivery = Direct }, "--proxy-address is for --delivery=proxy only"},
		"neither":         {func(c *Config) { c.Delivery = "auto" }, "use direct or proxy"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := newWorld(t).config
				config.Delivery, config.ProxyAddress, config.ProxyDir = Proxy, localAddress, filepath.Join(t.TempDir(), "proxy")
				test.change(&config)
				if _, err := New(config); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want one that says %q", err, test.want)
				}
			})
		})
	}
}

// TestProxyHoldsLittle checks that a receiver which does not read blocks the sender, in both
// directions, without lost data.
func TestProxyHoldsLittle(t *testing.T) {
	const much, little = 64 << 20, 8 << 20 // clients themselves let 4 MiB come
	for name, http2 := range map[string]bool{"HTTP 1.1": false, "HTTP 2": true} {
		t.Run(name, func(t *testing.T) {
			inProxyBubble(t, func(t *testing.T, w *world) {
				var sent atomic.Int64
				read := make(chan struct{})
				w.serve("127.0.0.1:6443", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost {
						<-read
						n, _ := io.Copy(io.Discard, r.Body)
						fmt.Fprint(rw, n)
						return
					}
					_, _ = io.Copy(rw, &counted{left: much, sent: &sent})
				}))
				p := w.start()
				client := w.application(http2)
				held := func() {
					t.Helper()
					synctest.Wait()
					if n := sent.Load(); n == 0 || n > little {
						t.Errorf("%d bytes are on their way to who does not read", n)
					}
				}

				response, err := client(http.MethodGet, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				held()
				if n, err := io.Copy(io.Discard, response.Body); err != nil || n != much {
					t.Errorf("%d bytes arrive, error %v", n, err)
				}
				response.Body.Close()

				sent.Store(0)
				answered := make(chan string)
				go func() {
					response, err := client(http.MethodPost, &counted{left: much, sent: &sent})
					if err != nil {
						answered <- err.Error()
						return
					}
					defer response.Body.Close()
					body, _ := io.ReadAll(response.Body)
					answered <- string(body)
				}()
				held()
				close(read)
				if got := <-answered; got != strconv.Itoa(much) {
					t.Errorf("the target read %s bytes", got)
				}
				p.stop()
			})
		})
	}
}

// counted is a reader of zeros that counts what has been read.
type counted struct {
	left int64
	sent *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.left)
	clear(p[:n])
	c.left -= n
	c.sent.Add(n)
	return int(n), nil
}
