package injector

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/podview"
)

const (
	// FederationConfigMap is the ConfigMap with the CA, endpoint and namespace of the targets of
	// federated Pods. It is in every namespace that has such Pods.
	FederationConfigMap = "keyferry-federation"
	// LabelFederated is the label, with the value true, by which federated Pods are found.
	LabelFederated = podview.LabelFederated

	// statusFederation is the value of Status.Delivery for a federated Pod.
	statusFederation = "Federation"
	// defaultFederationLifetime is the shortest lifetime that Kubernetes accepts for a token.
	defaultFederationLifetime = 10 * time.Minute
)

// Federation is set for a target that accepts tokens of this cluster. Such a Pod has no sidecar:
// the kubelet projects a token, and the other files from FederationConfigMap.
type Federation struct {
	// Audience of the token. Empty means that the target is not federated.
	Audience string
	// Duration is the lifetime of the token. Nil means 10 minutes.
	Duration *metav1.Duration
}

// FederationKeys are the keys of one target in FederationConfigMap.
type FederationKeys struct {
	CertificateAuthority, Namespace, Host, Port string
}

// FederationKeysOf returns the keys of a TargetCluster: NAMESPACE_NAME.ca.crt and so on. If that is
// longer than a key may be, a hash replaces the end of NAMESPACE_NAME.
func FederationKeysOf(target types.NamespacedName) FederationKeys {
	const longest = 253 - len(".namespace")
	prefix := target.Namespace + "_" + target.Name // names have no underscore, so the prefix is unique
	if len(prefix) > longest {
		sum := sha256.Sum256([]byte(prefix))
		hash := "_" + hex.EncodeToString(sum[:16])
		prefix = prefix[:longest-len(hash)] + hash
	}
	return FederationKeys{
		CertificateAuthority: prefix + ".ca.crt",
		Namespace:            prefix + ".namespace",
		Host:                 prefix + ".host",
		Port:                 prefix + ".port",
	}
}

func (in *injection) federated() bool {
	return in.target.Federation.Audience != ""
}

// decideFederation sets the delivery and the keys of a federated Pod, and adds a problem for each
// annotation that needs a sidecar.
func (in *injection) decideFederation(problems *problems) {
	in.delivery, in.deliveryReason = statusFederation, "the target accepts tokens of this cluster"
	in.keys = FederationKeysOf(in.requested.Cluster)
	const fix = "remove it, or use a TargetCluster with another spec.issue.type"
	if in.requested.Delivery == DeliveryProxy {
		problems.add("annotation %s: %s is not possible, because TargetCluster %s is federated and its Pods have no sidecar: %s",
			AnnotationDelivery, DeliveryProxy, in.requested.Cluster, fix)
	}
	if in.requested.OnEndpointChange == OnEndpointChangeRestart {
		problems.add("annotation %s: %s is not possible, because TargetCluster %s is federated and its Pods have no sidecar that could restart containers: %s",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, in.requested.Cluster, fix)
	}
	if in.several() {
		problems.add("annotation %s is not possible, because TargetCluster %s is federated and its Pods have no sidecar for further clusters: %s",
			AnnotationClusters, in.requested.Cluster, fix)
	}
	for _, annotation := range in.requested.forSidecar() {
		problems.add("annotation %s has no effect, because TargetCluster %s is federated and its Pods have no sidecar: %s",
			annotation, in.requested.Cluster, fix)
	}
}

// federationEnvironment returns variables that refer to the ConfigMap. The kubelet reads them, and
// updates the files, each time it starts a container: a container that starts after the endpoint
// has changed gets an address and a CA that belong together.
func (in *injection) federationEnvironment() [3]corev1.EnvVar {
	from := func(name, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: FederationConfigMap}, Key: key,
		}}}
	}
	return [3]corev1.EnvVar{
		from(podview.EnvHost, in.keys.Host),
		from(podview.EnvPort, in.keys.Port),
		from(podview.EnvPortHTTPS, in.keys.Port),
	}
}

// injectFederation adds the volume, and the label by which the controller finds the Pod.
func (in *injection) injectFederation(ops *operations) {
	in.injectProjection(ops, in.federationVolume())
	switch metadata := in.pod.Metadata; {
	case metadata.Federated:
	case metadata.LabelCount == 0:
		ops.add("/metadata/labels", map[string]string{LabelFederated: podview.FederatedValue})
	default:
		ops.add("/metadata/labels/keyferry.dev~1federated", podview.FederatedValue)
	}
}

func (in *injection) federationVolume() corev1.Volume {
	lifetime := defaultFederationLifetime
	if requested := in.target.Federation.Duration; requested != nil {
		lifetime = requested.Duration
	}
	seconds := int64(lifetime.Seconds())
	items := []corev1.KeyToPath{{Key: in.keys.CertificateAuthority, Path: "ca.crt"}}
	if in.requested.Namespace == "" {
		items = append(items, corev1.KeyToPath{Key: in.keys.Namespace, Path: "namespace"})
	}
	sources := []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: in.target.Federation.Audience, ExpirationSeconds: &seconds, Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: FederationConfigMap}, Items: items}},
	}
	if in.requested.Namespace != "" {
		sources = append(sources, annotatedNamespace())
	}
	return projected(sources...)
}

// checkFederation adds a problem if a volume or container with a name of Keyferry's is not one that
// a federated Pod has.
func (in *injection) checkFederation(problems *problems) {
	in.checkProjection(problems, "TargetCluster "+in.requested.Cluster.String()+" is federated", func(s corev1.VolumeProjection) bool {
		return s.ConfigMap != nil && s.ConfigMap.Name == FederationConfigMap
	})
}
