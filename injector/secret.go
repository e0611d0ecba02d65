package injector

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyferry/keyferry/injector/podview"
)

// statusSecret is the value of Status.Delivery for a Pod with the Secret of a CredentialRequest.
// Such a Pod has no sidecar: the controller updates the Secret, and the kubelet the files.
const statusSecret = "Secret"

// Keys of the Secret of a CredentialRequest of type tokenFile, as in NVIDIA DPF.
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

// decideSecret sets the delivery of such a Pod, and adds a problem for each annotation that needs a
// sidecar.
func (in *injection) decideSecret(problems *problems) {
	in.delivery, in.deliveryReason = statusSecret, "the credential is in Secret "+in.target.Secret
	fix := fmt.Sprintf("remove it, or use annotation %s instead of %s", AnnotationCluster, AnnotationCredentialRequest)
	if in.requested.Delivery == DeliveryProxy {
		problems.add("annotation %s: %s is not possible together with %s, because such Pods have no sidecar: %s",
			AnnotationDelivery, DeliveryProxy, AnnotationCredentialRequest, fix)
	}
	if in.requested.OnEndpointChange == OnEndpointChangeRestart {
		problems.add("annotation %s: %s is not possible together with %s, because such Pods have no sidecar that could restart containers: %s",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, AnnotationCredentialRequest, fix)
	}
	for _, annotation := range in.requested.forSidecar() {
		problems.add("annotation %s has no effect together with %s, because such Pods have no sidecar: %s",
			annotation, AnnotationCredentialRequest, fix)
	}
}

// secretEnvironment returns variables that refer to the Secret. The kubelet reads it each time it
// starts a container: a container that starts after the endpoint has changed gets the new address.
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

// injectSecret adds the volume. If the Pod does not set the namespace, it also adds the annotation
// from which the file namespace is projected, because the Secret does not contain a namespace.
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
	if in.requested.Namespace == "" {
		ops.add("/metadata/annotations/keyferry.dev~1namespace", in.target.Namespace)
		in.noteRestored("annotation", AnnotationNamespace)
	}
}

// checkSecret adds a problem if a volume or container with a name of Keyferry's is not one that
// such a Pod has.
func (in *injection) checkSecret(problems *problems) {
	in.checkProjection(problems, "it has the annotation "+AnnotationCredentialRequest, func(s corev1.VolumeProjection) bool {
		return s.Secret != nil && len(s.Secret.Items) > 0 && s.Secret.Items[0].Key == TokenFileToken
	})
}
