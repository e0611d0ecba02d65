package check

import (
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

func TestUninstall(t *testing.T) {
	w := newWorld(t)
	request := &v1alpha1.CredentialRequest{Spec: v1alpha1.CredentialRequestSpec{
		TargetCluster:      v1alpha1.ObjectReference{Namespace: w.cluster.Namespace, Name: "tenant-1"},
		ServiceAccountName: "web", Type: v1alpha1.CredentialKubeconfig, Secret: v1alpha1.CredentialSecret{Name: "tenant-1"},
	}}
	request.Namespace, request.Name = w.cluster.Namespace, "web"
	w.create(request)
	r := Uninstall(t.Context(), w.client)
	w.want(r, Fine, "revocation", Fine, "no CredentialRequest has credentials to revoke")

	request.Finalizers = []string{v1alpha1.FinalizerRevocation}
	if err := w.client.Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	r = Uninstall(t.Context(), w.client)
	w.want(r, Wrong, "revocation", Wrong, "CredentialRequest "+request.Namespace+"/web has credentials", "kubectl delete credentialrequest web -n "+request.Namespace)
}
