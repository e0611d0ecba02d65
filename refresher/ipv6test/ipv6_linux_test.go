// Package ipv6test runs refreshers on a real network without IPv4: a network namespace of its own,
// as a Pod has one.
package ipv6test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher"
	"github.com/keyferry/keyferry/refresher/clusters"
)

// inside names the variable that is set in the namespace.
const inside = "KEYFERRY_TEST_NETWORK_NAMESPACE"

// TestIPv6Only runs all tests below in a network that has nothing but a loopback, which they take
// IPv4 from.
func TestIPv6Only(t *testing.T) {
	if os.Getenv(inside) == "" {
		inNamespace(t)
		return
	}
	loopbackUp(t)
	if !listens(t, "127.0.0.1:0") || !listens(t, "[::1]:0") {
		t.Error("loopback has not both families as soon as it is up")
	}
	t.Run("direct", direct)
	t.Run("proxy", throughProxy)
	t.Run("broker by address", brokerByAddress)

	noIPv4(t)
	if listens(t, "127.0.0.1:0") {
		t.Fatal("loopback still has IPv4")
	}
	t.Run("direct, no 127.0.0.1", direct)
	t.Run("several clusters, no 127.0.0.1", severalClusters)
	t.Run("proxy, no 127.0.0.1", proxyIsRefused)
}

// inNamespace runs this test in a network namespace. Not everybody may make one, but continuous
// integration may.
func inNamespace(t *testing.T) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestIPv6Only$", "-test.v")
	command.Env = append(os.Environ(), inside+"=yes")
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		command.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := command.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "":
		t.Skip("making a network namespace is not allowed here:", err)
	case err != nil:
		t.Errorf("in the namespace: %v\n%s", err, out)
	case !strings.Contains(string(out), "--- PASS: TestIPv6Only/several_clusters,_no_127.0.0.1"):
		t.Errorf("the tests have not run:\n%s", out)
	default:
		t.Logf("in the namespace:\n%s", out)
	}
}

// interfaceRequest is a struct ifreq: a name, and flags or an address.
type interfaceRequest struct {
	name [syscall.IFNAMSIZ]byte
	data [24]byte
}

func configureLoopback(t *testing.T, request uintptr, data ...byte) {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(socket) //nolint:errcheck // it goes with the namespace
	var r interfaceRequest
	copy(r.name[:], "lo")
	copy(r.data[:], data)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), request, uintptr(unsafe.Pointer(&r))); errno != 0 {
		t.Fatal(errno)
	}
}

func loopbackUp(t *testing.T) {
	t.Helper()
	configureLoopback(t, syscall.SIOCSIFFLAGS, syscall.IFF_UP)
}

// noIPv4 gives loopback the IPv4 address 0.0.0.0, which is to have none.
func noIPv4(t *testing.T) {
	t.Helper()
	configureLoopback(t, syscall.SIOCSIFADDR, syscall.AF_INET)
}

func listens(t *testing.T, address string) bool {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// world is a broker and an API server at [::1], and the volumes of a Pod.
type world struct {
	t      *testing.T
	dir    string
	broker *httptest.Server
	target *httptest.Server
	config refresher.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.target = w.serve(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Host, " ", r.Header.Get("Authorization"))
	})
	w.broker = w.serve(w.issue)
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": pemOf(w.broker)} {
		if err := os.WriteFile(filepath.Join(w.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.config = refresher.Config{
		Broker: w.broker.URL, Target: "fleet/tenant-1", Delivery: refresher.Direct, OnEndpointChange: refresher.Ignore, Endpoint: w.target.URL,
		CredentialsDir: filepath.Join(w.dir, "run", "serviceaccount"), IdentityDir: w.dir, TerminationLog: filepath.Join(w.dir, "log"),
		Log: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 0.5 },
	}
	if err := os.Mkdir(filepath.Join(w.dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) byProxy() {
	w.config.Delivery, w.config.Endpoint = refresher.Proxy, ""
	w.config.ProxyAddress, w.config.ProxyDir = "127.0.0.1:16443", w.dir
}

func (w *world) serve(handler http.HandlerFunc) *httptest.Server {
	w.t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	var err error
	if server.Listener, err = new(net.ListenConfig).Listen(w.t.Context(), "tcp", "[::1]:0"); err != nil {
		w.t.Fatal(err)
	}
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return server
}

func pemOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func (w *world) issue(rw http.ResponseWriter, r *http.Request) {
	now := time.Now()
	err := json.NewEncoder(rw).Encode(wire.ExecCredential{
		APIVersion: wire.APIVersion, Kind: wire.Kind,
		Spec: wire.Spec{Cluster: wire.Cluster{
			Server: w.target.URL, CertificateAuthorityData: pemOf(w.target),
			Config: wire.Config{Namespace: "default", IssuedAt: now, RefreshAt: now.Add(time.Minute), Delivery: wire.DeliveryDirect},
		}},
		Status: wire.Status{Token: "for" + strings.ReplaceAll(r.URL.Path, "/", "-"), ExpirationTimestamp: now.Add(time.Hour)},
	})
	if err != nil {
		w.t.Error(err)
	}
}

// run runs a sidecar until the test ends, and returns when ready does.
func (w *world) run(config clusters.Config, ready func(context.Context) error) {
	w.t.Helper()
	all, err := clusters.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- all.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	if err := ready(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) filesReady(ctx context.Context) error {
	return refresher.Wait(ctx, w.config.CredentialsDir, w.config.TerminationLog)
}

func (w *world) read(names ...string) string {
	w.t.Helper()
	content, err := os.ReadFile(filepath.Join(append([]string{w.dir, "run"}, names...)...))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(content)
}

// want asks as a client does that was told host and port, a CA and a token.
func (w *world) want(address, ca, token, name string) {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+address+"/api", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if want := w.target.Listener.Addr().String() + " Bearer for" + strings.ReplaceAll(wire.TargetClusterPath("fleet", name), "/", "-"); string(body) != want {
		w.t.Errorf("at %s the answer is %s %q, want %q", address, response.Status, body, want)
	}
}

// wantInCluster asks as in-cluster clients do, which put what is in the environment into a URL.
func (w *world) wantInCluster(host string) {
	w.t.Helper()
	env := regexp.MustCompile(`^KUBERNETES_SERVICE_HOST='(.*)'\nKUBERNETES_SERVICE_PORT='(.*)'\n`).FindStringSubmatch(w.read("serviceaccount", "env"))
	if len(env) != 3 || env[1] != host {
		w.t.Fatalf("the environment is %q", env)
	}
	w.want(net.JoinHostPort(env[1], env[2]), w.read("serviceaccount", "ca.crt"), w.read("serviceaccount", "token"), "tenant-1")
}

func direct(t *testing.T) {
	w := newWorld(t)
	w.run(clusters.Config{First: w.config}, w.filesReady)
	w.wantInCluster("::1")
}

// throughProxy: 127.0.0.1 is there in a Pod of IPv6 only, too. Clients that say localhost may mean
// either.
func throughProxy(t *testing.T) {
	w := newWorld(t)
	w.byProxy()
	w.run(clusters.Config{First: w.config}, w.filesReady)
	w.wantInCluster("127.0.0.1")
	for _, address := range []string{"[::1]:16443", "localhost:16443"} {
		if _, err := net.DefaultResolver.LookupHost(t.Context(), "localhost"); err != nil && strings.HasPrefix(address, "localhost") {
			continue // no /etc/hosts
		}
		w.want(address, w.read("serviceaccount", "ca.crt"), w.read("serviceaccount", "token"), "tenant-1")
	}
}

func brokerByAddress(t *testing.T) {
	w := newWorld(t)
	_, port, err := net.SplitHostPort(w.broker.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w.config.Broker, w.config.BrokerAddress = "https://example.com:"+port, "::1"
	w.run(clusters.Config{First: w.config}, w.filesReady)
	w.wantInCluster("::1")
}

// severalClusters: the kubeconfig is written in the Pod, and leads to the address that there is.
func severalClusters(t *testing.T) {
	w := newWorld(t)
	w.byProxy()
	config := clusters.Config{First: w.config, Kubeconfig: filepath.Join(w.dir, "run", "kubeconfig")}
	config.First.Target, config.First.Delivery, config.First.ProxyAddress = "", refresher.Direct, ""
	for i, name := range []string{"tenant-2", "tenant-3"} {
		config.Further = append(config.Further, clusters.Cluster{Target: "fleet/" + name, ProxyAddress: fmt.Sprintf("127.0.0.1:%d", 16444+i)})
	}
	w.run(config, func(ctx context.Context) error { return refresher.WaitFor(ctx, config.Kubeconfig) })
	servers := regexp.MustCompile(`server: "https://(.*)"`).FindAllStringSubmatch(w.read("kubeconfig"), -1)
	if len(servers) != 2 || servers[0][1] != "[::1]:16444" || servers[1][1] != "[::1]:16445" {
		t.Fatalf("the kubeconfig is\n%s", w.read("kubeconfig"))
	}
	for i, name := range []string{"tenant-2", "tenant-3"} {
		w.want(servers[i][1], w.read("proxy", "ca.crt"), w.read("proxy", "token"), name)
	}
}

// proxyIsRefused: the environment of in-cluster clients leads nowhere, and the Pod says so.
func proxyIsRefused(t *testing.T) {
	w := newWorld(t)
	w.byProxy()
	r, err := refresher.New(w.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "has a program removed 127.0.0.1 from the loopback interface?") {
		t.Errorf("error %v", err)
	}
	if message, err := os.ReadFile(w.config.TerminationLog); err != nil || !strings.Contains(string(message), "127.0.0.1") {
		t.Errorf("the termination message is %q (error %v)", message, err)
	}
}
