package broker

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

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	// serverWriteTimeout is longer than requestTimeout, so that a request that took too long is still answered.
	serverWriteTimeout = 30 * time.Second
	// idleTimeout is shorter than the minute between two questions of a Pod: a connection costs more memory than a
	// handshake costs time.
	idleTimeout = 15 * time.Second
	// maxHeaderBytes leaves room for a token with many claims.
	maxHeaderBytes       = 32 << 10
	maxConcurrentStreams = 32
	// shutdownTimeout is for what is under way when the listener has closed.
	shutdownTimeout = requestTimeout
)

// ServerConfig is what a Server needs; all of it is required, save that DrainDelay may be zero.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// GetCertificate is called for each handshake, so that a renewed certificate counts at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// MaxConnections are served at the same time; more wait to be accepted. One address has a small part of them at most.
	MaxConnections int
	// DrainDelay passes between not being ready and accepting no more: meanwhile clients learn to go elsewhere.
	DrainDelay time.Duration
	Log        logr.Logger
}

// Server serves over HTTPS; a runnable of controller-runtime's manager.
type Server struct {
	cfg     ServerConfig
	serving atomic.Bool
}

// NewServer returns a Server that does not serve yet.
func NewServer(cfg ServerConfig) (*Server, error) {
	switch {
	case cfg.Listener == nil:
		return nil, errors.New("broker: ServerConfig.Listener is missing")
	case cfg.Handler == nil:
		return nil, errors.New("broker: ServerConfig.Handler is missing")
	case cfg.GetCertificate == nil:
		return nil, errors.New("broker: ServerConfig.GetCertificate is missing")
	case cfg.MaxConnections <= 0:
		return nil, errors.New("broker: ServerConfig.MaxConnections must be positive")
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

// Start serves until ctx ends, and then as long as what is under way needs, within limits.
func (s *Server) Start(ctx context.Context) error {
	server := &http.Server{
		Handler: s.cfg.Handler,
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: s.cfg.GetCertificate,
		},
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxConcurrentStreams},
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      serverWriteTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(logWriter{s.cfg.Log}, "", 0),
	}
	stopped := make(chan error, 1)
	go func() {
		fair := perAddress(s.cfg.Listener, max(s.cfg.MaxConnections/fairShare, minShare))
		stopped <- server.ServeTLS(netutil.LimitListener(fair, s.cfg.MaxConnections), "", "")
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
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("waiting for requests under way: %w", err)
	}
	return nil
}

// logWriter takes what net/http logs. It is mostly about clients that went during the handshake, as every probe by
// TCP does: not what an operator wants by default.
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
