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

// Limits for clients, so that other clients cannot keep API servers from being served. API servers
// call webhooks by HTTP/1.1: each review needs a connection, and an API server keeps up to 25 idle
// connections for each of the two kinds of webhooks. All API servers may use one address, for
// example behind konnectivity.
const (
	maxConnections           = 1024
	maxConnectionsPerAddress = 256
	maxHeaderBytes           = 8 << 10
	// maxMemory limits the memory of all requests, in bytes. Further requests wait.
	maxMemory           = 96 << 20
	maxMemoryPerAddress = 24 << 20
	// requestMemory is the memory of each request besides its body, for the review of a Pod with some
	// ten containers. A review that needs more reserves it; see reservation.
	requestMemory = 64 << 10
	// bodyTimeout is the time in which a body must arrive. API servers send it at once.
	bodyTimeout = 5 * time.Second
	// idleTimeout closes unused connections. It is longer than the 90 s of API servers: if the webhook
	// closed a connection first, a review could be sent on it at that moment, and API servers do not
	// repeat it.
	idleTimeout = 2 * time.Minute
)

// ServerConfig configures the server of a Handler. All fields but ClientCA and ClientNames are
// required.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// GetCertificate is called for each handshake, so that a renewed certificate is used at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCA is a file with CA certificates, which is read at each handshake. If it is set, clients
	// need a certificate of one of these CAs. If ClientNames is set, too, it lists the allowed common
	// names.
	ClientCA    string
	ClientNames []string
	Log         logr.Logger
}

// NewServer returns an HTTPS server with the limits of this package.
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
			HeaderBytes: maxHeaderBytes, BodyBytes: maxBody,
			Read: maxRequestTimeout, Write: maxRequestTimeout, Idle: idleTimeout,
		},
		ShutdownTimeout: maxRequestTimeout,
		Log:             cfg.Log,
	})
}

// authenticated returns a function that returns the TLS configuration for clients with
// certificates.
func (cfg ServerConfig) authenticated(config *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.SessionTicketsDisabled = true // a resumed session would outlive a CA that was removed
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if name := state.PeerCertificates[0].Subject.CommonName; len(cfg.ClientNames) > 0 && !slices.Contains(cfg.ClientNames, name) {
			return fmt.Errorf("the client certificate has the common name %q, which is not an API server's name: --client-names (chart value webhook.clientCertificates.names) lists the accepted names", name)
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
		return nil, fmt.Errorf("reading the CA of API servers: %s contains no PEM certificate", file)
	}
	return pool, nil
}
