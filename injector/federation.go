package injector

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/podview"
)

const (
	// FederationConfigMap is the ConfigMap with what federated Pods know their targets by, in every namespace that has such Pods.
	FederationConfigMap = "keyferry-federation"
	// LabelFederated is the label, with the value true, that federated Pods are found by.
	LabelFederated = podview.LabelFederated

	// statusFederation is the delivery of a federated Pod in its status.
	statusFederation = "Federation"
	// defaultFederationLife is the shortest that Kubernetes gives a token.
	defaultFederationLife = 10 * time.Minute
)

// Federation is trust between clusters: the target accepts tokens that this cluster issues. A Pod then has no sidecar: the kubelet
// gives it a token, and FederationConfigMap the rest.
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

// FederationKeysOf returns the keys of a TargetCluster, NAMESPACE_NAME.ca.crt and so on. Where that is longer than a key may be, the end of
// NAMESPACE_NAME gives way to a hash.
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
	if in.want.RefresherResources != nil {
		problems.add("annotation %s says nothing, as TargetCluster %s is federated and its Pods have no sidecar: %s",
			AnnotationRefresherResources, in.want.Cluster, mend)
	}
}

// federationEnvironment comes from the ConfigMap, which the kubelet reads at each start of a container, as it brings the files up to date
// before: a container that starts after the target has moved gets an address and an authority that belong together.
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

// injectFederation adds the volume, or brings one up to date that is there: of a copied Pod, or by another version.
func (in *injection) injectFederation(ops *operations) {
	want := in.federationVolume()
	switch there := in.pod.Spec.Volumes; {
	case there.Count == 0:
		ops.add("/spec/volumes", []any{want})
	case !there.Credentials.Named:
		ops.add("/spec/volumes/-", want)
	case !equality.Semantic.DeepEqual(projection(there), want.Projected):
		ops.replace(at("/spec", "/volumes/", there.CredentialsIndex), want)
	}
	switch metadata := in.pod.Metadata; {
	case metadata.Federated:
	case metadata.LabelCount == 0:
		ops.add("/metadata/labels", map[string]string{LabelFederated: podview.FederatedValue})
	default:
		ops.add("/metadata/labels/keyferry.dev~1federated", podview.FederatedValue)
	}
}

// federationVolume names its mode and version, which the API server would fill in.
func (in *injection) federationVolume() corev1.Volume {
	mode := corev1.ProjectedVolumeSourceDefaultMode
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
		sources = append(sources, corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
			Path:     "namespace",
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: fmt.Sprintf("metadata.annotations['%s']", AnnotationNamespace)},
		}}}})
	}
	return corev1.Volume{Name: CredentialsVolume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: &mode},
	}}
}

// projection is what the Pod's volume CredentialsVolume projects; nil if it is no such volume.
func projection(volumes podview.Volumes) *corev1.ProjectedVolumeSource {
	there := new(corev1.ProjectedVolumeSource)
	if volumes.CredentialsProjected == nil || json.Unmarshal(volumes.CredentialsProjected, there) != nil {
		return nil
	}
	return there
}

// checkFederation refuses what has our names and is not what a federated Pod has, the sidecar of another injection among it.
func (in *injection) checkFederation(problems *problems) {
	const mend = "rename yours; or, if the Pod is a copy of one that Keyferry has injected for another target, create it without what Keyferry has added"
	if in.pod.Spec.Volumes.Credentials.Named {
		there := projection(in.pod.Spec.Volumes)
		if there == nil || !slices.ContainsFunc(there.Sources, func(s corev1.VolumeProjection) bool {
			return s.ConfigMap != nil && s.ConfigMap.Name == FederationConfigMap
		}) {
			problems.add("volume %s: the name is reserved for a volume that Keyferry adds: %s", CredentialsVolume, mend)
		}
	}
	if in.pod.HasContainer(RefresherContainer) {
		problems.add("container %s: the name is reserved for a sidecar of Keyferry, and Pods for TargetCluster %s, which is federated, have none: %s",
			RefresherContainer, in.want.Cluster, mend)
	}
}
