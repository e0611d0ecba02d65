package controller

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// exchanges resolves as a provider does that needs the token of a Pod.
type exchanges struct{ endpoint endpoint.Endpoint }

func (e exchanges) Resolve(context.Context, *v1alpha1.TargetCluster) (issuer.Resolution, error) {
	resolution := resolve.Resolution{Endpoint: e.endpoint, Access: e, Delivery: v1alpha1.DeliveryDirect, SubjectAudience: "sts.example.com"}
	return issuer.Resolution{Resolution: resolution}, nil
}

func (exchanges) Issue(context.Context, providers.Request) (providers.Credential, error) {
	return providers.Credential{}, fmt.Errorf("%w: without the token of a Pod", providers.ErrRefused)
}

func TestWhatOnlyPodsGetIntoIsAskedAnonymously(t *testing.T) {
	for name, test := range map[string]struct {
		server *httptest.Server
		status metav1.ConditionStatus
		reason string
		says   string
	}{
		"answers":       {impostor(t, http.StatusOK, "x"), metav1.ConditionTrue, "Answers", "answers with version v1.99.0; the request had no credential"},
		"wants to know": {impostor(t, http.StatusUnauthorized, ""), metav1.ConditionTrue, "Answers", "does not tell its version; the request had no credential"},
		"is no cluster": {impostor(t, http.StatusNotFound, ""), metav1.ConditionFalse, reasonUnexpectedAnswer, "so it is not an API server"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rest.ImpersonationConfig{})
			w.it.cfg.Resolver = exchanges{endpoint.Endpoint{Server: test.server.URL, CertificateAuthority: certificate(test.server)}}
			w.look()
			if message := w.condition(v1alpha1.ConditionReachable, test.status, test.reason); !strings.Contains(message, test.says) {
				t.Errorf("Reachable says %q", message)
			}
			if s := w.cluster.Status; s.SubjectTokenAudience != "sts.example.com" {
				t.Errorf("status %+v", s)
			}
		})
	}
	t.Run("not any more", func(t *testing.T) {
		w := newWorld(t, rest.ImpersonationConfig{})
		resolver := w.it.cfg.Resolver
		w.it.cfg.Resolver = exchanges{endpoint.Endpoint{Server: "https://" + deadAddress(t)}}
		w.look()
		w.it.cfg.Resolver = resolver
		w.look()
		if got := w.cluster.Status.SubjectTokenAudience; got != "" {
			t.Errorf("the audience is still %q", got)
		}
	})
}
