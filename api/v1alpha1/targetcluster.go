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
// +kubebuilder:validation:XValidation:rule="!(has(self.endpoint) && has(self.clusterProfile))",message="endpoint and clusterProfile exclude each other: the ClusterProfile brings the endpoint"
// +kubebuilder:validation:XValidation:rule="self.access.type != 'None' || has(self.endpoint) || has(self.clusterProfile)",message="access type None reads no endpoint from anywhere: set endpoint or clusterProfile"
// +kubebuilder:validation:XValidation:rule="!(self.access.type in ['NCP', 'Spider', 'Tumblebug']) || has(self.endpoint) || has(self.clusterProfile)",message="access types NCP, Spider and Tumblebug bring no endpoint: set endpoint or clusterProfile"
// +kubebuilder:validation:XValidation:rule="self.access.type != 'None' || self.issue.type in ['Federation', 'ClientCertificate']",message="access type None goes with issue type Federation or ClientCertificate only: the others need a way into the target"
// +kubebuilder:validation:XValidation:rule="self.issue.type != 'Federation' || self.access.type == 'None'",message="issue type Federation needs no access to the target: set access type None"
type TargetClusterSpec struct {
	// Endpoint says where the target's API server is. It may be left out where the source of the access credential
	// knows it (a kubeconfig does); where both say it, this one wins, field by field.
	// +optional
	Endpoint *Endpoint `json:"endpoint,omitempty"`

	// ClusterProfile names the ClusterProfile (multicluster.x-k8s.io) that brings the endpoint. A Pod's ServiceAccount
	// then needs `use` on both objects.
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

// Endpoint is the address of an API server.
type Endpoint struct {
	// Server is the URL of the API server, https only; without a port it is 443.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != ''",message="server must be an https URL with a host, such as https://203.0.113.7:6443"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="server must have no user, query or fragment"
	// +required
	Server string `json:"server"`

	// CertificateAuthorityData is the PEM bundle that the server's certificate is verified with.
	// +kubebuilder:validation:MaxLength=1048576
	// +optional
	CertificateAuthorityData []byte `json:"certificateAuthorityData,omitempty"`

	// TLSServerName is the name that the server's certificate is verified for, if it is not the host of Server.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	TLSServerName string `json:"tlsServerName,omitempty"`

	// ProxyURL is the http, https or socks5 proxy to the server.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https', 'socks5']",message="proxyURL must be an http, https or socks5 URL"
	// +optional
	ProxyURL string `json:"proxyURL,omitempty"`
}

// ObjectReference names an object of a kind that the field's name tells.
type ObjectReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
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

// AccessType names how Keyferry gets into a target; the discriminator of Access.
//
// +kubebuilder:validation:Enum=Kubeconfig;EKS;GKE;AKS;NCP;Spider;Tumblebug;Exec;None
type AccessType string

// The access types.
const (
	AccessKubeconfig AccessType = "Kubeconfig"
	AccessEKS        AccessType = "EKS"
	AccessGKE        AccessType = "GKE"
	AccessAKS        AccessType = "AKS"
	AccessNCP        AccessType = "NCP"
	AccessSpider     AccessType = "Spider"
	AccessTumblebug  AccessType = "Tumblebug"
	AccessExec       AccessType = "Exec"
	AccessNone       AccessType = "None"
)

// Access is a union: the field that Type names is set, and no other.
//
// +kubebuilder:validation:XValidation:rule="has(self.kubeconfig) == (self.type == 'Kubeconfig')",message="kubeconfig is set if and only if type is Kubeconfig"
// +kubebuilder:validation:XValidation:rule="has(self.ncp) == (self.type == 'NCP')",message="ncp is set if and only if type is NCP"
// +kubebuilder:validation:XValidation:rule="has(self.spider) == (self.type == 'Spider')",message="spider is set if and only if type is Spider"
// +kubebuilder:validation:XValidation:rule="has(self.tumblebug) == (self.type == 'Tumblebug')",message="tumblebug is set if and only if type is Tumblebug"
// +union
type Access struct {
	// +unionDiscriminator
	// +required
	Type AccessType `json:"type"`

	// +optional
	Kubeconfig *KubeconfigAccess `json:"kubeconfig,omitempty"`
	// +optional
	NCP *NCPAccess `json:"ncp,omitempty"`
	// +optional
	Spider *SpiderAccess `json:"spider,omitempty"`
	// +optional
	Tumblebug *TumblebugAccess `json:"tumblebug,omitempty"`
}

// KubeconfigAccess is a kubeconfig in a Secret of the TargetCluster's namespace: a plain one, or as Cluster API, MultiKueue
// and Argo CD keep theirs. Its current context is used. It must be self-contained: file paths, exec and auth-provider are refused.
type KubeconfigAccess struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`

	// Key in the Secret. Left out, an Argo CD cluster Secret is known by its label, and of any other the key kubeconfig or value is read.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Key string `json:"key,omitempty"`
}

// SecretReference names a Secret of the TargetCluster's namespace.
type SecretReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`
}

// NCPAccess is a cluster of Naver Cloud Platform's Kubernetes service, entered with a key of its IAM.
type NCPAccess struct {
	// ClusterUUID is the cluster's, as the console shows it.
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`
	// +required
	ClusterUUID string `json:"clusterUUID"`

	// Region is the code of the cluster's region, such as KR, SGN or JPN. Left out, it is KR.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[A-Z][A-Z0-9]*$`
	// +optional
	Region string `json:"region,omitempty"`

	// Credentials is the Secret with the keys accessKey and secretKey.
	// +required
	Credentials SecretReference `json:"credentials"`
}

// SpiderAccess is a cluster that CB-Spider manages and makes tokens for.
type SpiderAccess struct {
	// URL of CB-Spider, http or https, without the /spider of its API. Over http, anybody on the way can read the credentials and the tokens.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="url must be an http or https URL with a host, such as https://spider.example.com:1024"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="url must have no user, query or fragment"
	// +required
	URL string `json:"url"`

	// Cluster is its name in CB-Spider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="cluster must not be . or .."
	// +required
	Cluster string `json:"cluster"`

	// Connection is the name of the cluster's connection configuration in CB-Spider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Connection string `json:"connection"`

	// Credentials is the Secret with the keys username and password, or token, and, if CB-Spider's certificate is signed by a
	// private authority, ca.crt. It may be left out where CB-Spider asks for no credentials.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// TumblebugAccess is a cluster that CB-Tumblebug manages and makes tokens for.
type TumblebugAccess struct {
	// URL of CB-Tumblebug, http or https, without the /tumblebug of its API. Over http, anybody on the way can read the credentials and the tokens.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="url must be an http or https URL with a host, such as https://tumblebug.example.com:1323"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="url must have no user, query or fragment"
	// +required
	URL string `json:"url"`

	// Namespace is that of CB-Tumblebug which the cluster is in.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="namespace must not be . or .."
	// +required
	Namespace string `json:"namespace"`

	// Cluster is its ID in CB-Tumblebug.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="cluster must not be . or .."
	// +required
	Cluster string `json:"cluster"`

	// Credentials is the Secret with the keys username and password, or token, and, if CB-Tumblebug's certificate is signed by a
	// private authority, ca.crt. It may be left out where CB-Tumblebug asks for no credentials.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// IssueType names what a Pod is given; the discriminator of Issue.
//
// +kubebuilder:validation:Enum=TokenRequest;Access;ClientCertificate;Federation
type IssueType string

// The issue types.
const (
	IssueTokenRequest      IssueType = "TokenRequest"
	IssueAccess            IssueType = "Access"
	IssueClientCertificate IssueType = "ClientCertificate"
	IssueFederation        IssueType = "Federation"
)

// Issue is a union: the field that Type names is set, and no other. Type Access has no field: it hands the access
// credential on as it is.
//
// +kubebuilder:validation:XValidation:rule="has(self.tokenRequest) == (self.type == 'TokenRequest')",message="tokenRequest is set if and only if type is TokenRequest"
// +union
type Issue struct {
	// +unionDiscriminator
	// +required
	Type IssueType `json:"type"`

	// +optional
	TokenRequest *TokenRequestIssue `json:"tokenRequest,omitempty"`
}

// TokenRequestIssue is a token of a ServiceAccount of the target, asked for by TokenRequest.
type TokenRequestIssue struct {
	// ServiceAccount says whose token it is.
	// +required
	ServiceAccount RemoteServiceAccount `json:"serviceAccount"`

	// Create makes the ServiceAccount where it is missing. One that Keyferry did not create for this TargetCluster is
	// then neither adopted nor changed: the issue is refused.
	// +optional
	Create bool `json:"create,omitempty"`

	// Audiences of the token. Empty means those of the target's API server.
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	// +listType=atomic
	// +optional
	Audiences []string `json:"audiences,omitempty"`

	// Duration that is asked for, 10m to 48h. The target may shorten it; what it grants counts.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('48h')",message="duration must be from 10m to 48h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`

	// Revocable binds every token to a Secret in the target, next to the ServiceAccount: deleting that Secret
	// revokes them at once.
	// +optional
	Revocable bool `json:"revocable,omitempty"`
}

// RemoteServiceAccountType is the discriminator of RemoteServiceAccount.
//
// +kubebuilder:validation:Enum=Fixed;Mirror
type RemoteServiceAccountType string

const (
	// ServiceAccountFixed is one ServiceAccount for every user of the TargetCluster.
	ServiceAccountFixed RemoteServiceAccountType = "Fixed"
	// ServiceAccountMirror is the ServiceAccount with the namespace and name of the Pod's own.
	ServiceAccountMirror RemoteServiceAccountType = "Mirror"
)

// RemoteServiceAccount is a ServiceAccount of the target.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'Fixed' ? has(self.namespace) && has(self.name) : !has(self.namespace) && !has(self.name)",message="namespace and name are required with type Fixed and not allowed with type Mirror"
// +union
type RemoteServiceAccount struct {
	// +unionDiscriminator
	// +required
	Type RemoteServiceAccountType `json:"type"`
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +optional
	Name string `json:"name,omitempty"`
}

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
	// ConditionReachable: TLS and /version answer.
	ConditionReachable = "Reachable"
	// ConditionIssuing: the last credential could be issued. Unknown until one was first asked for.
	ConditionIssuing = "Issuing"
	// ConditionReady is the sum of the others: False if one is False.
	ConditionReady = "Ready"
)
