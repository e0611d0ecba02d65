// Package dashboard serves a page that shows TargetClusters, the Pods that use them, and what
// expires next, with the permissions of the user. It reads no Secret.
package dashboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/dashboard/mirror"
)

// Config is what a dashboard needs.
type Config struct {
	// Client reads with the permissions of the user.
	Client client.WithWatch
	// Namespace is shown if the user may not list a kind in all namespaces.
	Namespace string
	// Cluster is the name of the cluster for people.
	Cluster string
	// CheckPod checks a Pod, as keyferry check does.
	CheckPod func(ctx context.Context, pod types.NamespacedName) check.Report
	// Now returns the time. The default is time.Now.
	Now func() time.Time
}

// Dashboard shows what its Mirror has.
type Dashboard struct {
	cfg    Config
	mirror *mirror.Mirror
	latest *latest
}

// New returns a Dashboard; Run fills it.
func New(cfg Config) (*Dashboard, error) {
	switch {
	case cfg.Client == nil:
		return nil, errors.New("dashboard: Client is nil")
	case cfg.CheckPod == nil:
		return nil, errors.New("dashboard: CheckPod is nil")
	case cfg.Now == nil:
		cfg.Now = time.Now
	}
	m, err := mirror.New(mirror.Config{Client: cfg.Client, Namespace: cfg.Namespace, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	return &Dashboard{cfg: cfg, mirror: m, latest: newLatest(m)}, nil
}

// Run keeps the content current until ctx ends.
func (d *Dashboard) Run(ctx context.Context) {
	go d.mirror.Run(ctx)
	d.latest.run(ctx)
}

// Listed waits until everything that the user may read was read once.
func (d *Dashboard) Listed(ctx context.Context) error { return d.mirror.Listed(ctx) }

// Export writes everything as one HTML file.
func (d *Dashboard) Export(ctx context.Context, w io.Writer) error {
	s, err := build(ctx, d.mirror, d.mirror.States(), d.cfg.Now())
	if err != nil {
		return err
	}
	r, err := newExportRenderer(d.cfg.Cluster)
	if err != nil {
		return err
	}
	return r.export(w, s, d.cfg.Now())
}

// Server serves the pages at one loopback address.
type Server struct {
	listener net.Listener
	guard    *guard
	handler  http.Handler
}

// Listen opens a port of the loopback address; 0 is any free port.
func (d *Dashboard) Listen(ctx context.Context, port uint16) (*Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("%w: use another --port", err)
	}
	_, chosen, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, err
	}
	g := newGuard(chosen)
	pages, err := newPages(d, g.base)
	if err != nil {
		return nil, err
	}
	g.refuse, g.welcome = pages.refuse, pages.welcome
	return &Server{listener, g, g.protect(pages.handler())}, nil
}

// URL is the link for the user's browser. It works once.
func (s *Server) URL() string { return s.guard.firstURL() }

// Close closes the port of a Server that does not serve.
func (s *Server) Close() error { return s.listener.Close() }

// Serve answers requests until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
