package aks

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
)

// Reach has server stand for all hosts, over TLS.
func (p *Provider) Reach(server *httptest.Server) {
	tlsConfig := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	tlsConfig.ServerName = "example.com" // which its certificate is for
	p.transport = &http.Transport{
		TLSClientConfig: tlsConfig,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
}
