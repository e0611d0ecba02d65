package injector

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/podview"
)

// Prefix is the prefix of all annotations of Keyferry. An unknown annotation with this prefix is
// denied: if a typo were ignored, the Pod would use the wrong cluster.
const Prefix = podview.AnnotationPrefix

// The annotations of a Pod.
const (
	// AnnotationCluster is the [namespace/]name of the TargetCluster that the Pod's in-cluster clients
	// use.
	AnnotationCluster = Prefix + "cluster"
	// AnnotationClusterProfile is the [namespace/]name of the ClusterProfile that the Pod's in-cluster
	// clients use.
	AnnotationClusterProfile = Prefix + "cluster-profile"
	// AnnotationClusters lists further TargetClusters, separated by commas. Kubeconfig has a context
	// for each of them and for the Pod's first cluster.
	AnnotationClusters = Prefix + "clusters"
	// AnnotationCredentialRequest is the name of a CredentialRequest in the Pod's namespace.
	AnnotationCredentialRequest = Prefix + "credential-request"
	// AnnotationContainers lists the containers to inject, separated by commas.
	AnnotationContainers = Prefix + "containers"
	// AnnotationExcludeContainers lists the containers not to inject, separated by commas.
	AnnotationExcludeContainers = Prefix + "exclude-containers"
	// AnnotationDelivery is a Delivery: auto, direct or proxy.
	AnnotationDelivery = Prefix + "delivery"
	// AnnotationMetricsPort is the port at which the refresher serves its metrics and health.
	AnnotationMetricsPort = Prefix + "metrics-port"
	// AnnotationNamespace is the content of the file namespace.
	AnnotationNamespace = Prefix + "namespace"
	// AnnotationOnEndpointChange is an OnEndpointChange: restart or ignore.
	AnnotationOnEndpointChange = Prefix + "on-endpoint-change"
	// AnnotationRefresherResources is a corev1.ResourceRequirements as JSON.
	AnnotationRefresherResources = Prefix + "refresher-resources"
	// AnnotationSetKubeconfig is "true" to set the variable KUBECONFIG to Kubeconfig.
	AnnotationSetKubeconfig = Prefix + "set-kubeconfig"
	// AnnotationStatus is a Status as JSON. Inject writes it.
	AnnotationStatus = Prefix + "status"
)

// Delivery is a value of AnnotationDelivery.
type Delivery string

// The values of AnnotationDelivery. Without the annotation, the TargetCluster decides.
const (
	DeliveryAuto   Delivery = "auto"
	DeliveryDirect Delivery = "direct"
	DeliveryProxy  Delivery = "proxy"
)

// OnEndpointChange is a value of AnnotationOnEndpointChange.
type OnEndpointChange string

// The values of AnnotationOnEndpointChange. The default is restart if the cluster supports it and
// the Pod's restartPolicy is Always, and ignore otherwise.
const (
	OnEndpointChangeRestart OnEndpointChange = "restart"
	OnEndpointChangeIgnore  OnEndpointChange = "ignore"
)

// Annotations are the parsed annotations of a Pod. The zero value requests nothing.
type Annotations struct {
	// Cluster names a TargetCluster, or a ClusterProfile or CredentialRequest if the field of that
	// name is true. It is empty if in-cluster clients keep using the local cluster.
	Cluster types.NamespacedName
	// ClusterProfile reports that Cluster names a ClusterProfile.
	ClusterProfile bool
	// CredentialRequest reports that Cluster names a CredentialRequest in the Pod's namespace.
	CredentialRequest bool
	// Clusters are further TargetClusters.
	Clusters []types.NamespacedName
	// SetKubeconfig requests the variable KUBECONFIG.
	SetKubeconfig bool
	// Containers are the only containers to inject. Nil means all except known proxies.
	Containers []string
	// ExcludeContainers are not injected.
	ExcludeContainers []string
	// Delivery is empty if the TargetCluster decides.
	Delivery Delivery
	// Namespace is empty if the TargetCluster decides.
	Namespace string
	// OnEndpointChange is empty for the default, which depends on the cluster and the Pod.
	OnEndpointChange OnEndpointChange
	// MetricsPort is zero if the refresher serves no metrics.
	MetricsPort int32
	// RefresherResources overrides the resources of the installation. Nil keeps them.
	RefresherResources *corev1.ResourceRequirements
}

// NamesCluster reports whether an annotation requests a cluster. The other annotations are options.
func NamesCluster(annotation string) bool {
	switch annotation {
	case AnnotationCluster, AnnotationClusterProfile, AnnotationClusters, AnnotationCredentialRequest:
		return true
	}
	return false
}

// Empty reports whether the annotations request no cluster.
func (a Annotations) Empty() bool { return a.Cluster.Name == "" && len(a.Clusters) == 0 }

// forSidecar returns the annotations that have no effect in a Pod without a sidecar.
func (a Annotations) forSidecar() []string {
	var given []string
	if a.RefresherResources != nil {
		given = append(given, AnnotationRefresherResources)
	}
	if a.MetricsPort != 0 {
		given = append(given, AnnotationMetricsPort)
	}
	return given
}

// ClusterAnnotation returns the annotation that names Cluster or, if there is none, Clusters.
func (a Annotations) ClusterAnnotation() string {
	switch {
	case a.ClusterProfile:
		return AnnotationClusterProfile
	case a.CredentialRequest:
		return AnnotationCredentialRequest
	case a.Cluster.Name == "" && len(a.Clusters) > 0:
		return AnnotationClusters
	default:
		return AnnotationCluster
	}
}

// ClusterName returns the kind and name of Cluster, for messages.
func (a Annotations) ClusterName() string {
	switch {
	case a.ClusterProfile:
		return "ClusterProfile " + a.Cluster.String()
	case a.CredentialRequest:
		return "CredentialRequest " + a.Cluster.String()
	default:
		return "TargetCluster " + a.Cluster.String()
	}
}
