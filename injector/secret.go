package injector

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyferry/keyferry/injector/podview"
)

// statusSecret is the delivery of a Pod that has the Secret of a CredentialRequest, in its status.
// Such a Pod has no sidecar: the controller keeps the Secret current, and the kubelet the files.
const statusSecret = "Secret"

// Keys of the Secret of a CredentialRequest of type tokenFile, as NVIDIA DPF has them.
const (
	TokenFileToken                = "TOKEN_FILE"
	TokenFileHost                 = "KUBERNETES_SERVICE_HOST"
	TokenFilePort                 = "KUBERNETES_SERVICE_PORT"
	TokenFileCertificateAuthority = "KUBERNETES_CA_DATA"
)

func (in *injection) fromSecret() bool { return in.target.Secret != "" }

func parseCredentialRequest(value, podNamespace string) (types.NamespacedName, error) {
	if msgs := validation.IsDNS1123Subdomain(value); len(msgs) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%.100q is not valid (%s): use the name of a CredentialRequest in the Pod's namespace", value, msgs[0])
	}
	return types.NamespacedName{Namespace: podNamespace, Name: value}, nil
}

// decideSecret fills in what is otherwise decided about delivery and restarts.
func (in *injection) decideSecret(problems *problems) {
	in.delivery, in.deliveryReason = statusSecret, "the credential is in Secret "+in.target.Secret
	mend := fmt.Sprintf("remove it, or use annotation %s in place of %s", AnnotationCluster, AnnotationCredentialRequest)
	if in.want.Delivery == DeliveryProxy {
		problems.add("annotation %s: %s is not possible together with %s, whose Pods have no sidecar: %s",
			AnnotationDelivery, DeliveryProxy, AnnotationCredentialRequest, mend)
	}
	if in.want.OnEndpointChange == OnEndpointChangeRestart {
		problems.add("annotation %s: %s is not possible together with %s, whose Pods have no sidecar that would restart them: %s",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, AnnotationCredentialRequest, mend)
	}
	for _, annotation := range in.want.forSidecar() {
		problems.add("annotation %s says nothing together with %s, whose Pods have no sidecar: %s",
			annotation, AnnotationCredentialRequest, mend)
	}
}

// secretEnvironment comes from the Secret, which the kubelet reads at each start of a container:
// one that starts after the target has moved gets the new address.
func (in *injection) secretEnvironment() [3]corev1.EnvVar {
	from := func(name, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: in.target.Secret}, Key: key,
		}}}
	}
	return [3]corev1.EnvVar{
		from(podview.EnvHost, TokenFileHost),
		from(podview.EnvPort, TokenFilePort),
		from(podview.EnvPortHTTPS, TokenFilePort),
	}
}

// injectSecret adds the volume and, where the Pod leaves the namespace to the target, the
// annotation that the file namespace comes from: the Secret does not have it.
func (in *injection) injectSecret(ops *operations) {
	in.injectProjection(ops, projected(
		corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: in.target.Secret},
			Items: []corev1.KeyToPath{
				{Key: TokenFileToken, Path: "token"},
				{Key: TokenFileCertificateAuthority, Path: "ca.crt"},
			},
		}},
		annotatedNamespace(),
	))
	if in.want.Namespace == "" {
		ops.add("/metadata/annotations/keyferry.dev~1namespace", in.target.Namespace)
		in.noteRestored("annotation", AnnotationNamespace)
	}
}

// checkSecret refuses what has our names and is not what such a Pod has.
func (in *injection) checkSecret(problems *problems) {
	in.checkProjection(problems, "Pods with annotation "+AnnotationCredentialRequest, func(s corev1.VolumeProjection) bool {
		return s.Secret != nil && len(s.Secret.Items) > 0 && s.Secret.Items[0].Key == TokenFileToken
	})
}
