package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/go-logr/logr"

	"github.com/keyferry/keyferry/internal/serving"
)

// What clients may use, so that the API servers are served whatever others do. API servers call
// webhooks by HTTP/1.1: each review under way has a connection, and each of their two kinds of
// webhooks up to 25 idle ones. All API servers may come from one address, as those behind
// konnectivity do.
const (
	maxConnections           = 1024
	maxConnectionsPerAddress = 256
	maxHeaderBytes           = 8 << 10
	// maxBodies is for all bodies that are held at the same time, in bytes. What does not fit
	// waits.
	maxBodies           = 96 << 20
	maxBodiesPerAddress = 24 << 20
	// bodyTimeout is for a body to arrive. API servers send it at once.
	bodyTimeout = 5 * time.Second
	// idleTimeout ends connections that nobody uses. API servers end theirs after 90 s: if the
	// webhook were first, a review could meet the end of its connection, and API servers do not
	// send it again.
	idleTimeout = 2 * time.Minute
)

// ServerConfig is what the server of a Handler needs. ClientCA and ClientNames may be empty; all
// else is required.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// GetCertificate is called for each handshake, so that a renewed certificate counts at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCA is a file of certificates, which is read at each handshake. If it is not empty,
	// clients need a certificate of one of these CAs, with one of ClientNames as its common name,
	// if there are any.
	ClientCA    string
	ClientNames []string
	Log         logr.Logger
}

// NewServer returns a server that serves over HTTPS, within the limits of this package.
func NewServer(cfg ServerConfig) (*serving.Server, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cfg.GetCertificate, NextProtos: []string{"http/1.1"}}
	switch {
	case cfg.ClientCA != "":
		if _, err := readCA(cfg.ClientCA); err != nil {
			return nil, err
		}
		config.GetConfigForClient = cfg.authenticated(config.Clone())
	case len(cfg.ClientNames) > 0:
		return nil, errors.New("webhook: ServerConfig.ClientNames needs ClientCA")
	}
	return serving.New(serving.Config{
		Listener: cfg.Listener,
		Handler:  cfg.Handler,
		TLS:      config,
		Limits: serving.Limits{
			Connections: maxConnections, PerAddress: maxConnectionsPerAddress,
			HeaderBytes: maxHeaderBytes,
			Read:        maxPatience, Write: maxPatience, Idle: idleTimeout,
		},
		ShutdownTimeout: maxPatience,
		Log:             cfg.Log,
	})
}

// authenticated returns the TLS configuration for a client that needs a certificate.
func (cfg ServerConfig) authenticated(config *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.SessionTicketsDisabled = true // a resumed session would outlive a CA that was removed
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if name := state.PeerCertificates[0].Subject.CommonName; len(cfg.ClientNames) > 0 && !slices.Contains(cfg.ClientNames, name) {
			return fmt.Errorf("the client certificate of %q is not of an API server: --client-names (chart value webhook.clientCertificates.names) lists the names of API servers", name)
		}
		return nil
	}
	return func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool, err := readCA(cfg.ClientCA)
		if err != nil {
			return nil, err
		}
		own := config.Clone()
		own.ClientCAs = pool
		return own, nil
	}
}

func readCA(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file) //nolint:gosec // a flag of the operator
	if err != nil {
		return nil, fmt.Errorf("reading the CA of API servers: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the CA of API servers: %s holds no certificate in PEM", file)
	}
	return pool, nil
}
