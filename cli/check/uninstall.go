package check

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Uninstall checks that no CredentialRequest has credentials that only a running controller can
// revoke. If Keyferry is removed before, these credentials stay valid, and the finalizers of the
// CredentialRequests stay, too.
func Uninstall(ctx context.Context, c client.Client) Report {
	const check = "revocation"
	r := Report{Subject: "Removal of Keyferry"}
	requests := &v1alpha1.CredentialRequestList{}
	err := c.List(ctx, requests)
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		r.unknown(check, "", "cannot list CredentialRequests: %v", err)
	}
	for i := range requests.Items {
		request := &requests.Items[i]
		if controllerutil.ContainsFinalizer(request, v1alpha1.FinalizerRevocation) {
			r.wrong(check, "delete it while the controller runs: kubectl delete credentialrequest "+request.Name+" -n "+request.Namespace,
				"CredentialRequest %s/%s has credentials that only the controller can revoke", request.Namespace, request.Name)
		}
	}
	if len(r.Checks) == 0 {
		r.fine(check, "no CredentialRequest has credentials to revoke")
	}
	r.Result = r.sum()
	return r
}
