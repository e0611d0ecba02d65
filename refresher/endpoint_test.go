package refresher

import (
	"testing"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
)

// TestEndpoint runs the test cases of package endpoint, which the refresher cannot import: a Pod
// must start with each endpoint that the broker accepts.
func TestEndpoint(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range endpointtest.Cases() {
		if test.Rejected != "" {
			continue // the broker answers with an error
		}
		t.Run(name, func(t *testing.T) {
			a := answer("token", now, time.Hour)
			cluster := &a.Spec.Cluster
			cluster.Server, cluster.CertificateAuthorityData = test.Server, test.Endpoint.CertificateAuthority
			cluster.TLSServerName, cluster.ProxyURL = test.Endpoint.TLSServerName, test.Endpoint.ProxyURL
			if test.Host == "" {
				cluster.Config.Delivery = wire.DeliveryProxy
			}
			c, err := brokerCredential(a, now, now)
			if err != nil {
				t.Fatal(err)
			}
			if test.Host == "" {
				if c.delivery = wire.DeliveryDirect; c.tellDirectly() == nil {
					t.Error("direct delivery is possible, want only delivery by proxy")
				}
				return
			}
			if err := c.tellDirectly(); err != nil || c.endpoint != (endpoint{test.Host, test.Port}) {
				t.Errorf("got %v, %v, want host %s and port %s", c.endpoint, err, test.Host, test.Port)
			}
		})
	}
}
