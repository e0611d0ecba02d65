package check

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// request looks at the CredentialRequest whose Secret the Pod has, and at what that is for.
func (x *examination) request(ctx context.Context, pod *corev1.Pod, name types.NamespacedName) {
	const check = "request"
	request := &v1alpha1.CredentialRequest{}
	if err := x.client.Get(ctx, name, request); apierrors.IsNotFound(err) {
		x.report.wrong(check, "create it, or use another name: kubectl get credentialrequests -n "+name.Namespace,
			"there is no CredentialRequest %s in namespace %s", name.Name, name.Namespace)
		return
	} else if err != nil {
		x.report.unknown(check, "", "cannot read CredentialRequest %s: %v", name, err)
		return
	}
	x.usable(ctx, pod, types.NamespacedName(request.Spec.TargetCluster))
	secret := request.Spec.Secret.Name
	switch ready := meta.FindStatusCondition(request.Status.Conditions, v1alpha1.ConditionReady); {
	case ready == nil || request.Status.ObservedGeneration < request.Generation:
		x.report.unknown(check, "see the log of Deployment keyferry-controller", "CredentialRequest %s has not been reconciled yet", name)
	case ready.Status != metav1.ConditionTrue:
		x.report.wrong(check, "kubectl describe credentialrequest "+name.Name+" -n "+name.Namespace+" shows what holds it up",
			"the Pod uses Secret %s of CredentialRequest %s, which is not ready: %s: %s", secret, name, ready.Reason, ready.Message)
	default:
		x.report.fine(check, "the Pod uses Secret %s of CredentialRequest %s", secret, name)
	}
}
