package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TargetCluster describes a cluster that Pods of this cluster may act on: where it is, how Keyferry itself gets in
// (access), and what a Pod is given (issue). It is one rule for the remote identity: who may `use` it is plain RBAC on
// the verb use of targetclusters, asked for the Pod's ServiceAccount at admission and at every issue.
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

// TargetClusterSpec is the wanted state of a TargetCluster.
//
// +kubebuilder:validation:XValidation:rule="self.access.type == 'Kubeconfig' || has(self.clusterProfile) || has(self.endpoint) && has(self.endpoint.server)",message="this access type does not know the address of the target: set endpoint.server or clusterProfile"
// +kubebuilder:validation:XValidation:rule="self.access.type != 'None' || self.issue.type in ['Federation', 'ClientCertificate']",message="access type None goes with issue type Federation or ClientCertificate only: the others need a way into the target"
// +kubebuilder:validation:XValidation:rule="self.issue.type != 'Federation' || self.access.type == 'None'",message="issue type Federation needs no access to the target: set access type None"
// +kubebuilder:validation:XValidation:rule="self.issue.type != 'Federation' || self.delivery != 'Proxy'",message="issue type Federation has no sidecar, hence no proxy: set delivery Auto or Direct"
// +kubebuilder:validation:XValidation:rule="!has(self.access.exec) || self.access.exec.runIn != 'Pod' || self.issue.type == 'Access'",message="exec.runIn Pod goes with issue type Access only: the credential never leaves the Pod"
type TargetClusterSpec struct {
	// Endpoint is where the target's API server is. A kubeconfig (access type Kubeconfig) and a ClusterProfile have an
	// endpoint, too: each field that is set here replaces that field of theirs, and the other fields stay theirs.
	// +optional
	Endpoint *Endpoint `json:"endpoint,omitempty"`

	// ClusterProfile names the ClusterProfile (multicluster.x-k8s.io) that has the endpoint, except for the fields that
	// spec.endpoint sets. A Pod's ServiceAccount then needs `use` on both objects.
	// +optional
	ClusterProfile *ObjectReference `json:"clusterProfile,omitempty"`

	// DefaultNamespace is the content of the namespace file that a Pod sees, unless the Pod says otherwise.
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	DefaultNamespace string `json:"defaultNamespace,omitempty"`

	// Delivery says how a Pod reaches the target. Auto is Direct if in-cluster clients can express the endpoint and the
	// credential, else Proxy.
	// +kubebuilder:default=Auto
	// +optional
	Delivery Delivery `json:"delivery,omitempty"`

	// Access says how Keyferry itself gets into the target.
	// +required
	Access Access `json:"access"`

	// Issue says what a Pod is given.
	// +required
	Issue Issue `json:"issue"`
}

// Endpoint is the address of an API server. Each field can be set alone.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.certificateAuthorityData) && has(self.wellKnownCACertificates))",message="certificateAuthorityData and wellKnownCACertificates exclude each other: remove one of them"
type Endpoint struct {
	// Server is the URL of the API server, https only; without a port it is 443. Required unless the access type is
	// Kubeconfig or spec.clusterProfile is set.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != ''",message="server must be an https URL with a host, such as https://203.0.113.7:6443"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="server must have no user, query or fragment"
	// +optional
	Server string `json:"server,omitempty"`

	// CertificateAuthorityData is the PEM bundle that the server's certificate is verified with.
	// +kubebuilder:validation:MaxLength=1048576
	// +optional
	CertificateAuthorityData []byte `json:"certificateAuthorityData,omitempty"`

	// WellKnownCACertificates selects CA certificates in place of certificateAuthorityData, for a server whose certificate
	// is of a public CA. System: the CA certificates of the image of keyferry-broker, which are Mozilla's by default. Pods
	// receive them as ca.crt.
	// +optional
	WellKnownCACertificates WellKnownCACertificates `json:"wellKnownCACertificates,omitempty"`

	// TLSServerName is the name that the server's certificate is verified for, if it is not the host of Server.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([0-9A-Za-z_]([0-9A-Za-z._-]*[0-9A-Za-z_])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)?$`
	// +optional
	TLSServerName string `json:"tlsServerName,omitempty"`

	// ProxyURL is the http, https or socks5 proxy to the server.
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

// ObjectReference names an object of a kind that the field's name tells.
type ObjectReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name"`
}

// Delivery is how a Pod reaches its target.
//
// +kubebuilder:validation:Enum=Auto;Direct;Proxy
type Delivery string

const (
	// DeliveryAuto is Direct where in-cluster clients can express the endpoint and the credential, else Proxy.
	DeliveryAuto Delivery = "Auto"
	// DeliveryDirect puts the target's address, CA and token where the Pod's clients read them.
	DeliveryDirect Delivery = "Direct"
	// DeliveryProxy puts a loopback proxy between the Pod's clients and the target.
	DeliveryProxy Delivery = "Proxy"
)

// TargetClusterStatus is what was last seen of a target.
type TargetClusterStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Endpoint is the URL of the API server as resolved, with its port.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// Delivery is what Auto came to: Direct or Proxy.
	// +optional
	Delivery Delivery `json:"delivery,omitempty"`

	// DeliveryReason says why.
	// +optional
	DeliveryReason string `json:"deliveryReason,omitempty"`

	// SubjectTokenAudience is the audience of the token of its own that a Pod has to have for the source to exchange (workload
	// identity). Empty if the source needs none.
	// +optional
	SubjectTokenAudience string `json:"subjectTokenAudience,omitempty"`

	// ServerVersion is the target's gitVersion.
	// +optional
	ServerVersion string `json:"serverVersion,omitempty"`

	// ClusterUID is the UID of the target's kube-system namespace, if the access credential may read it. Where it
	// changes, another cluster stands behind the name.
	// +optional
	ClusterUID types.UID `json:"clusterUID,omitempty"`

	// Conditions: Resolved, Reachable, Issuing, Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// The conditions of a TargetCluster.
const (
	// ConditionResolved: the spec and the Secrets that it names make sense.
	ConditionResolved = "Resolved"
	// ReasonResolvedWithWarning is that of ConditionResolved if something works that should not be so; its message says what.
	ReasonResolvedWithWarning = "ResolvedWithWarning"
	// ConditionReachable: TLS and /version answer.
	ConditionReachable = "Reachable"
	// ConditionIssuing: the last credential could be issued. Unknown until one was first asked for.
	ConditionIssuing = "Issuing"
	// ConditionReady is the sum of the others: False if one is False.
	ConditionReady = "Ready"
)
