package endpoint_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/endpoint"
)

func TestDeliver(t *testing.T) {
	direct := endpoint.Endpoint{Server: "https://203.0.113.7:6443"}
	with := func(change func(*endpoint.Endpoint)) endpoint.Endpoint {
		e := direct
		change(&e)
		return e
	}
	path := with(func(e *endpoint.Endpoint) { e.Server += "/k8s/clusters/c-1" })
	for name, test := range map[string]struct {
		requested   endpoint.Delivery
		endpoint    endpoint.Endpoint
		certificate bool

		delivery endpoint.Delivery
		refused  bool
		says     string // in the delivery's reason, or in the error's message
	}{
		"auto":                {requested: "Auto", endpoint: direct, delivery: "Direct", says: "clients support"},
		"not defaulted":       {requested: "", endpoint: direct, delivery: "Direct", says: "clients support"},
		"direct":              {requested: "Direct", endpoint: direct, delivery: "Direct", says: "clients support"},
		"same server name":    {requested: "Auto", endpoint: with(func(e *endpoint.Endpoint) { e.TLSServerName = "203.0.113.7" }), delivery: "Direct", says: "clients support"},
		"proxy":               {requested: "Proxy", endpoint: direct, delivery: "Proxy", says: "spec.delivery is Proxy"},
		"auto, path":          {requested: "Auto", endpoint: path, delivery: "Proxy", says: "path /k8s/clusters/c-1"},
		"auto, proxy URL":     {requested: "Auto", endpoint: with(func(e *endpoint.Endpoint) { e.ProxyURL = "http://u:planted@p" }), delivery: "Proxy", says: "proxyURL"},
		"auto, server name":   {requested: "Auto", endpoint: with(func(e *endpoint.Endpoint) { e.TLSServerName = "api.example.com" }), delivery: "Proxy", says: "tlsServerName api.example.com"},
		"auto, certificate":   {requested: "Auto", endpoint: direct, certificate: true, delivery: "Proxy", says: "client certificate"},
		"direct, path":        {requested: "Direct", endpoint: path, delivery: "Direct", refused: true, says: "path"},
		"direct, certificate": {requested: "Direct", endpoint: direct, certificate: true, delivery: "Direct", refused: true, says: "client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			delivery, says, err := endpoint.Deliver(test.requested, test.endpoint, test.certificate)
			if wrong, ok := errors.AsType[*endpoint.Error](err); ok && wrong.Reason == endpoint.ReasonDirectNotPossible {
				says = wrong.Error()
			}
			if delivery != test.delivery || (err != nil) != test.refused || !strings.Contains(says, test.says) || strings.Contains(says, "planted") {
				t.Errorf("got %s, %q, %v", delivery, says, err)
			}
		})
	}
}
