package tokenrequest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/dnstest"
	"github.com/keyferry/keyferry/providers"
)

// TestFailover: if the address of the target's name changes, the next try after a failed one asks
// the new server, though the old one still answers.
func TestFailover(t *testing.T) {
	for name, old := range map[string]http.HandlerFunc{
		"another server":     http.NotFound,
		"no such account":    status(http.StatusNotFound, "NotFound", "not found", `"name":"deployer","kind":"serviceaccounts"`),
		"unknown credential": status(http.StatusUnauthorized, "Unauthorized", "Unauthorized", ""),
		"broken":             status(http.StatusInternalServerError, "InternalError", "no etcd", ""),
	} {
		t.Run(name, func(t *testing.T) {
			name := dnstest.New(t, old, token(issuedToken, inAnHour()))
			p := provider(t, config(&access{providers.Credential{
				Token:    accessToken,
				NotAfter: time.Now().Add(time.Hour),
				Endpoint: endpoint.Endpoint{Server: name.URL, CertificateAuthority: name.CA},
			}}))
			if _, err := p.Issue(t.Context(), providers.Request{}); err == nil {
				t.Fatal("the old server issued a token")
			}
			name.Switch()
			if _, err := p.Issue(t.Context(), providers.Request{}); err != nil {
				t.Error(err)
			}
		})
	}
}
