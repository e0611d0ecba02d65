package gke

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
)

// Reach has server stand for all of Google's hosts, over TLS.
func (p *Provider) Reach(server *httptest.Server) {
	tlsConfig := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	tlsConfig.ServerName = "example.com" // which its certificate is for
	p.transport = &http.Transport{TLSClientConfig: tlsConfig, DialContext: always(server)}
}

// ReachMetadata has server stand for the metadata server.
func (p *Provider) ReachMetadata(server *httptest.Server) {
	p.metadata = &http.Transport{DialContext: always(server)}
}

func always(server *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
}
