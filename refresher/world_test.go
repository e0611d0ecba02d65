package refresher

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher/fileset"
)

// The names in the certificate of httptest.
const (
	brokerURL = "https://example.com"
	oldServer = "https://127.0.0.1:6443"
	newServer = "https://[::1]:6443"
)

// world contains a broker, API servers and the volumes of a Pod. They are connected in memory, so
// that time in a synctest bubble passes only if all goroutines wait.
type world struct {
	t       *testing.T
	network network
	broker  *fakeBroker
	config  Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, broker: &fakeBroker{server: oldServer, life: time.Hour, identity: "identity-1"}}
	dir := t.TempDir()
	w.config = Config{
		Broker:           brokerURL,
		Target:           "fleet/tenant-1",
		Delivery:         Direct,
		OnEndpointChange: Restart,
		RestartSpread:    5 * time.Minute,
		CredentialsDir:   filepath.Join(dir, "credentials"),
		IdentityDir:      filepath.Join(dir, "identity"),
		TerminationLog:   filepath.Join(dir, "termination-log"),
		Log:              slog.New(slog.DiscardHandler),
		Dial:             w.network.dial,
		Jitter:           func() float64 { return 0.5 },
	}
	for _, dir := range []string{w.config.CredentialsDir, w.config.IdentityDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ca := w.serve("example.com:443", w.broker)
	w.broker.ca = ca
	w.writeIdentity("identity-1\n", ca)
	return w
}

// serve runs a TLS server at address and returns its CA.
func (w *world) serve(address string, handler http.Handler) []byte {
	w.t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = w.network.listen(address)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// serveTarget runs an API server at address that responds with status to the broker's token.
func (w *world) serveTarget(address string, status int) {
	w.serve(address, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" || r.Header.Get("Authorization") != "Bearer "+w.broker.lastToken() {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.WriteHeader(status)
	}))
}

func (w *world) writeIdentity(token string, ca []byte) {
	w.t.Helper()
	for name, content := range map[string][]byte{tokenFile: []byte(token), caFile: ca} {
		if err := os.WriteFile(filepath.Join(w.config.IdentityDir, name), content, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// process is one run of the refresher.
type process struct {
	*Refresher
	stop context.CancelFunc
	done chan error
}

// start runs the refresher until it waits for the first time.
func (w *world) start() *process {
	w.t.Helper()
	r, err := New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	p := &process{Refresher: r, stop: cancel, done: make(chan error, 1)}
	go func() { p.done <- p.Run(ctx) }()
	synctest.Wait()
	return p
}

// ended returns the result of Run, or errRunning.
func (p *process) ended() error {
	synctest.Wait()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	default:
		return errRunning
	}
}

var errRunning = errors.New("still running")

// pass advances the time.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// file returns the content of a file as the application reads it.
func (w *world) file(name string) string {
	w.t.Helper()
	content, err := os.ReadFile(filepath.Join(w.config.CredentialsDir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(content)
}

func (w *world) state() State {
	w.t.Helper()
	files, err := fileset.Read(w.config.CredentialsDir)
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := parseState(files)
	if err != nil {
		w.t.Fatal(err)
	}
	return state
}

func (w *world) terminationMessage() string {
	w.t.Helper()
	message, err := os.ReadFile(w.config.TerminationLog)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return string(message)
}

// healthz returns the response of /healthz.
func (p *process) healthz() (int, string) {
	recorder := httptest.NewRecorder()
	Handler("v1", p.Refresher).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/healthz", http.NoBody))
	return recorder.Code, recorder.Body.String()
}

// failure returns the error of the last request, if it failed.
func (p *process) failure() error {
	p.health.mu.Lock()
	defer p.health.mu.Unlock()
	return p.health.failure
}

// fakeBroker responds like the broker: with the same credential until half of its lifetime, by its
// own clock or by the monotonic clock, unless something changed.
type fakeBroker struct {
	mu         sync.Mutex
	server     string
	ca         []byte
	clusterUID string
	life       time.Duration
	identity   string
	subject    string        // what the last request had as subjectToken
	skew       time.Duration // how far its clock is ahead
	// refuse is what it answers instead of a credential, if set; down makes it hang up.
	refuse     int
	message    string
	retryAfter string
	down       bool
	// stuck keeps the current credential, as a broker does that cannot reach the provider.
	stuck bool
	// inPod says that the Pod has a plugin for the credential.
	inPod bool

	current wire.ExecCredential
	since   time.Time // of current, by the clock that nobody sets
	etag    string
	issued  int
	asked   []time.Time
	polls   int // of asked, those that were content with what they had
	// refused is what it was told that the target refuses. With old it does not know of that, as
	// brokers did not.
	refused []string
	old     bool
}

func (b *fakeBroker) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// requests returns the times of the requests.
func (b *fakeBroker) requests() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// unchanged returns the number of responses without changes.
func (b *fakeBroker) unchanged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.polls
}

func (b *fakeBroker) toldRefused() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.refused)
}

func (b *fakeBroker) lastToken() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current.Status.Token
}

func (b *fakeBroker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, time.Now())
	now := time.Now().Add(b.skew)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	switch {
	case b.down:
		panic(http.ErrAbortHandler)
	case r.Method != http.MethodPost || r.URL.Path != wire.TargetClusterPath("fleet", "tenant-1"):
		b.fail(w, http.StatusNotFound, "no such path")
		return
	case r.Header.Get("Authorization") != "Bearer "+b.identity:
		b.fail(w, http.StatusUnauthorized, "the token is not valid")
		return
	case b.refuse != 0:
		w.Header().Set("Retry-After", b.retryAfter)
		b.fail(w, b.refuse, b.message)
		return
	}
	var request wire.Request
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		panic(err)
	}
	b.subject = request.SubjectToken
	b.issue(now)
	if tag := r.Header.Get(wire.HeaderRefused); tag != "" {
		b.refused = append(b.refused, tag)
		if tag == b.etag && !b.old {
			b.current.Spec.Cluster.Config.RefreshAt = time.Time{}
			b.issue(now)
		}
	}
	if r.Header.Get("If-None-Match") == b.etag {
		b.polls++
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("ETag", b.etag)
	if err := json.NewEncoder(w).Encode(b.current); err != nil {
		panic(err)
	}
}

func (b *fakeBroker) fail(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","message":%q,"code":%d}`, message, status)
}

// issue renews the current credential if it is due.
func (b *fakeBroker) issue(now time.Time) {
	if b.stuck {
		return
	}
	due := !now.Before(b.current.Spec.Cluster.Config.RefreshAt) || time.Since(b.since) >= b.life/2
	if b.issued == 0 || due || b.current.Spec.Cluster.Server != b.server {
		b.issued++
		b.since = time.Now()
		b.current = answer(fmt.Sprintf("token-%d", b.issued), now, b.life)
	}
	b.current.Spec.Cluster.Server = b.server
	b.current.Spec.Cluster.CertificateAuthorityData = b.ca
	b.current.Spec.Cluster.Config.ClusterUID = b.clusterUID
	if b.current.Spec.Cluster.Config.PluginInPod = b.inPod; b.inPod {
		b.current.Status = wire.Status{}
	}
	b.etag = fmt.Sprintf("%q", fmt.Sprint(b.issued, b.server, b.clusterUID, len(b.ca), b.inPod))
}

// answer returns a valid response of a broker.
func answer(token string, now time.Time, life time.Duration) wire.ExecCredential {
	return wire.ExecCredential{
		APIVersion: wire.APIVersion,
		Kind:       wire.Kind,
		Spec: wire.Spec{Cluster: wire.Cluster{
			Server: oldServer,
			Config: wire.Config{Namespace: "default", IssuedAt: now, RefreshAt: now.Add(life / 2), Delivery: "Direct"},
		}},
		Status: wire.Status{Token: token, ExpirationTimestamp: now.Add(life)},
	}
}

// newCA returns a CA certificate that verifies no server.
func newCA(t *testing.T) []byte {
	t.Helper()
	certificate, _ := newPair(t)
	return []byte(certificate)
}

// newPair returns a certificate and its key.
func newPair(t *testing.T) (certificatePEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// network connects to addresses in memory.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

func (n *network) listen(address string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = map[string]*listener{}
	}
	l := &listener{address: address, connections: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[address] = l
	return l
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: connection refused", address)}
	}
	here, there := net.Pipe()
	select {
	case l.connections <- there:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.accepted = append(l.accepted, there)
		return here, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: connection refused", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	address     string
	connections chan net.Conn
	closed      chan struct{}

	mu       sync.Mutex
	accepted []net.Conn
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connections:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close also closes the connections: TLS would wait for a peer that no longer reads from the pipe.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	for _, c := range l.accepted {
		c.Close()
	}
	return nil
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.address} }
