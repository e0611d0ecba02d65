package webhook

import (
	"cmp"
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

// requestTarget returns the target of a Pod that names a CredentialRequest. It reads the request
// from the API server, not from a cache, because few Pods need one.
func (h *Handler) requestTarget(ctx context.Context, r requester, name types.NamespacedName) (injector.Target, []string, error) {
	const annotation = injector.AnnotationCredentialRequest
	fail := func(err error) (injector.Target, []string, error) { return injector.Target{}, nil, err }
	request := &v1alpha1.CredentialRequest{}
	switch err := h.Live.Get(ctx, name, request); {
	case apierrors.IsNotFound(err):
		return fail(invalid("NotFound", "annotation %s: there is no CredentialRequest %s: create it, or correct the annotation (kubectl get credentialrequests -n %s lists them)",
			annotation, name, name.Namespace))
	case err != nil:
		return fail(fmt.Errorf("reading CredentialRequest %s: %w", name, err))
	case request.Spec.ServiceAccountName != r.serviceAccount.Name:
		return fail(forbidden("Forbidden", "annotation %s: CredentialRequest %s is for ServiceAccount %s, and the Pod runs as %s: set the Pod's spec.serviceAccountName to %s, or name a CredentialRequest for %s",
			annotation, name, request.Spec.ServiceAccountName, r.serviceAccount.Name, request.Spec.ServiceAccountName, r.serviceAccount.Name))
	}
	cluster := types.NamespacedName(request.Spec.TargetCluster)
	if err := h.checkUse(ctx, annotation, r, use.TargetCluster(cluster)); err != nil {
		return fail(err)
	}
	var found v1alpha1.TargetCluster
	if h.Cached.Get(ctx, cluster, &found) != nil {
		found = v1alpha1.TargetCluster{}
		switch err := h.Live.Get(ctx, cluster, &found); {
		case apierrors.IsNotFound(err):
			return fail(invalid("NotFound", "annotation %s: CredentialRequest %s refers to TargetCluster %s, which does not exist: create it, or correct the request's spec.targetCluster",
				annotation, name, cluster))
		case err != nil:
			return fail(fmt.Errorf("reading TargetCluster %s: %w", cluster, err))
		}
	}
	if err := h.checkUseOfProfile(ctx, annotation, r, &found); err != nil {
		return fail(err)
	}
	target, warning, err := RequestTarget(request, &found)
	if err != nil {
		return fail(invalid("NotExpressible", "annotation %s: %v", annotation, err))
	}
	if warning == "" {
		return target, nil, nil
	}
	return target, []string{"annotation " + annotation + ": " + warning}, nil
}

// RequestTarget resolves a CredentialRequest for the injector. tc is its TargetCluster. The warning
// is not empty if the Secret is not written yet, so that a Pod would wait for it. An error names
// the request and the fix.
func RequestTarget(request *v1alpha1.CredentialRequest, tc *v1alpha1.TargetCluster) (target injector.Target, warning string, err error) {
	name := "CredentialRequest " + request.Namespace + "/" + request.Name
	if form := request.Spec.Type; form != v1alpha1.CredentialTokenFile {
		reader := map[v1alpha1.CredentialType]string{
			v1alpha1.CredentialKubeconfig: "programs that read a kubeconfig: mount its Secret in the Pod yourself",
			v1alpha1.CredentialArgoCD:     "Argo CD",
		}[form]
		return target, "", fmt.Errorf("%s has type %s, which is for %s, but in-cluster clients need type %s: use a CredentialRequest of this type",
			name, form, reader, v1alpha1.CredentialTokenFile)
	}
	target = injector.Target{Secret: request.Spec.Secret.Name, Namespace: cmp.Or(tc.Spec.DefaultNamespace, metav1.NamespaceDefault)}
	var (
		status  = request.Status
		issued  = meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionIssued)
		written = meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionSecretWritten)
		current = status.ObservedGeneration >= request.Generation
	)
	switch {
	case current && issued != nil && issued.Status == metav1.ConditionFalse && (issued.Reason == v1alpha1.ReasonNotExpressible || issued.Reason == v1alpha1.ReasonNotSupported):
		return injector.Target{}, "", fmt.Errorf("%s has no usable Secret: %s: %s: fix this problem, or use TargetCluster %s/%s with annotation %s",
			name, issued.Reason, issued.Message, tc.Namespace, tc.Name, injector.AnnotationCluster)
	case !current || written == nil:
		warning = "the controller has not reconciled the CredentialRequest yet"
	case written.Status != metav1.ConditionTrue:
		warning = written.Reason + ": " + written.Message
	default:
		return target, "", nil
	}
	return target, fmt.Sprintf("Secret %s of %s is not written yet; the Pod's containers start when the Secret exists: %s", target.Secret, name, warning), nil
}
