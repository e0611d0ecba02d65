package clusters

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher"
)

// world contains the broker, two targets and the volumes of a Pod. They are connected in memory, so
// that time passes only if all goroutines wait.
type world struct {
	t       *testing.T
	network network
	dir     string
	config  Config

	mu sync.Mutex
	// refused are the TargetClusters whose provider fails, issued how many credentials there were of
	// each.
	refused map[string]bool
	issued  map[string]int
	// subjects are the Pod's own tokens that came last, by TargetCluster.
	subjects map[string]string
	ca       []byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), refused: map[string]bool{}, issued: map[string]int{}, subjects: map[string]string{}}
	w.network.listeners = map[string]*listener{}
	identity, proxies := filepath.Join(w.dir, "identity"), filepath.Join(w.dir, "proxy")
	for _, dir := range []string{identity, proxies, filepath.Join(w.dir, "run")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.ca = w.serve("example.com:443", http.HandlerFunc(w.broker))
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": w.ca} {
		if err := os.WriteFile(filepath.Join(identity, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{"tenant-1", "tenant-2"} {
		w.serve(target+".example.com:6443", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprint(rw, target, " ", r.Header.Get("Authorization"))
		}))
	}
	w.config = Config{
		First: refresher.Config{
			Broker: "https://example.com", Target: "fleet/tenant-1", Namespace: "one",
			Delivery: refresher.Proxy, ProxyAddress: "127.0.0.1:16443", ProxyDir: proxies, OnEndpointChange: refresher.Ignore,
			CredentialsDir: w.path("serviceaccount"), IdentityDir: identity, TerminationLog: filepath.Join(w.dir, "termination-log"),
			Log: slog.New(slog.DiscardHandler), Dial: w.network.dial, Listen: w.network.listen, Jitter: func() float64 { return 0.5 },
		},
		Further:    []Cluster{{Target: "fleet/tenant-2", ProxyAddress: "127.0.0.1:16444", Namespace: "two"}},
		Kubeconfig: w.path("kubeconfig"),
	}
	return w
}

func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.dir, "run"}, names...)...)
}

// serve runs a TLS server at address and returns its CA.
func (w *world) serve(address string, handler http.Handler) []byte {
	w.t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	var err error
	if server.Listener, err = w.network.listen(w.t.Context(), "tcp", address); err != nil {
		w.t.Fatal(err)
	}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// broker is a handler that issues credentials with a lifetime of ten minutes.
func (w *world) broker(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var request wire.Request
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		w.t.Error(err)
	}
	for _, name := range []string{"tenant-1", "tenant-2", "tenant-3"} {
		if r.URL.Path != wire.TargetClusterPath("fleet", name) {
			continue
		}
		w.subjects[name] = request.SubjectToken
		if w.refused[name] {
			rw.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(rw, `{"kind":"Status","apiVersion":"v1","message":"the provider of `+name+` is down"}`)
			return
		}
		w.issued[name]++
		now := time.Now()
		err := json.NewEncoder(rw).Encode(wire.ExecCredential{
			APIVersion: wire.APIVersion, Kind: wire.Kind,
			Spec: wire.Spec{Cluster: wire.Cluster{
				Server: "https://" + name + ".example.com:6443", CertificateAuthorityData: w.ca,
				Config: wire.Config{Namespace: "default", IssuedAt: now, RefreshAt: now.Add(8 * time.Minute), Delivery: wire.DeliveryDirect},
			}},
			Status: wire.Status{Token: fmt.Sprintf("%s-%d", name, w.issued[name]), ExpirationTimestamp: now.Add(10 * time.Minute)},
		})
		if err != nil {
			w.t.Error(err)
		}
		return
	}
	w.t.Errorf("asked at %s", r.URL.Path)
}

func (w *world) refuse(name string, refused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[name] = refused
}

// start starts all refreshers, and returns when they wait.
func (w *world) start() (c *Clusters, stop func()) {
	w.t.Helper()
	c, err := New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	synctest.Wait()
	return c, func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
		synctest.Wait() // for the ports to be free again
	}
}

// ask sends a request through a proxy, like a client with the kubeconfig.
func (w *world) ask(address string) (int, string) {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(w.read("proxy", "ca.crt")))
	transport := &http.Transport{DialContext: w.network.dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+address+"/api", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+w.read("proxy", "token"))
	response, err := transport.RoundTrip(request)
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

func (w *world) wantAnswer(address, want string) {
	w.t.Helper()
	if code, got := w.ask(address); code != http.StatusOK || got != want {
		w.t.Errorf("at %s the answer is %d %q, want %q", address, code, got, want)
	}
}

func (w *world) read(names ...string) string {
	w.t.Helper()
	content, err := os.ReadFile(w.path(names...))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(content)
}

func get(c *Clusters, path string) (int, string) {
	recorder := httptest.NewRecorder()
	c.Handler("v1").ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	return recorder.Code, recorder.Body.String()
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestOneFails checks that a failing provider affects only its own context, which returns the
// reason, and that the context recovers.
func TestOneFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.refuse("tenant-2", true)
		c, stop := w.start()
		defer stop()
		if err := refresher.Wait(t.Context(), w.config.First.CredentialsDir, ""); err != nil {
			t.Fatal(err)
		}
		before := w.read("kubeconfig") + w.read("proxy", "token") + w.read("proxy", "ca.crt")
		w.wantAnswer("127.0.0.1:16443", "tenant-1 Bearer tenant-1-1")
		asked := time.Now()
		if code, got := w.ask("127.0.0.1:16444"); code != http.StatusServiceUnavailable || !time.Now().Equal(asked) ||
			!strings.Contains(got, "there is no credential for TargetCluster fleet/tenant-2: the broker answers 502 Bad Gateway: the provider of tenant-2 is down") {
			t.Errorf("the other answers %d %s after %v", code, got, time.Since(asked))
		}
		if got := w.read("clusters", "fleet", "tenant-2", "problem"); !strings.Contains(got, "the provider of tenant-2 is down") {
			t.Errorf("its problem is %q", got)
		}
		if code, got := get(c, "/healthz"); code != http.StatusServiceUnavailable || !strings.HasPrefix(got, "TargetCluster fleet/tenant-2: there is no credential yet") {
			t.Errorf("healthz is %d %q", code, got)
		}

		w.refuse("tenant-2", false)
		w.refuse("tenant-1", true)
		pass(9 * time.Minute)
		w.wantAnswer("127.0.0.1:16443", "tenant-1 Bearer tenant-1-1")
		if code, got := w.ask("127.0.0.1:16444"); code != http.StatusOK || !strings.HasPrefix(got, "tenant-2 Bearer tenant-2-") {
			t.Errorf("the other, back again, answers %d %s", code, got)
		}
		if got := w.read("clusters", "fleet", "tenant-2", "problem"); got != "" {
			t.Errorf("its problem is still %q", got)
		}
		if code, got := get(c, "/healthz"); code != http.StatusOK {
			t.Errorf("while the first keeps its last credential, healthz is %d %q", code, got)
		}
		_, metrics := get(c, "/metrics")
		for _, want := range []string{
			`keyferry_refresher_requests_total{kind="TargetCluster",target="fleet/tenant-1",outcome="renewed"} 1`,
			`keyferry_refresher_credential_expiration_timestamp_seconds{kind="TargetCluster",target="fleet/tenant-2"} `,
		} {
			if !strings.Contains(metrics, want) || strings.Count(metrics, "# TYPE keyferry_refresher_requests_total counter") != 1 {
				t.Errorf("no %s in\n%s", want, metrics)
			}
		}
		if after := w.read("kubeconfig") + w.read("proxy", "token") + w.read("proxy", "ca.crt"); after != before {
			t.Error("what clients have read has changed")
		}
	})
}

// TestSubjectTokens checks that each provider receives the token for its audience, and that a
// provider which exchanges no token receives none.
func TestSubjectTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Further = append(w.config.Further, Cluster{Target: "fleet/tenant-3", ProxyAddress: "127.0.0.1:16445"})
		identity := w.config.First.IdentityDir
		write := func(content, name string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(identity, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(identity, "subject-tokens", "fleet"), 0o755); err != nil {
			t.Fatal(err)
		}
		write("for sts.example.com", "subject-token")
		write("for api://other", "subject-tokens/fleet/tenant-2")
		_, stop := w.start()
		defer stop()
		w.wantSubjects("for sts.example.com", "for api://other", "")

		write("for api://other, renewed", "subject-tokens/fleet/tenant-2")
		pass(2 * time.Minute)
		w.wantSubjects("for sts.example.com", "for api://other, renewed", "")
	})
}

// TestInjectedPlaces checks that the refresher reads the paths that the injector configures.
func TestInjectedPlaces(t *testing.T) {
	pod, err := os.ReadFile("../../injector/testdata/inject/clusters-subject-tokens.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	further, err := Parse("fleet/other-source@127.0.0.1:16444/default")
	if err != nil {
		t.Fatal(err)
	}
	config := (&Clusters{config: Config{Kubeconfig: "/var/run/keyferry/kubeconfig"}}).configOf(further)
	for _, want := range []string{"path: " + config.SubjectToken + "\n", "- --cluster=" + further.Target + "@" + further.ProxyAddress + "/" + further.Namespace + "\n"} {
		if !strings.Contains(string(pod), want) {
			t.Errorf("an injected Pod has no %q", want)
		}
	}
}

// wantSubjects compares the last tokens that the providers of tenant-1, tenant-2 and so on
// received.
func (w *world) wantSubjects(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, token := range want {
		if name := fmt.Sprintf("tenant-%d", i+1); w.subjects[name] != token {
			w.t.Errorf("the provider of %s was sent %q, want %q", name, w.subjects[name], token)
		}
	}
}

// TestWithoutFirst tests Clusters without an in-cluster target, and that a restart of the sidecar
// changes nothing.
func TestWithoutFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.First.Target, w.config.First.Delivery, w.config.First.ProxyAddress = "", refresher.Direct, ""
		_, stop := w.start()
		if err := refresher.WaitFor(t.Context(), w.config.Kubeconfig); err != nil {
			t.Fatal(err)
		}
		w.wantAnswer("127.0.0.1:16444", "tenant-2 Bearer tenant-2-1")
		if _, err := os.Stat(w.config.First.CredentialsDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("in-cluster clients find something: %v", err)
		}
		before := w.read("kubeconfig") + w.read("proxy", "token")
		stop()
		_, stop = w.start()
		defer stop()
		w.wantAnswer("127.0.0.1:16444", "tenant-2 Bearer tenant-2-2")
		if after := w.read("kubeconfig") + w.read("proxy", "token"); after != before {
			t.Error("what clients have read has changed")
		}
	})
}

// TestPortIsTaken checks that the kubeconfig does not refer to a port of another program.
func TestPortIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("127.0.0.1:16444", http.NotFoundHandler())
		c, err := New(w.config)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "does another container of the Pod use the port") {
			t.Errorf("error %v", err)
		}
		if _, err := os.Stat(w.config.Kubeconfig); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is a kubeconfig: %v", err)
		}
		for address, listener := range c.opened {
			t.Log("closing", address, listener.Close())
		}
	})
}

func TestNew(t *testing.T) {
	for name, test := range map[string]struct {
		cluster string
		change  func(*Config)
		want    string
	}{
		"no address":     {"fleet/tenant-3", nil, "use NAMESPACE/NAME@IP:PORT"},
		"no name":        {"tenant-3@127.0.0.1:16445", nil, "--cluster of tenant-3: --target"},
		"climbs":         {"../tenant-3@127.0.0.1:16445", nil, "--cluster of ../tenant-3: --target"},
		"not loopback":   {"fleet/tenant-3@10.0.0.1:16445", nil, "needs a loopback address"},
		"namespace":      {"fleet/tenant-3@127.0.0.1:16445/a/b", nil, "is not the name of a namespace"},
		"same name":      {"fleet/tenant-1@127.0.0.1:16445", nil, "have the same name or address"},
		"same address":   {"fleet/tenant-3@127.0.0.1:16444", nil, "have the same name or address"},
		"first directly": {"fleet/tenant-3@127.0.0.1:16445", func(c *Config) { c.First.Delivery, c.First.ProxyAddress = refresher.Direct, "" }, "--cluster needs --delivery=proxy"},
		"fine":           {"fleet/tenant-3@127.0.0.1:16445/three", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			further, err := Parse(test.cluster)
			if err == nil {
				w.config.Further = append(w.config.Further, further)
				if test.change != nil {
					test.change(&w.config)
				}
				_, err = New(w.config)
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// network connects to addresses in memory.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

func (n *network) listen(_ context.Context, _, address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.listeners[address]; l != nil && l.open.Err() == nil {
		return nil, errors.New("address already in use")
	}
	l := &listener{address: address, connections: make(chan net.Conn)}
	l.open, l.close = context.WithCancel(context.Background())
	n.listeners[address] = l
	return l, nil
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	context.AfterFunc(l.open, func() { there.Close() }) // a TLS connection would take its time to say goodbye
	select {
	case l.connections <- there:
		return here, nil
	case <-l.open.Done():
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	address     string
	connections chan net.Conn
	open        context.Context
	close       context.CancelFunc
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connections:
		return c, nil
	case <-l.open.Done():
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.close()
	return nil
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.address} }
