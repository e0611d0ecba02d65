package broker

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"

	"github.com/keyferry/keyferry/internal/serving"
)

// fairShare: no address has more than this part of the connections, nor is it given fewer than
// minShare.
const fairShare, minShare = 32, 8

// limits are those of the credential service. Write is longer than requestTimeout, so that a
// request that took too long is still answered. Idle is shorter than the minute between two
// requests of a Pod: a connection costs more memory than a handshake costs time. HeaderBytes leave
// room for a token with many claims.
func limits(connections int) serving.Limits {
	return serving.Limits{
		Connections: connections,
		PerAddress:  max(connections/fairShare, minShare),
		Streams:     32,
		HeaderBytes: 32 << 10,
		Read:        10 * time.Second,
		Write:       30 * time.Second,
		Idle:        15 * time.Second,
	}
}

// ServerConfig is what a server of the broker needs. All of it is required, save that DrainDelay
// may be zero.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// GetCertificate is called for each handshake, so that a renewed certificate counts at once.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// MaxConnections are served at the same time; more wait to be accepted. One address has a small
	// part of them at most.
	MaxConnections int
	// DrainDelay passes between not being ready and accepting no more connections.
	DrainDelay time.Duration
	Log        logr.Logger
}

// NewServer returns the server of a Broker, which serves over HTTPS.
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
