package controller

import (
	"net/http"
	"testing"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/dnstest"
)

// TestProbeFollowsDNS: each probe asks the server that the target's name resolves to now, though
// the server at the old address still answers.
func TestProbeFollowsDNS(t *testing.T) {
	for name, old := range map[string]http.Handler{
		"works":             dnstest.Answer(http.StatusOK, `{"gitVersion":"v1.30.0"}`),
		"is another server": dnstest.Answer(http.StatusNotFound, "no such page"),
		"is broken":         dnstest.Answer(http.StatusServiceUnavailable, "no etcd"),
	} {
		t.Run(name, func(t *testing.T) {
			name := dnstest.New(t, old, dnstest.Answer(http.StatusOK, `{"gitVersion":"v1.37.0"}`))
			resolver := exchanges{endpoint.Endpoint{Server: name.URL, CertificateAuthority: name.CA}}
			probed := func() string {
				seen, err := observe(t.Context(), resolver, endpoint.Policy{AllowLocal: true}, &v1alpha1.TargetCluster{}, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				return seen.serverVersion
			}
			if got := probed(); got == "v1.37.0" {
				t.Fatal("the new server was asked")
			}
			name.Switch()
			if got := probed(); got != "v1.37.0" {
				t.Errorf("after the change of the address, the version is %q", got)
			}
		})
	}
}
