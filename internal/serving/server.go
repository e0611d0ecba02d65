// Package serving serves HTTP to clients of which some may be hostile: connections, streams,
// headers and times are limited, and no address has more than a part of them.
package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/netutil"
)

const readHeaderTimeout = 5 * time.Second

// Limits are what the clients of a server may use.
type Limits struct {
	// Connections are served at the same time; more wait to be accepted. PerAddress is how many of
	// them one address has at most; what it opens beyond that is closed.
	Connections, PerAddress int
	// Streams are the requests at the same time on a connection of HTTP/2; zero is HTTP/1.1 only.
	Streams int
	// HeaderBytes limits the header of a request.
	HeaderBytes int
	// Read is how long a request may take to arrive, and Write how long the answer may take from
	// then on.
	Read, Write time.Duration
	// Idle is how long a connection without a request stays open.
	Idle time.Duration
}

// Config is what a Server needs; all of it is required, save that the delays may be zero.
type Config struct {
	Listener net.Listener
	Handler  http.Handler
	// TLS has a certificate. A nil TLS serves plain HTTP.
	TLS    *tls.Config
	Limits Limits
	// DrainDelay passes between not being ready and accepting no more connections: meanwhile
	// clients are sent elsewhere.
	DrainDelay time.Duration
	// ShutdownTimeout is for requests that are under way when the listener has closed.
	ShutdownTimeout time.Duration
	Log             logr.Logger
}

// Server serves; a runnable of controller-runtime's manager.
type Server struct {
	cfg     Config
	serving atomic.Bool
}

// New returns a Server that does not serve yet.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Listener == nil:
		return nil, errors.New("serving: Config.Listener is missing")
	case cfg.Handler == nil:
		return nil, errors.New("serving: Config.Handler is missing")
	case cfg.TLS != nil && cfg.TLS.GetCertificate == nil && len(cfg.TLS.Certificates) == 0:
		return nil, errors.New("serving: Config.TLS has no certificate")
	case cfg.Limits.Connections <= 0 || cfg.Limits.PerAddress <= 0 || cfg.Limits.Streams < 0 || cfg.Limits.HeaderBytes <= 0:
		return nil, errors.New("serving: Config.Limits must be positive")
	case cfg.Limits.Read <= 0 || cfg.Limits.Write <= 0 || cfg.Limits.Idle <= 0:
		return nil, errors.New("serving: the times of Config.Limits must be positive")
	}
	return &Server{cfg: cfg}, nil
}

// NeedLeaderElection is false: every replica serves.
func (s *Server) NeedLeaderElection() bool { return false }

// Ready is a check for /readyz: nil while requests are welcome.
func (s *Server) Ready(*http.Request) error {
	if !s.serving.Load() {
		return errors.New("not serving")
	}
	return nil
}

// HTTP returns the server and its listener, within the limits, for callers that serve themselves.
func (s *Server) HTTP() (*http.Server, net.Listener) {
	limits := s.cfg.Limits
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.cfg.TLS != nil && limits.Streams > 0)
	server := &http.Server{
		Handler:           s.cfg.Handler,
		Protocols:         &protocols,
		TLSConfig:         s.cfg.TLS,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: limits.Streams},
		ReadHeaderTimeout: min(readHeaderTimeout, limits.Read),
		ReadTimeout:       limits.Read,
		WriteTimeout:      limits.Write,
		IdleTimeout:       limits.Idle,
		MaxHeaderBytes:    limits.HeaderBytes,
		ErrorLog:          log.New(logWriter{s.cfg.Log}, "", 0),
	}
	return server, netutil.LimitListener(newPerIPListener(s.cfg.Listener, limits.PerAddress), limits.Connections)
}

// Start serves until ctx ends, and then as long as what is under way needs, within limits.
func (s *Server) Start(ctx context.Context) error {
	server, listener := s.HTTP()
	stopped := make(chan error, 1)
	go func() {
		if s.cfg.TLS == nil {
			stopped <- server.Serve(listener)
			return
		}
		stopped <- server.ServeTLS(listener, "", "")
	}()
	s.serving.Store(true)
	s.cfg.Log.Info("serving", "address", s.cfg.Listener.Addr().String())

	select {
	case err := <-stopped:
		return fmt.Errorf("serving on %s: %w", s.cfg.Listener.Addr(), err)
	case <-ctx.Done():
	}
	s.serving.Store(false)
	s.cfg.Log.Info("draining", "delay", s.cfg.DrainDelay.String())
	select {
	case err := <-stopped:
		return fmt.Errorf("serving on %s: %w", s.cfg.Listener.Addr(), err)
	case <-time.After(s.cfg.DrainDelay):
	}
	// ctx has ended; what is under way gets a time of its own.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("waiting for requests under way: %w", err)
	}
	return nil
}

// logWriter takes what net/http logs. It is mostly about clients that went during the handshake, as
// every probe by TCP does: not what an operator wants by default.
type logWriter struct{ log logr.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "panic serving") {
		w.log.Error(errors.New("panic in a handler"), "cannot answer a request", "detail", text)
	} else {
		w.log.V(1).Info("connection failed", "detail", text)
	}
	return len(line), nil
}
