package issuer_test

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// federate makes the world's TargetCluster one that accepts tokens of this cluster.
func (w *world) federate() *v1alpha1.Endpoint {
	endpoint := &v1alpha1.Endpoint{Server: w.target.URL, CertificateAuthorityData: w.ca()}
	w.cluster.Spec = v1alpha1.TargetClusterSpec{
		Endpoint: endpoint,
		Access:   v1alpha1.Access{Type: v1alpha1.AccessNone},
		Issue:    v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: "tenant-1.example.com"}},
	}
	return endpoint
}

func TestFederation(t *testing.T) {
	w := newWorld(t)
	w.federate()
	got, err := w.issuer.Resolve(t.Context(), w.cluster)
	if err != nil || got.Endpoint.Server != w.target.URL || got.Delivery != v1alpha1.DeliveryDirect || got.Access != nil {
		t.Errorf("resolved to %+v, error %v", got, err)
	}
	_, err = w.issuer.Issue(t.Context(), tenant, web)
	if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != resolve.ReasonFederated || !strings.Contains(err.Error(), "recreate the Pod") {
		t.Errorf("issuing: got %v", err)
	}
	if len(w.events) > 0 {
		t.Errorf("who asked in vain says nothing about the target, got %+v", w.events)
	}
	if _, reads := w.counts(); reads > 1 {
		t.Errorf("%d reads, want one to find out whether the namespace is listed", reads)
	}
}

func TestFederationRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*world, *v1alpha1.Endpoint)
		reason string
		says   string
	}{
		"proxy":       {func(_ *world, e *v1alpha1.Endpoint) { e.ProxyURL = "http://proxy.example.com" }, resolve.ReasonDirectNotPossible, "set an endpoint that needs none"},
		"server name": {func(_ *world, e *v1alpha1.Endpoint) { e.TLSServerName = "api.example.com" }, resolve.ReasonDirectNotPossible, "tlsServerName"},
		"path":        {func(_ *world, e *v1alpha1.Endpoint) { e.Server += "/k8s/clusters/c-1" }, resolve.ReasonDirectNotPossible, "path"},
		"proxy, with delivery Direct": {func(w *world, e *v1alpha1.Endpoint) {
			e.ProxyURL, w.cluster.Spec.Delivery = "http://proxy.example.com", v1alpha1.DeliveryDirect
		}, resolve.ReasonDirectNotPossible, "or use another spec.issue.type"},
		"no CA":       {func(_ *world, e *v1alpha1.Endpoint) { e.CertificateAuthorityData = nil }, resolve.ReasonNoCertificateAuthority, "set spec.endpoint.certificateAuthorityData"},
		"no endpoint": {func(w *world, _ *v1alpha1.Endpoint) { w.cluster.Spec.Endpoint = nil }, resolve.ReasonInvalidEndpoint, "spec.endpoint.server"},
		"link-local":  {func(_ *world, e *v1alpha1.Endpoint) { e.Server = "https://169.254.169.254" }, resolve.ReasonAddressRefused, "link-local"},
		"the broker's audience": {func(w *world, _ *v1alpha1.Endpoint) { w.cluster.Spec.Issue.Federation.Audience = "keyferry" },
			resolve.ReasonAudienceTaken, "use an audience that only the target accepts"},
		"the local audience": {func(w *world, _ *v1alpha1.Endpoint) {
			w.cluster.Spec.Issue.Federation.Audience = "https://here.example.com"
		},
			resolve.ReasonAudienceTaken, "use an audience that only the target accepts"},
		"access": {func(w *world, _ *v1alpha1.Endpoint) {
			w.cluster.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: w.secret.Name}}
		}, resolve.ReasonNotSupported, "use access type None"},
		"no access, but TokenRequest": {func(w *world, _ *v1alpha1.Endpoint) {
			w.cluster.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{}}
		}, resolve.ReasonNotSupported, "spec.access.type None with"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(cfg *issuer.Config) { cfg.LocalAudiences = []string{"https://here.example.com"} })
			test.change(w, w.federate())
			_, err := w.issuer.Resolve(t.Context(), w.cluster)
			if invalid, ok := errors.AsType[*resolve.InvalidError](err); !ok || invalid.Reason != test.reason || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %s: %s", err, test.reason, test.says)
			}
		})
	}
}

func TestLocalAudiences(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	payload := base64.RawURLEncoding.EncodeToString([]byte(`{"aud":["https://here.example.com","here"]}`))
	if err := os.WriteFile(file, []byte("e30."+payload+".c2ln\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := issuer.LocalAudiences(&rest.Config{BearerTokenFile: file}); len(got) != 2 || got[0] != "https://here.example.com" {
		t.Errorf("got %q", got)
	}
	if got := issuer.LocalAudiences(&rest.Config{}); got != nil {
		t.Errorf("outside of a cluster: got %q", got)
	}
}
