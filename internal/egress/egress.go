// Package egress connects to the addresses that users write in objects and Secrets. The process can
// reach more addresses than these users can, so an endpoint.Policy decides which addresses are
// denied.
//
// It imports only the standard library, and the packages endpoint, providers and redial.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/redial"
	"github.com/keyferry/keyferry/providers"
)

const (
	dialTimeout = 5 * time.Second
	// maxAge is how long a connection is used. It is long enough for the requests of one operation,
	// and for those of many Pods that start at once.
	maxAge = 10 * time.Second
	// Responses are small. The limits keep a target that sends without end from using up the memory.
	maxHeader = 64 << 10
	maxBody   = 4 << 20
)

// dialContext returns a function that connects to addresses that the policy allows. It checks
// addresses after names were resolved, so that no name bypasses the policy.
func dialContext(policy endpoint.Policy) dialFunc {
	dialer := net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, resolved string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			return policy.CheckAddrPort(addr)
		},
	}
	return dialer.DialContext
}

// dialFunc opens connections, as net.Dialer.DialContext does.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Client returns an HTTP client for the endpoint with the credential. It follows no redirects,
// which could send the credential to another host. Without a CertificateAuthority, it uses the
// system's CA certificates. Callers should close the idle connections of a client that they no
// longer need.
//
// The client uses HTTP/1.1, where cancelling a request closes its connection; with HTTP/2, a dead
// connection would make all requests fail until TCP times out, minutes later. A connection is used
// for at most 10 seconds, and not again after a failed request: the name of the server may resolve
// to another address then.
func Client(policy endpoint.Policy, at endpoint.Endpoint, credential providers.Credential) (*http.Client, error) {
	return newClient(at, credential, dialContext(policy))
}

func newClient(at endpoint.Endpoint, credential providers.Credential, dial dialFunc) (*http.Client, error) {
	tlsConfig, err := tlsConfig(at, credential)
	if err != nil {
		return nil, err
	}
	proxy := http.ProxyFromEnvironment
	if at.ProxyURL != "" {
		u, err := url.Parse(at.ProxyURL)
		if err != nil {
			return nil, errors.New("the proxy URL is malformed")
		}
		proxy = http.ProxyURL(u)
	}
	connections := &redial.Transport{
		New: func() *http.Transport {
			transport := &http.Transport{
				Proxy:               proxy,
				DialContext:         dial,
				TLSClientConfig:     tlsConfig,
				TLSHandshakeTimeout: dialTimeout,
				IdleConnTimeout:     maxAge,
				MaxIdleConnsPerHost: 4,
				Protocols:           new(http.Protocols),

				MaxResponseHeaderBytes: maxHeader,
			}
			transport.Protocols.SetHTTP1(true)
			return transport
		},
		MaxAge: maxAge,
		Failed: failed,
	}
	return &http.Client{
		Transport: &bearer{token: credential.Token, next: connections},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}, nil
}

// failed reports whether a request did not succeed.
func failed(response *http.Response, err error) bool {
	return err != nil || response.StatusCode >= http.StatusMultipleChoices
}

func tlsConfig(at endpoint.Endpoint, credential providers.Credential) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: at.TLSServerName}
	if len(at.CertificateAuthority) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(at.CertificateAuthority) {
			return nil, errors.New("certificateAuthorityData contains no PEM certificate")
		}
	}
	if len(credential.ClientCertificate) > 0 {
		pair, err := tls.X509KeyPair(credential.ClientCertificate, credential.ClientKey)
		if err != nil {
			return nil, errors.New("the client certificate and key are malformed or do not belong together")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// bearer adds a token to each request, and limits the length of responses.
type bearer struct {
	token string
	next  *redial.Transport
}

func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	if b.token != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	resp, err := b.next.RoundTrip(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxBody)
	}
	return resp, err
}

// CloseIdleConnections implements the method that http.Client.CloseIdleConnections calls.
func (b *bearer) CloseIdleConnections() { b.next.CloseIdleConnections() }
