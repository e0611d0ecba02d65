// Package serving provides an HTTP/1.1 server for clients that may be hostile: it limits
// connections, bytes and times, and the connections of each address.
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

const (
	readHeaderTimeout = 5 * time.Second
	// handshakeBytes is enough for a TLS handshake with a client certificate and its chain.
	handshakeBytes = 24 << 10
)

// Limits are the limits of a server for its clients.
type Limits struct {
	// Connections is the number of connections that are served at the same time; further connections
	// wait. PerAddress is the limit for one address; its further connections are closed.
	Connections, PerAddress int
	// HeaderBytes and BodyBytes limit the header and the body of a request, in bytes. A body without a
	// Content-Length must fit into the header's bytes that are left.
	HeaderBytes, BodyBytes int
	// Read is the time in which a request must arrive, and Write the time for the response after that.
	Read, Write time.Duration
	// Idle is the time after which a connection without a request is closed.
	Idle time.Duration
}

// Config configures a Server. All fields but TLS and DrainDelay are required.
type Config struct {
	Listener net.Listener
	Handler  http.Handler
	// TLS must have a certificate. If it is nil, the server serves plain HTTP.
	TLS    *tls.Config
	Limits Limits
	// DrainDelay is the time between the failing readiness check and the closing of the listener, in
	// which Services stop to send requests.
	DrainDelay time.Duration
	// ShutdownTimeout is the time for running requests after the listener is closed.
	ShutdownTimeout time.Duration
	Log             logr.Logger
}

// Server is an HTTP server. It implements manager.Runnable of controller-runtime.
type Server struct {
	cfg     Config
	serving atomic.Bool
}

// New validates cfg and returns a Server. Start serves.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Listener == nil:
		return nil, errors.New("serving: Config.Listener is missing")
	case cfg.Handler == nil:
		return nil, errors.New("serving: Config.Handler is missing")
	case cfg.TLS != nil && cfg.TLS.GetCertificate == nil && len(cfg.TLS.Certificates) == 0:
		return nil, errors.New("serving: Config.TLS has no certificate")
	case cfg.Limits.Connections <= 0 || cfg.Limits.PerAddress <= 0 || cfg.Limits.BodyBytes < 0 || cfg.Limits.HeaderBytes <= 0:
		return nil, errors.New("serving: Config.Limits must be positive")
	case cfg.Limits.Read <= 0 || cfg.Limits.Write <= 0 || cfg.Limits.Idle <= 0:
		return nil, errors.New("serving: the times of Config.Limits must be positive")
	}
	return &Server{cfg: cfg}, nil
}

// NeedLeaderElection returns false: every replica serves.
func (s *Server) NeedLeaderElection() bool { return false }

// Ready is a readiness check. It returns an error while the server does not accept requests.
func (s *Server) Ready(*http.Request) error {
	if !s.serving.Load() {
		return errors.New("not serving")
	}
	return nil
}

// HTTP returns the server and its listener with the limits, for callers that do not use Start. It
// serves only HTTP/1.1: the limit of connections also limits the concurrent requests.
func (s *Server) HTTP() (*http.Server, net.Listener) {
	limits := s.cfg.Limits
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		Protocols:         &protocols,
		TLSConfig:         s.cfg.TLS,
		ConnContext:       withConnection,
		ConnState:         onState,
		ReadHeaderTimeout: min(readHeaderTimeout, limits.Read),
		ReadTimeout:       limits.Read,
		WriteTimeout:      limits.Write,
		IdleTimeout:       limits.Idle,
		MaxHeaderBytes:    limits.HeaderBytes,
		ErrorLog:          log.New(logWriter{s.cfg.Log}, "", 0),
	}
	return server, newPerIPListener(netutil.LimitListener(s.cfg.Listener, limits.Connections), limits.PerAddress, handshakeBytes+limits.HeaderBytes)
}

// connectionKey is the key of a request's *countedConn in its context.
type connectionKey struct{}

func withConnection(ctx context.Context, connection net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, counted(connection))
}

// onState limits the bytes until the next request.
func onState(connection net.Conn, state http.ConnState) {
	if c := counted(connection); c != nil && state == http.StateIdle {
		c.expectHeader()
	}
}

// serve serves a request whose header has arrived.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if c, _ := r.Context().Value(connectionKey{}).(*countedConn); c != nil {
		c.expectBody(min(max(r.ContentLength, 0), int64(s.cfg.Limits.BodyBytes)))
	}
	s.cfg.Handler.ServeHTTP(w, r)
}

// Start serves until ctx is done. Then it waits for running requests, at most ShutdownTimeout.
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
	// ctx is done, so the running requests need another context.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("waiting for requests under way: %w", err)
	}
	return nil
}

// logWriter logs the messages of net/http at level 1. Most are about clients that disconnect during
// the TLS handshake, as every TCP probe does. Panics are errors.
type logWriter struct{ log logr.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "panic serving") {
		w.log.Error(errors.New("panic in a handler"), "failed to serve a request", "detail", text)
	} else {
		w.log.V(1).Info("connection failed", "detail", text)
	}
	return len(line), nil
}
