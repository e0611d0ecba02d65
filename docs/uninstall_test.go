package docs_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/testenv"
)

// TestUninstallTooEarly: while a CredentialRequest has credentials that only the controller can
// revoke, helm uninstall removes nothing.
func TestUninstallTooEarly(t *testing.T) {
	testenv.DependOn(t, "../charts")
	server := testenv.Target(t, "")
	if out, err := testenv.Helm(t, server, root, "install", "keyferry", "charts/keyferry", "-n", "keyferry-system", "--create-namespace").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := testenv.NewClient(t, server)
	request := &v1alpha1.CredentialRequest{Spec: v1alpha1.CredentialRequestSpec{
		TargetCluster:      v1alpha1.ObjectReference{Namespace: "fleet", Name: "tenant-1"},
		ServiceAccountName: "web", Type: v1alpha1.CredentialKubeconfig, Secret: v1alpha1.CredentialSecret{Name: "tenant-1"},
	}}
	request.Namespace, request.Name = "default", "web"
	request.Finalizers = []string{v1alpha1.FinalizerRevocation}
	if err := c.Create(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	defer withNodes(t, server)()
	helm := func(args ...string) (string, error) {
		out, err := testenv.Helm(t, server, root, append(args, "-n", "keyferry-system")...).CombinedOutput()
		return string(out), err
	}
	uninstall := func() (string, error) { return helm("uninstall", "keyferry", "--timeout", "1m") }
	running := func() error {
		return c.Get(t.Context(), types.NamespacedName{Namespace: "keyferry-system", Name: "keyferry-controller"}, &appsv1.Deployment{})
	}

	if out, err := uninstall(); err == nil || !strings.Contains(out, "keyferry-uninstall-check") {
		t.Errorf("helm uninstall: %v\n%s", err, out)
	}
	if err := running(); err != nil {
		t.Errorf("the controller is gone, which had to revoke credentials: %v", err)
	}
	// To keep Keyferry, users roll the release back to its own revision.
	for _, args := range [][]string{{"rollback", "keyferry", "1"}, {"upgrade", "keyferry", "charts/keyferry"}} {
		if out, err := helm(args...); err != nil {
			t.Errorf("helm %s: %v\n%s", args, err, out)
		}
	}
	// What the controller does after the deletion.
	if err := c.Patch(t.Context(), request, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	if out, err := uninstall(); err != nil {
		t.Errorf("helm uninstall: %v\n%s", err, out)
	}
	if err := running(); err == nil {
		t.Error("the controller is still there")
	}
}
