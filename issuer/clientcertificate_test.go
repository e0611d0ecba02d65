package issuer_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// certified changes the TargetCluster of w into one that issues client certificates, and needs no
// access.
func (w *world) certified() {
	w.cluster.Spec = v1alpha1.TargetClusterSpec{
		Endpoint: &v1alpha1.Endpoint{Server: w.target.URL, CertificateAuthorityData: w.ca()},
		Access:   v1alpha1.Access{Type: v1alpha1.AccessNone},
		Issue: v1alpha1.Issue{Type: v1alpha1.IssueClientCertificate, ClientCertificate: &v1alpha1.ClientCertificateIssue{
			IssuerRef:  v1alpha1.CertificateIssuerReference{Name: "target-ca"},
			CommonName: "${namespace}:${serviceAccount}",
		}},
	}
}

// certManager returns a client of cert-manager at a server that answers with code when it is asked
// whether there is such an API.
func certManager(t *testing.T, code int) *certmanager.CertmanagerV1Client {
	t.Helper()
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/apis/cert-manager.io/v1" {
			t.Errorf("asked for %s", req.URL.Path)
		}
		rw.WriteHeader(code)
	}))
	t.Cleanup(front.Close)
	return certmanager.NewForConfigOrDie(&rest.Config{Host: front.URL})
}

// withCertManager is for newWorld; nil leaves it at none.
func withCertManager(api *certmanager.CertmanagerV1Client) func(*issuer.Config) {
	return func(cfg *issuer.Config) {
		if api != nil {
			cfg.CertManager = api
		}
	}
}

func TestClientCertificate(t *testing.T) {
	w := newWorld(t, withCertManager(certManager(t, http.StatusOK)))
	w.certified()
	got, err := w.issuer.Resolve(t.Context(), w.cluster)
	if err != nil || got.Endpoint.Server != w.target.URL || got.Delivery != v1alpha1.DeliveryProxy || got.Access != nil || got.Warning != "" {
		t.Errorf("resolved to %+v, error %v", got, err)
	}
	w.cluster.Generation++
	w.cluster.Spec.Issue.ClientCertificate.CommonName = "${namespace}:${podName}"
	got, err = w.issuer.Resolve(t.Context(), w.cluster)
	if err != nil || !strings.Contains(got.Warning, "add ${serviceAccount}, or use ${podUID}") {
		t.Errorf("resolved with the warning %q, error %v", got.Warning, err)
	}
}

func TestClientCertificateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		api    *certmanager.CertmanagerV1Client
		change func(*v1alpha1.TargetClusterSpec)
		reason string
		says   string
	}{
		"from files":   {nil, nil, resolve.ReasonNotSupported, "cannot be issued from files"},
		"nobody signs": {certManager(t, http.StatusNotFound), nil, resolve.ReasonCertManagerMissing, "install it, with its CRDs"},
		"an unknown field": {certManager(t, http.StatusOK), func(s *v1alpha1.TargetClusterSpec) { s.Issue.ClientCertificate.CommonName = "${name}" },
			resolve.ReasonInvalidIssue, "spec.issue.clientCertificate.commonName: ${name} is not a field"},
		"system": {certManager(t, http.StatusOK), func(s *v1alpha1.TargetClusterSpec) {
			s.Issue.ClientCertificate.Organizations = []string{"SYSTEM:masters"}
		}, resolve.ReasonInvalidIssue, "spec.issue.clientCertificate.organizations[0]: begins with system:"},
		"ambiguous": {certManager(t, http.StatusOK), func(s *v1alpha1.TargetClusterSpec) {
			s.Issue.ClientCertificate.CommonName = "${namespace}-${serviceAccount}"
		}, resolve.ReasonInvalidIssue, "put a colon or a slash between them"},
		"delivery Direct": {certManager(t, http.StatusOK), func(s *v1alpha1.TargetClusterSpec) { s.Delivery = v1alpha1.DeliveryDirect },
			resolve.ReasonDirectNotPossible, "the credential is a client certificate"},
		"without its field": {certManager(t, http.StatusOK), func(s *v1alpha1.TargetClusterSpec) { s.Issue.ClientCertificate = nil },
			resolve.ReasonNotSupported, "use issue type Federation or ClientCertificate"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withCertManager(test.api))
			w.certified()
			if test.change != nil {
				test.change(&w.cluster.Spec)
			}
			_, err := w.issuer.Resolve(t.Context(), w.cluster)
			invalid, ok := errors.AsType[*resolve.InvalidError](err)
			if !ok || invalid.Reason != test.reason || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %s: %s", err, test.reason, test.says)
			}
		})
	}
}

// TestCertManagerUnknown: nobody knows whether there is one.
func TestCertManagerUnknown(t *testing.T) {
	w := newWorld(t, withCertManager(certManager(t, http.StatusInternalServerError)))
	w.certified()
	_, err := w.issuer.Resolve(t.Context(), w.cluster)
	if !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("got %v, want that it is unavailable", err)
	}
}

// TestCertManagerNotInstalled asks the real API server, which has no such CRDs.
func TestCertManagerNotInstalled(t *testing.T) {
	w := newWorld(t, withCertManager(certmanager.NewForConfigOrDie(serverConfig)))
	w.certified()
	_, err := w.issuer.Resolve(t.Context(), w.cluster)
	if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != resolve.ReasonCertManagerMissing {
		t.Errorf("got %v, want that cert-manager is missing", err)
	}
}
