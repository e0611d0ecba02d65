package issuer

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers"
)

func TestBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1000: 10 * time.Second} {
		if got := backoff(failures); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}

func TestCredentialID(t *testing.T) {
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("DER")})
	for name, test := range map[string]struct {
		credential providers.Credential
		want       string
	}{
		"jti":              {providers.Credential{Token: jwt(`{"jti":"0d6f2c1e-1"}`)}, "JTI=0d6f2c1e-1"},
		"no jti":           {providers.Credential{Token: jwt(`{}`)}, ""},
		"jti for a log":    {providers.Credential{Token: jwt(`{"jti":"a\nlevel=error"}`)}, ""},
		"long jti":         {providers.Credential{Token: jwt(`{"jti":"` + strings.Repeat("a", 129) + `"}`)}, ""},
		"jti is a number":  {providers.Credential{Token: jwt(`{"jti":1}`)}, ""},
		"not base64":       {providers.Credential{Token: "a.*.c"}, ""},
		"opaque":           {providers.Credential{Token: "secret"}, ""},
		"certificate":      {providers.Credential{ClientCertificate: certificate}, "X509SHA256=bffd28c8eeb10a5e50cf17b58f477ea1803895ae69744e6eb53cbcc3bf427adb"},
		"neither of these": {providers.Credential{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := credentialID(test.credential); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

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
	i := &Issuer{cfg: Config{AmbientNamespaces: []string{"fleet"}}}
	cluster := &v1alpha1.TargetCluster{}
	for namespace, allowed := range map[string]bool{"fleet": true, "fleet-2": false, "": false} {
		cluster.Namespace = namespace
		err := i.checkAmbient(cluster, "spec.access.eks.identity Ambient")
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
