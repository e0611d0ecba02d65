// Package monitoring serves the metrics and health checks of programs, within limits for each
// address.
package monitoring

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/keyferry/keyferry/internal/serving"
)

// connectionsPerAddress is how many connections one address has, to each listener.
const connectionsPerAddress = 16

// off is the address of a listener that is not wanted.
const off = "0"

// Checks are those of a program: by Live kubelets decide whether to restart it, by Ready whether
// requests are sent to it.
type Checks struct {
	Live, Ready *healthz.Handler
}

// NewChecks returns Checks that succeed as long as the program answers. Further ones are added
// before the manager starts.
func NewChecks() Checks {
	return Checks{
		Live:  &healthz.Handler{Checks: map[string]healthz.Checker{"ping": healthz.Ping}},
		Ready: &healthz.Handler{Checks: map[string]healthz.Checker{}},
	}
}

// AddHealth has a manager serve /healthz and /readyz on an address, before it fills caches; 0
// serves none.
func (c Checks) AddHealth(ctx context.Context, mgr manager.Manager, address string) error {
	mux := http.NewServeMux()
	for path, handler := range map[string]http.Handler{"/healthz": c.Live, "/readyz": c.Ready} {
		mux.Handle(path, http.StripPrefix(path, handler))
		mux.Handle(path+"/", http.StripPrefix(path, handler))
	}
	return add(ctx, mgr, "health", address, mux)
}

// AddMetrics has a manager serve /metrics on an address; 0 serves none.
func AddMetrics(ctx context.Context, mgr manager.Manager, address string, metrics prometheus.Gatherer) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	return add(ctx, mgr, "metrics", address, mux)
}

// add has a manager serve a handler within limits. Kubelets make a connection for each probe, and
// Prometheus keeps one.
func add(ctx context.Context, mgr manager.Manager, name, address string, handler http.Handler) error {
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
			Connections: 1024, PerAddress: connectionsPerAddress, Streams: 16, HeaderBytes: 8 << 10,
			Read: 5 * time.Second, Write: 30 * time.Second, Idle: time.Minute,
		},
		Log: mgr.GetLogger().WithName(name),
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	plain, limited := server.HTTP()
	// A manager.Server is what the manager starts first.
	return mgr.Add(&manager.Server{Name: name, Server: plain, Listener: limited})
}
