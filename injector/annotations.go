package injector

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/podview"
)

// Prefix of every annotation of ours. One that is not known is refused: a typo that fails open
// would leave the Pod on the wrong cluster.
const Prefix = podview.AnnotationPrefix

// The annotations of a Pod.
const (
	// AnnotationCluster is [namespace/]name of the TargetCluster that in-cluster means for the Pod.
	AnnotationCluster = Prefix + "cluster"
	// AnnotationClusterProfile is the same for a ClusterProfile.
	AnnotationClusterProfile = Prefix + "cluster-profile"
	// AnnotationClusters are further TargetClusters, separated by commas. They and the first are the
	// contexts of Kubeconfig.
	AnnotationClusters = Prefix + "clusters"
	// AnnotationCredentialRequest is the name of a CredentialRequest in the Pod's namespace.
	AnnotationCredentialRequest = Prefix + "credential-request"
	// AnnotationContainers are the names of the only containers to inject.
	AnnotationContainers = Prefix + "containers"
	// AnnotationExcludeContainers are the names of the containers not to inject.
	AnnotationExcludeContainers = Prefix + "exclude-containers"
	// AnnotationDelivery is auto, direct or proxy.
	AnnotationDelivery = Prefix + "delivery"
	// AnnotationMetricsPort is the port that the refresher serves its metrics and health at.
	AnnotationMetricsPort = Prefix + "metrics-port"
	// AnnotationNamespace is the content of the namespace file.
	AnnotationNamespace = Prefix + "namespace"
	// AnnotationOnEndpointChange is restart or ignore.
	AnnotationOnEndpointChange = Prefix + "on-endpoint-change"
	// AnnotationRefresherResources is a JSON ResourceRequirements.
	AnnotationRefresherResources = Prefix + "refresher-resources"
	// AnnotationSetKubeconfig is true if the variable KUBECONFIG is to name Kubeconfig.
	AnnotationSetKubeconfig = Prefix + "set-kubeconfig"
	// AnnotationStatus is written by Inject: a JSON Status.
	AnnotationStatus = Prefix + "status"
)

// Delivery is a value of AnnotationDelivery.
type Delivery string

// The values of AnnotationDelivery; empty leaves it to the TargetCluster.
const (
	DeliveryAuto   Delivery = "auto"
	DeliveryDirect Delivery = "direct"
	DeliveryProxy  Delivery = "proxy"
)

// OnEndpointChange is a value of AnnotationOnEndpointChange.
type OnEndpointChange string

// The values of AnnotationOnEndpointChange; empty means restart where the cluster can and the Pod's
// restartPolicy is Always.
const (
	OnEndpointChangeRestart OnEndpointChange = "restart"
	OnEndpointChangeIgnore  OnEndpointChange = "ignore"
)

// Annotations is what a Pod asks for. The zero value asks for nothing.
type Annotations struct {
	// Cluster is the TargetCluster or, where ClusterProfile or CredentialRequest say so, the
	// ClusterProfile or CredentialRequest. It is empty if in-cluster stays the local cluster.
	Cluster types.NamespacedName
	// ClusterProfile says that Cluster is one.
	ClusterProfile bool
	// CredentialRequest says that Cluster is one, of the Pod's namespace.
	CredentialRequest bool
	// Clusters are further TargetClusters.
	Clusters []types.NamespacedName
	// SetKubeconfig says that the variable KUBECONFIG is wanted.
	SetKubeconfig bool
	// Containers are the only containers to inject; nil means all but known proxies.
	Containers []string
	// ExcludeContainers are not injected.
	ExcludeContainers []string
	// Delivery is empty where the Pod leaves it to the TargetCluster.
	Delivery Delivery
	// Namespace is empty where the Pod leaves it to the TargetCluster.
	Namespace string
	// OnEndpointChange is empty where the Pod leaves it to what the cluster can.
	OnEndpointChange OnEndpointChange
	// MetricsPort is zero where the refresher serves none.
	MetricsPort int32
	// RefresherResources is nil where the Pod leaves it to the installation.
	RefresherResources *corev1.ResourceRequirements
}

// NamesCluster reports whether an annotation requests a cluster, and is not an option.
func NamesCluster(annotation string) bool {
	switch annotation {
	case AnnotationCluster, AnnotationClusterProfile, AnnotationClusters, AnnotationCredentialRequest:
		return true
	}
	return false
}

// Empty reports whether nothing is asked for.
func (a Annotations) Empty() bool { return a.Cluster.Name == "" && len(a.Clusters) == 0 }

// forSidecar are the annotations that say nothing where there is no sidecar.
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

// ClusterAnnotation is the annotation that names Cluster or, without one, the others.
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

// ClusterName is Cluster with its kind, for messages.
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
