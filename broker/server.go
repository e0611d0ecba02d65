package broker

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"

	"github.com/keyferry/keyferry/internal/serving"
)

// fairShare is the part of the connections that one address may use: 1/fairShare of them, but at
// least minShare.
const fairShare, minShare = 32, 8

// limits returns the limits of the server. Write is longer than requestTimeout, so that a request
// that takes too long still gets a response. Idle is shorter than the minute between two requests
// of a Pod: keeping the connection would cost more memory than a new handshake costs time.
// HeaderBytes and BodyBytes are enough for a token with many claims.
func limits(connections int) serving.Limits {
	return serving.Limits{
		Connections: connections,
		PerAddress:  max(connections/fairShare, minShare),
		HeaderBytes: 32 << 10,
		BodyBytes:   maxBody,
		Read:        10 * time.Second,
		Write:       30 * time.Second,
		Idle:        15 * time.Second,
	}
}

// ServerConfig configures the server of a Broker. All fields but DrainDelay are required.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// GetCertificate is called for each handshake, so that a renewed certificate is used at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// MaxConnections limits the connections that are served at the same time. Further connections
	// wait. One address may use only a small part of them.
	MaxConnections int
	// DrainDelay is the time between the failing readiness check and the end of accepting connections.
	DrainDelay time.Duration
	Log        logr.Logger
}

// NewServer returns the HTTPS server of a Broker.
func NewServer(cfg ServerConfig) (*serving.Server, error) {
	return serving.New(serving.Config{
		Listener:        cfg.Listener,
		Handler:         cfg.Handler,
		TLS:             &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cfg.GetCertificate},
		Limits:          limits(cfg.MaxConnections),
		DrainDelay:      cfg.DrainDelay,
		ShutdownTimeout: requestTimeout,
		Log:             cfg.Log,
	})
}
