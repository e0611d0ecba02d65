package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TargetCluster describes another cluster that Pods of this cluster can use: its endpoint, how
// Keyferry authenticates to it (access), and which credential Pods receive (issue). A Pod's
// ServiceAccount needs the verb use on the TargetCluster. Keyferry checks this RBAC permission at
// admission and each time it issues a credential.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=tc,categories=keyferry
// +kubebuilder:printcolumn:name="Access",type=string,JSONPath=`.spec.access.type`
// +kubebuilder:printcolumn:name="Issue",type=string,JSONPath=`.spec.issue.type`
// +kubebuilder:printcolumn:name="Endpoint",type=string,JSONPath=`.status.endpoint`
// +kubebuilder:printcolumn:name="Delivery",type=string,JSONPath=`.status.delivery`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.serverVersion`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TargetCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec TargetClusterSpec `json:"spec"`
	// +optional
	Status TargetClusterStatus `json:"status,omitempty"`
}

// TargetClusterList is a list of TargetClusters.
//
// +kubebuilder:object:root=true
type TargetClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TargetCluster `json:"items"`
}

// TargetClusterSpec is the desired state of a TargetCluster.
//
// +kubebuilder:validation:XValidation:rule="self.access.type == 'Kubeconfig' || has(self.clusterProfile) || has(self.endpoint) && has(self.endpoint.server)",message="this access type does not provide the endpoint of the target: set endpoint.server or clusterProfile"
// +kubebuilder:validation:XValidation:rule="self.access.type != 'None' || self.issue.type in ['Federation', 'ClientCertificate']",message="access type None supports only issue types Federation and ClientCertificate: the other issue types need access to the target"
// +kubebuilder:validation:XValidation:rule="self.issue.type != 'Federation' || self.access.type == 'None'",message="issue type Federation needs no access to the target: set access type None"
// +kubebuilder:validation:XValidation:rule="self.issue.type != 'Federation' || self.delivery != 'Proxy'",message="issue type Federation has no sidecar, so it has no proxy: set delivery Auto or Direct"
// +kubebuilder:validation:XValidation:rule="!has(self.access.exec) || self.access.exec.runIn != 'Pod' || self.issue.type == 'Access'",message="exec.runIn Pod supports only issue type Access: the credential never leaves the Pod"
type TargetClusterSpec struct {
	// Endpoint is the address of the target's API server and how to verify it. With access type
	// Kubeconfig or with clusterProfile, the kubeconfig or the ClusterProfile provides the endpoint.
	// Each field of endpoint replaces the same field of the kubeconfig or ClusterProfile.
	// +optional
	Endpoint *Endpoint `json:"endpoint,omitempty"`

	// ClusterProfile names the ClusterProfile (multicluster.x-k8s.io) that provides the endpoint.
	// Fields in spec.endpoint replace the fields of the ClusterProfile. A Pod's ServiceAccount then
	// needs the verb use on the TargetCluster and on the ClusterProfile.
	// +optional
	ClusterProfile *ObjectReference `json:"clusterProfile,omitempty"`

	// DefaultNamespace is the namespace that in-cluster clients of the Pod use by default (the
	// content of the file namespace). The annotation keyferry.dev/namespace of a Pod takes
	// precedence.
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	DefaultNamespace string `json:"defaultNamespace,omitempty"`

	// Delivery is how the Pod's clients connect to the target. Direct: clients connect to the target
	// itself, with its address, CA and token. Proxy: clients connect to a proxy in the sidecar, on the
	// loopback interface. Auto: Direct if in-cluster clients support the endpoint and the credential,
	// otherwise Proxy.
	// +kubebuilder:default=Auto
	// +optional
	Delivery Delivery `json:"delivery,omitempty"`

	// Access is how Keyferry authenticates to the target.
	// +required
	Access Access `json:"access"`

	// Issue is the credential that Pods receive.
	// +required
	Issue Issue `json:"issue"`
}

// Endpoint is the address of an API server. Each field can be set alone.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.certificateAuthorityData) && has(self.wellKnownCACertificates))",message="certificateAuthorityData and wellKnownCACertificates exclude each other: remove one of them"
type Endpoint struct {
	// Server is the https URL of the API server. The default port is 443. Required unless the
	// access type is Kubeconfig or spec.clusterProfile is set.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != ''",message="server must be an https URL with a host, such as https://203.0.113.7:6443"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="server must have no user, query or fragment"
	// +optional
	Server string `json:"server,omitempty"`

	// CertificateAuthorityData is the bundle of CA certificates (PEM) that verifies the server's
	// certificate.
	// +kubebuilder:validation:MaxLength=1048576
	// +optional
	CertificateAuthorityData []byte `json:"certificateAuthorityData,omitempty"`

	// WellKnownCACertificates selects a set of CA certificates instead of certificateAuthorityData,
	// for a server with a certificate of a public CA. System: the CA certificates in the image of
	// keyferry-broker (Mozilla's by default). Pods receive them as ca.crt.
	// +optional
	WellKnownCACertificates WellKnownCACertificates `json:"wellKnownCACertificates,omitempty"`

	// TLSServerName is the name that the server's certificate must contain. Default: the host of
	// server.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([0-9A-Za-z_]([0-9A-Za-z._-]*[0-9A-Za-z_])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)?$`
	// +optional
	TLSServerName string `json:"tlsServerName,omitempty"`

	// ProxyURL is the URL of an http, https or socks5 proxy that connects to the server.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https', 'socks5']",message="proxyURL must be an http, https or socks5 URL"
	// +optional
	ProxyURL string `json:"proxyURL,omitempty"`
}

// WellKnownCACertificates names a set of CA certificates.
//
// +kubebuilder:validation:Enum=System
type WellKnownCACertificates string

// WellKnownCACertificatesSystem are the CA certificates of the broker's image.
const WellKnownCACertificatesSystem WellKnownCACertificates = "System"

// ObjectReference names an object. The name of the field states its kind.
type ObjectReference struct {
	// Namespace of the object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Namespace string `json:"namespace"`
	// Name of the object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name"`
}

// Delivery is how a Pod's clients connect to the target.
//
// +kubebuilder:validation:Enum=Auto;Direct;Proxy
type Delivery string

const (
	// DeliveryAuto is Direct if in-cluster clients support the endpoint and the credential,
	// otherwise Proxy.
	DeliveryAuto Delivery = "Auto"
	// DeliveryDirect gives the Pod's clients the target's address, CA and token.
	DeliveryDirect Delivery = "Direct"
	// DeliveryProxy gives the Pod's clients the address of a loopback proxy in the sidecar.
	DeliveryProxy Delivery = "Proxy"
)

// TargetClusterStatus is the observed state of a TargetCluster.
type TargetClusterStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Endpoint is the URL of the API server, with its port. Keyferry reads the URL from the spec, the
	// kubeconfig and the ClusterProfile.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// Delivery is the delivery that Pods use: Direct or Proxy.
	// +optional
	Delivery Delivery `json:"delivery,omitempty"`

	// DeliveryReason states why Keyferry selected the delivery.
	// +optional
	DeliveryReason string `json:"deliveryReason,omitempty"`

	// SubjectTokenAudience is the audience of the projected token that the provider exchanges for a
	// credential (workload identity). The field is empty if the provider exchanges no token of the
	// Pod.
	// +optional
	SubjectTokenAudience string `json:"subjectTokenAudience,omitempty"`

	// ServerVersion is the target's Kubernetes version (gitVersion).
	// +optional
	ServerVersion string `json:"serverVersion,omitempty"`

	// ClusterUID is the UID of the namespace kube-system of the target, if Keyferry may read the
	// namespace. If the UID changes, the endpoint belongs to another cluster.
	// +optional
	ClusterUID types.UID `json:"clusterUID,omitempty"`

	// Conditions of the TargetCluster. Resolved: the spec and the objects that it refers to are valid.
	// Reachable: the endpoint answers. Issuing: the last credential was issued. Ready: no other
	// condition is False.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// The conditions of a TargetCluster.
const (
	// ConditionResolved is True if the spec and the objects that it names are valid.
	ConditionResolved = "Resolved"
	// ReasonResolvedWithWarning is the reason of ConditionResolved if the spec works, but is not
	// advisable; the message states why.
	ReasonResolvedWithWarning = "ResolvedWithWarning"
	// ConditionReachable is True if the endpoint answers GET /version with a certificate that
	// verifies.
	ConditionReachable = "Reachable"
	// ConditionIssuing is True if the last credential was issued, and Unknown until one is
	// requested.
	ConditionIssuing = "Issuing"
	// ConditionReady is False if one of the other conditions is False.
	ConditionReady = "Ready"
)
