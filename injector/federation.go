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
	// FederationConfigMap is the ConfigMap with what federated Pods know their targets by, in every
	// namespace that has such Pods.
	FederationConfigMap = "keyferry-federation"
	// LabelFederated is the label, with the value true, that federated Pods are found by.
	LabelFederated = podview.LabelFederated

	// statusFederation is the delivery of a federated Pod in its status.
	statusFederation = "Federation"
	// defaultFederationLife is the shortest that Kubernetes gives a token.
	defaultFederationLife = 10 * time.Minute
)

// Federation is trust between clusters: the target accepts tokens that this cluster issues. A Pod
// then has no sidecar: the kubelet gives it a token, and FederationConfigMap the rest.
type Federation struct {
	// Audience of the token. Empty means that there is no such trust.
	Audience string
	// Duration of the token. Nil means 10 minutes.
	Duration *metav1.Duration
}

// FederationKeys are the keys of FederationConfigMap that one target has.
type FederationKeys struct {
	CertificateAuthority, Namespace, Host, Port string
}

// FederationKeysOf returns the keys of a TargetCluster, NAMESPACE_NAME.ca.crt and so on. Where that
// is longer than a key may be, the end of NAMESPACE_NAME gives way to a hash.
func FederationKeysOf(target types.NamespacedName) FederationKeys {
	const longest = 253 - len(".namespace")
	prefix := target.Namespace + "_" + target.Name // no name has an underscore, so no two targets have the same
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

// decideFederation fills in what is otherwise decided about delivery and restarts.
func (in *injection) decideFederation(problems *problems) {
	in.delivery, in.deliveryReason = statusFederation, "the target accepts tokens of this cluster"
	in.keys = FederationKeysOf(in.want.Cluster)
	const mend = "remove it, or use a TargetCluster with another spec.issue.type"
	if in.want.Delivery == DeliveryProxy {
		problems.add("annotation %s: %s is not possible, as TargetCluster %s is federated and its Pods have no sidecar: %s",
			AnnotationDelivery, DeliveryProxy, in.want.Cluster, mend)
	}
	if in.want.OnEndpointChange == OnEndpointChangeRestart {
		problems.add("annotation %s: %s is not possible, as TargetCluster %s is federated and its Pods have no sidecar that would restart them: %s",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, in.want.Cluster, mend)
	}
	if in.several() {
		problems.add("annotation %s is not possible, as TargetCluster %s is federated and its Pods have no sidecar that would lead to further ones: %s",
			AnnotationClusters, in.want.Cluster, mend)
	}
	for _, annotation := range in.want.forSidecar() {
		problems.add("annotation %s says nothing, as TargetCluster %s is federated and its Pods have no sidecar: %s",
			annotation, in.want.Cluster, mend)
	}
}

// federationEnvironment comes from the ConfigMap, which the kubelet reads at each start of a
// container, as it brings the files up to date before: a container that starts after the target has
// moved gets an address and an authority that belong together.
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

// injectFederation adds the volume, and the label that the controller goes by.
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
	life := defaultFederationLife
	if asked := in.target.Federation.Duration; asked != nil {
		life = asked.Duration
	}
	seconds := int64(life.Seconds())
	items := []corev1.KeyToPath{{Key: in.keys.CertificateAuthority, Path: "ca.crt"}}
	if in.want.Namespace == "" {
		items = append(items, corev1.KeyToPath{Key: in.keys.Namespace, Path: "namespace"})
	}
	sources := []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: in.target.Federation.Audience, ExpirationSeconds: &seconds, Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: FederationConfigMap}, Items: items}},
	}
	if in.want.Namespace != "" {
		sources = append(sources, annotatedNamespace())
	}
	return projected(sources...)
}

// checkFederation refuses what has our names and is not what a federated Pod has, the sidecar of
// another injection among it.
func (in *injection) checkFederation(problems *problems) {
	in.checkProjection(problems, "Pods for TargetCluster "+in.want.Cluster.String()+", which is federated,", func(s corev1.VolumeProjection) bool {
		return s.ConfigMap != nil && s.ConfigMap.Name == FederationConfigMap
	})
}
