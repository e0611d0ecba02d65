// Package monitoring serves the metrics and health checks of programs, within limits for each
// address.
package monitoring

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"

	"github.com/keyferry/keyferry/internal/serving"
)

// connectionsPerAddress limits the connections of one address to each listener.
const connectionsPerAddress = 16

// reviewsPerSecond limits the TokenReviews, and the SubjectAccessReviews, for scrapes of metrics.
// Responses are cached.
const reviewsPerSecond = 10

// off is the address that disables a listener.
const off = "0"

// Checks are the health checks of a program. Kubelets restart a container if Live fails, and
// Services send no requests to it if Ready fails.
type Checks struct {
	Live, Ready *healthz.Handler
}

// NewChecks returns Checks that succeed while the program responds. Callers may add further checks
// before the manager starts.
func NewChecks() Checks {
	return Checks{
		Live:  &healthz.Handler{Checks: map[string]healthz.Checker{"ping": healthz.Ping}},
		Ready: &healthz.Handler{Checks: map[string]healthz.Checker{}},
	}
}

// AddHealth adds a server for /healthz and /readyz to a manager. It serves before caches are
// filled. The address 0 disables it.
func (c Checks) AddHealth(ctx context.Context, mgr manager.Manager, address string) error {
	mux := http.NewServeMux()
	for path, handler := range map[string]http.Handler{"/healthz": c.Live, "/readyz": c.Ready} {
		mux.Handle(path, http.StripPrefix(path, handler))
		mux.Handle(path+"/", http.StripPrefix(path, handler))
	}
	return add(ctx, mgr, "health", address, mux, nil)
}

// Metrics configures the server for a program's metrics.
type Metrics struct {
	// Address is the address of /metrics; 0 disables it.
	Address string
	// Secure serves HTTPS, for clients with a token that may get /metrics. Otherwise, /metrics is
	// plain HTTP without authentication.
	Secure bool
	// Gatherer returns the metrics.
	Gatherer prometheus.Gatherer
	// GetCertificate returns the serving certificate, if Encrypted.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// AddFlags adds flags for Address and Secure.
func (m *Metrics) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&m.Address, "metrics-address", ":8080", "address of /metrics; 0 turns it off")
	flags.BoolVar(&m.Secure, "metrics-secure", true, "serve /metrics over HTTPS, only to clients whose token may get this path; false: over HTTP, to every client")
}

// Encrypted reports whether the metrics are served over HTTPS, and so need a certificate.
func (m *Metrics) Encrypted() bool {
	return m.Secure && m.Address != off
}

// Add adds the server for the metrics to a manager.
func (m *Metrics) Add(ctx context.Context, mgr manager.Manager) error {
	handler := promhttp.HandlerFor(m.Gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
	var encryption *tls.Config
	if m.Encrypted() {
		if m.GetCertificate == nil {
			return errors.New("monitoring: Metrics.GetCertificate is missing")
		}
		var err error
		if handler, err = protect(mgr, handler); err != nil {
			return fmt.Errorf("protecting the metrics: %w", err)
		}
		encryption = &tls.Config{GetCertificate: m.GetCertificate, MinVersion: tls.VersionTLS12}
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", handler)
	return add(ctx, mgr, "metrics", m.Address, mux, encryption)
}

// protect returns a handler that authenticates and authorizes each request with this cluster's API
// server.
func protect(mgr manager.Manager, handler http.Handler) (http.Handler, error) {
	// Each unknown token costs a TokenReview. A rate limit of its own keeps a client that sends many
	// tokens from using up the program's other requests to the API server.
	config := rest.CopyConfig(mgr.GetConfig())
	config.QPS, config.Burst, config.RateLimiter = reviewsPerSecond, 2*reviewsPerSecond, nil
	filter, err := filters.WithAuthenticationAndAuthorization(config, mgr.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	// Every client can cause errors of the filter, so they are not logged by default.
	log := mgr.GetLogger().WithName("metrics")
	return filter(log.WithSink(quiet{log.GetSink()}), handler)
}

// add adds a server with limits to a manager. It serves plain HTTP if encryption is nil. Kubelets
// open a connection for each probe, and Prometheus keeps one. It serves only HTTP/1.1, so that the
// limit of connections also limits the concurrent requests of an address.
func add(ctx context.Context, mgr manager.Manager, name, address string, handler http.Handler, encryption *tls.Config) error {
	if address == off {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s for %s: %w", address, name, err)
	}
	server, err := serving.New(serving.Config{
		Listener: listener,
		Handler:  handler,
		Limits: serving.Limits{
			Connections: 1024, PerAddress: connectionsPerAddress, HeaderBytes: 16 << 10,
			Read: 5 * time.Second, Write: 30 * time.Second, Idle: time.Minute,
		},
		Log: mgr.GetLogger().WithName(name),
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	plain, limited := server.HTTP()
	if encryption != nil {
		limited = tls.NewListener(limited, encryption)
	}
	// The manager starts a manager.Server before its other runnables.
	return mgr.Add(&manager.Server{Name: name, Server: plain, Listener: limited})
}
