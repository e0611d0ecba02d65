package resolve

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
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
