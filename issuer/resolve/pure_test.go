package resolve

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers"
)

func TestDecideDelivery(t *testing.T) {
	direct := providers.Endpoint{Server: "https://203.0.113.7:6443", CertificateAuthority: []byte("ca")}
	with := func(change func(*providers.Endpoint)) providers.Endpoint {
		e := direct
		change(&e)
		return e
	}
	path := with(func(e *providers.Endpoint) { e.Server += "/k8s/clusters/c-1" })
	for name, test := range map[string]struct {
		want        v1alpha1.Delivery
		endpoint    providers.Endpoint
		certificate bool

		delivery v1alpha1.Delivery
		reason   string // of the error
		says     string // in the delivery's reason, or in the error's message
	}{
		"auto":                {want: "Auto", endpoint: direct, delivery: "Direct", says: "can express"},
		"not defaulted":       {want: "", endpoint: direct, delivery: "Direct", says: "can express"},
		"direct":              {want: "Direct", endpoint: direct, delivery: "Direct", says: "can express"},
		"same server name":    {want: "Auto", endpoint: with(func(e *providers.Endpoint) { e.TLSServerName = "203.0.113.7" }), delivery: "Direct", says: "can express"},
		"proxy":               {want: "Proxy", endpoint: direct, delivery: "Proxy", says: "asks for it"},
		"auto, path":          {want: "Auto", endpoint: path, delivery: "Proxy", says: "path /k8s/clusters/c-1"},
		"auto, proxy URL":     {want: "Auto", endpoint: with(func(e *providers.Endpoint) { e.ProxyURL = "http://u:planted@p" }), delivery: "Proxy", says: "proxyURL"},
		"auto, server name":   {want: "Auto", endpoint: with(func(e *providers.Endpoint) { e.TLSServerName = "api.example.com" }), delivery: "Proxy", says: "tlsServerName api.example.com"},
		"auto, no CA":         {want: "Auto", endpoint: providers.Endpoint{Server: direct.Server}, delivery: "Direct", reason: ReasonNoCertificateAuthority, says: "certificateAuthorityData"},
		"auto, certificate":   {want: "Auto", endpoint: direct, certificate: true, delivery: "Proxy", says: "client certificate"},
		"proxy, no CA":        {want: "Proxy", endpoint: providers.Endpoint{Server: direct.Server}, delivery: "Proxy", reason: ReasonNoCertificateAuthority, says: "certificateAuthorityData"},
		"direct, path":        {want: "Direct", endpoint: path, delivery: "Direct", reason: ReasonDirectNotPossible, says: "path"},
		"direct, no CA":       {want: "Direct", endpoint: providers.Endpoint{Server: direct.Server}, delivery: "Direct", reason: ReasonNoCertificateAuthority, says: "certificateAuthorityData"},
		"direct, certificate": {want: "Direct", endpoint: direct, certificate: true, delivery: "Direct", reason: ReasonDirectNotPossible, says: "client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			delivery, says, err := decideDelivery(test.want, test.endpoint, test.certificate)
			reason := ""
			if invalid, ok := errors.AsType[*InvalidError](err); ok {
				reason, says = invalid.Reason, invalid.Message
			}
			if delivery != test.delivery || reason != test.reason || !strings.Contains(says, test.says) || strings.Contains(says, "planted") {
				t.Errorf("got %s, %q, %q", delivery, reason, says)
			}
		})
	}
}

func TestAmbientIdentityIsForListedNamespaces(t *testing.T) {
	r := New(Config{AmbientNamespaces: []string{"fleet"}})
	cluster := &v1alpha1.TargetCluster{}
	for namespace, allowed := range map[string]bool{"fleet": true, "fleet-2": false, "": false} {
		cluster.Namespace = namespace
		err := r.checkAmbient(cluster, "spec.access.eks.identity Ambient")
		if (err == nil) != allowed {
			t.Errorf("namespace %q: %v", namespace, err)
		}
		if allowed {
			continue
		}
		invalid, ok := errors.AsType[*InvalidError](err)
		if !ok || invalid.Reason != ReasonAmbientRefused || !strings.Contains(invalid.Message, "spec.access.eks.identity Ambient") || !strings.Contains(invalid.Message, "ambientIdentity.namespaces") {
			t.Errorf("namespace %q: %v", namespace, err)
		}
	}
}
