package issuer_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// TestUnlistedNamespacesCauseNoConnection: a TargetCluster that names no Secret resolves only where
// the operator lets Keyferry read Secrets.
func TestUnlistedNamespacesCauseNoConnection(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "a", errors.New("no"))
	spec := map[string]func(*world){
		"Federation": func(w *world) { w.federate() },
		"workload identity": func(w *world) {
			w.federate()
			w.cluster.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessAKS, AKS: &v1alpha1.AKSAccess{
				Identity: v1alpha1.IdentityWorkload, ClientID: "11111111-1111-1111-1111-111111111111", TenantID: "11111111-1111-1111-1111-111111111112",
			}}
			w.cluster.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueAccess}
		},
		"Spider without credentials": func(w *world) {
			w.federate()
			w.cluster.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessSpider, Spider: &v1alpha1.SpiderAccess{URL: w.target.URL, Cluster: "a", Connection: "b"}}
			w.cluster.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueAccess}
		},
	}
	for name, change := range spec {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			change(w)
			w.readErr = forbidden
			_, err := w.issuer.Resolve(t.Context(), w.cluster)
			invalid, ok := errors.AsType[*resolve.InvalidError](err)
			if !ok || invalid.Reason != resolve.ReasonNamespaceNotListed || !strings.Contains(invalid.Message, "add fleet to the chart value secretAccess.namespaces") {
				t.Errorf("got %v", err)
			}
			w.readErr = nil
			w.pass(time.Minute)
			if _, err := w.issuer.Resolve(t.Context(), w.cluster); err != nil {
				t.Errorf("listed: %v", err)
			}
			w = newWorld(t, func(cfg *issuer.Config) { cfg.Policy.AmbientNamespaces = []string{"fleet"} })
			change(w)
			w.readErr = forbidden
			if _, err := w.issuer.Resolve(t.Context(), w.cluster); err != nil {
				t.Errorf("listed for ambient identity: %v", err)
			}
		})
	}
}

// TestListedNamespaceIsKept: while the API server does not answer, a namespace stays what it was.
func TestListedNamespaceIsKept(t *testing.T) {
	w := newWorld(t)
	w.federate()
	w.readErr = errors.New("connection refused")
	if _, err := w.issuer.Resolve(t.Context(), w.cluster); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("before the first answer: %v", err)
	}
	w.readErr = nil
	w.pass(time.Minute)
	for range 3 {
		if _, err := w.issuer.Resolve(t.Context(), w.cluster); err != nil {
			t.Fatal(err)
		}
		w.readErr = errors.New("connection refused")
		w.pass(10 * time.Minute)
	}
}
