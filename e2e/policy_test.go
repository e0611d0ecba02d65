package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestCompromisedComponents: the permissions of the broker and the controller do not suffice to
// forge the status of a TargetCluster, or to create ConfigMaps and Secrets that are not Keyferry's.
func TestCompromisedComponents(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	as := func(component string) client.Client {
		cfg := rest.CopyConfig(suite.management.config)
		cfg.Impersonate = rest.ImpersonationConfig{
			UserName: "system:serviceaccount:" + suite.release + ":keyferry-" + component,
			Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + suite.release, "system:authenticated"},
		}
		c, err := client.New(cfg, client.Options{Scheme: suite.management.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	meta := metav1.ObjectMeta{Namespace: ns, Name: "other"}
	forged := &unstructured.Unstructured{}
	forged.SetAPIVersion("keyferry.dev/v1alpha1")
	forged.SetKind("TargetCluster")
	forged.SetNamespace(fleet)
	forged.SetName(tn.Target)
	audience := client.RawPatch(types.MergePatchType, []byte(`{"status":{"subjectTokenAudience":"https://kubernetes.default.svc"}}`))
	for policy, err := range map[string]error{
		"keyferry-broker":                as("broker").Status().Patch(t.Context(), forged, audience),
		"keyferry-controller-configmaps": as("controller").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}),
		"keyferry-controller-secrets": as("controller").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: "other"},
		}),
	} {
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+policy+"'") {
			t.Errorf("%s: got %v, want a denial", policy, err)
		}
	}
}
