package resolve

import (
	"bytes"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
)

func TestAmbientIdentityIsForListedNamespaces(t *testing.T) {
	r := New(Config{Policy: endpoint.Policy{AmbientNamespaces: []string{"fleet"}}})
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

// TestEndpointOfSpecWinsOverACredential: a provider that returns an endpoint with a credential sets
// only the fields that the spec does not set.
func TestEndpointOfSpecWinsOverACredential(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	cluster := &v1alpha1.TargetCluster{Spec: v1alpha1.TargetClusterSpec{
		Endpoint: &v1alpha1.Endpoint{Server: "https://203.0.113.7:6443", TLSServerName: "kubernetes"},
	}}
	known, err := Fleet{}.endpoints(cluster)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := New(Config{}).Deliver(cluster, Resolution{known: known}, providers.Credential{
		Token:    "t",
		Endpoint: endpoint.Endpoint{Server: "https://198.51.100.1", TLSServerName: "other.example", CertificateAuthority: ca},
	})
	if err != nil || got.Server != "https://203.0.113.7:6443" || got.TLSServerName != "kubernetes" || !bytes.Equal(got.CertificateAuthority, ca) {
		t.Errorf("server %s, name %s, %v", got.Server, got.TLSServerName, err)
	}
}

// TestCheckEndpoint: a file that no API server has validated gets the same answer.
func TestCheckEndpoint(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint       v1alpha1.Endpoint
		reason, reject string
	}{
		"no scheme":       {v1alpha1.Endpoint{Server: "203.0.113.7:6443"}, ReasonInvalidEndpoint, "spec.endpoint.server: has no scheme"},
		"two kinds of CA": {v1alpha1.Endpoint{CertificateAuthorityData: []byte("a"), WellKnownCACertificates: "System"}, ReasonInvalidEndpoint, "exclude each other"},
		"unknown CAs":     {v1alpha1.Endpoint{WellKnownCACertificates: "Public"}, ReasonNotSupported, "use System"},
		"one field":       {v1alpha1.Endpoint{WellKnownCACertificates: "System"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(v1alpha1.TargetClusterSpec{
				Endpoint: &test.endpoint,
				Access:   v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "tenant-1"}},
				Issue:    v1alpha1.Issue{Type: v1alpha1.IssueAccess},
			})
			if test.reason == "" {
				if err != nil {
					t.Errorf("rejected: %v", err)
				}
				return
			}
			invalid, ok := errors.AsType[*InvalidError](err)
			if !ok || invalid.Reason != test.reason || !strings.Contains(invalid.Message, test.reject) {
				t.Errorf("got %v, want %s: %s", err, test.reason, test.reject)
			}
		})
	}
}
