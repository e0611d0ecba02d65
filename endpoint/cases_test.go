package endpoint_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
)

// TestCases runs the test cases that the tests of injector and refresher also run.
func TestCases(t *testing.T) {
	for name, test := range endpointtest.Cases() {
		t.Run(name, func(t *testing.T) {
			got, err := endpoint.Policy{}.Check(test.Endpoint)
			if test.Rejected != "" {
				if err == nil || !strings.Contains(err.Error(), test.Rejected) {
					t.Errorf("got %v, want an error that holds %q", err, test.Rejected)
				}
				if err != nil && strings.Contains(err.Error(), "planted") {
					t.Errorf("the error repeats what may be secret: %v", err)
				}
				return
			}
			if err != nil || got.Server != test.Server {
				t.Fatalf("got %s, %v, want %s", got.Server, err, test.Server)
			}
			if again, err := (endpoint.Policy{}).Check(got); err != nil || again.Server != got.Server {
				t.Errorf("checked again: %s, %v", again.Server, err)
			}
			expected := endpoint.Direct
			if test.Host == "" {
				expected = endpoint.Proxy
			}
			delivery, reason, err := endpoint.Deliver(endpoint.Auto, got, false)
			if err != nil || delivery != expected || strings.Contains(reason, "planted") {
				t.Errorf("got delivery %s (%s), %v, want %s", delivery, reason, err, expected)
			}
			if u, err := url.Parse(got.Server); test.Host != "" && (err != nil || u.Hostname() != test.Host || u.Port() != test.Port) {
				t.Errorf("got %s, %v, want host %s and port %s", u, err, test.Host, test.Port)
			}
		})
	}
}
