package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AccessType selects the provider that authenticates Keyferry to the target. It is the
// discriminator of Access.
//
// +kubebuilder:validation:Enum=Kubeconfig;EKS;GKE;AKS;ACK;NCP;Spider;Tumblebug;Exec;None
type AccessType string

// The access types.
const (
	AccessKubeconfig AccessType = "Kubeconfig"
	AccessEKS        AccessType = "EKS"
	AccessGKE        AccessType = "GKE"
	AccessAKS        AccessType = "AKS"
	AccessACK        AccessType = "ACK"
	AccessNCP        AccessType = "NCP"
	AccessSpider     AccessType = "Spider"
	AccessTumblebug  AccessType = "Tumblebug"
	AccessExec       AccessType = "Exec"
	AccessNone       AccessType = "None"
)

// Access is how Keyferry authenticates to the target. Exactly the field that type selects is set;
// type None has no field.
//
// +kubebuilder:validation:XValidation:rule="has(self.kubeconfig) == (self.type == 'Kubeconfig')",message="kubeconfig is required when type is Kubeconfig, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.eks) == (self.type == 'EKS')",message="eks is required when type is EKS, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.gke) == (self.type == 'GKE')",message="gke is required when type is GKE, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.aks) == (self.type == 'AKS')",message="aks is required when type is AKS, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.ack) == (self.type == 'ACK')",message="ack is required when type is ACK, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.ncp) == (self.type == 'NCP')",message="ncp is required when type is NCP, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.spider) == (self.type == 'Spider')",message="spider is required when type is Spider, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.tumblebug) == (self.type == 'Tumblebug')",message="tumblebug is required when type is Tumblebug, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.exec) == (self.type == 'Exec')",message="exec is required when type is Exec, and must be empty otherwise"
// +union
type Access struct {
	// Type selects the provider. Kubeconfig: a kubeconfig in a Secret. EKS: Amazon EKS. GKE: Google
	// Kubernetes Engine. AKS: Azure Kubernetes Service. ACK: Alibaba Cloud Container Service for
	// Kubernetes. NCP: Naver Cloud Platform. Spider: CB-Spider. Tumblebug: CB-Tumblebug. Exec: a
	// credential plugin of the ClusterProfile provider file. None: Keyferry does not authenticate
	// to the target (for issue types Federation and ClientCertificate).
	// +unionDiscriminator
	// +required
	Type AccessType `json:"type"`

	// Kubeconfig names a Secret that contains a kubeconfig. The kubeconfig must be self-contained:
	// file paths, exec and auth-provider are rejected. Required when type is Kubeconfig.
	// +optional
	Kubeconfig *KubeconfigAccess `json:"kubeconfig,omitempty"`
	// EKS authenticates to Amazon EKS with a presigned request to AWS STS. Required when type is
	// EKS.
	// +optional
	EKS *EKSAccess `json:"eks,omitempty"`
	// GKE authenticates to Google Kubernetes Engine with an OAuth2 access token. Required when type
	// is GKE.
	// +optional
	GKE *GKEAccess `json:"gke,omitempty"`
	// AKS authenticates to Azure Kubernetes Service with a Microsoft Entra token. Required when
	// type is AKS.
	// +optional
	AKS *AKSAccess `json:"aks,omitempty"`
	// ACK authenticates to Alibaba Cloud's Container Service for Kubernetes with temporary
	// kubeconfigs. Required when type is ACK.
	// +optional
	ACK *ACKAccess `json:"ack,omitempty"`
	// NCP authenticates to the Kubernetes Service of Naver Cloud Platform with an access key of its
	// IAM. Required when type is NCP.
	// +optional
	NCP *NCPAccess `json:"ncp,omitempty"`
	// Spider authenticates with tokens that CB-Spider issues. Required when type is Spider.
	// +optional
	Spider *SpiderAccess `json:"spider,omitempty"`
	// Tumblebug authenticates with tokens that CB-Tumblebug issues. Required when type is
	// Tumblebug.
	// +optional
	Tumblebug *TumblebugAccess `json:"tumblebug,omitempty"`
	// Exec authenticates with a credential plugin of the ClusterProfile provider file. Required
	// when type is Exec.
	// +optional
	Exec *ExecAccess `json:"exec,omitempty"`
}

// KubeconfigAccess names a Secret in the TargetCluster's namespace that contains a kubeconfig: a
// plain kubeconfig, or a Secret of Cluster API, MultiKueue or Argo CD. Keyferry uses its current
// context. The kubeconfig must be self-contained: file paths, exec and auth-provider are rejected.
type KubeconfigAccess struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`

	// Key of the Secret that contains the kubeconfig. By default, Keyferry reads the key kubeconfig
	// or value, and recognizes a cluster Secret of Argo CD by its label.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]*$`
	// +optional
	Key string `json:"key,omitempty"`
}

// SecretReference names a Secret in the TargetCluster's namespace.
type SecretReference struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`
}

// CloudIdentity selects the identity that authenticates to a cloud.
type CloudIdentity string

const (
	// IdentitySecret is a credential in a Secret.
	IdentitySecret CloudIdentity = "Secret"
	// IdentityWorkload is the Pod's identity: the cloud exchanges a projected token of the Pod's
	// ServiceAccount.
	IdentityWorkload CloudIdentity = "WorkloadIdentity"
	// IdentityAmbient is the cloud identity of the Pods of keyferry-broker. It is limited to
	// namespaces that the operator lists.
	IdentityAmbient CloudIdentity = "Ambient"
)

// EKSAccess authenticates to a cluster of Amazon EKS with a presigned request to AWS STS.
//
// +kubebuilder:validation:XValidation:rule="has(self.credentials) == (self.identity == 'Secret')",message="credentials is required when identity is Secret, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="self.identity != 'WorkloadIdentity' || has(self.roleARN)",message="roleARN is required when identity is WorkloadIdentity"
type EKSAccess struct {
	// ClusterName is the name of the cluster in EKS. For a cluster outside of EKS that runs
	// aws-iam-authenticator, ClusterName is the clusterID of aws-iam-authenticator.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z][0-9A-Za-z._-]*$`
	// +required
	ClusterName string `json:"clusterName"`

	// Region of the cluster, such as eu-central-1, us-gov-west-1 or cn-north-1. The region also
	// selects the AWS partition.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[a-z]{2,4}(-[a-z]+)+-[0-9]+$`
	// +required
	Region string `json:"region"`

	// FIPS selects the FIPS endpoint of AWS STS. Default: false.
	// +optional
	FIPS bool `json:"fips,omitempty"`

	// Identity authenticates to AWS. Secret: an access key in a Secret. WorkloadIdentity: the Pod's
	// ServiceAccount. Ambient: the identity of keyferry-broker. The operator must allow ambient
	// identity for the namespace.
	// +kubebuilder:validation:Enum=Secret;WorkloadIdentity;Ambient
	// +kubebuilder:default=Secret
	// +optional
	Identity CloudIdentity `json:"identity,omitempty"`

	// RoleARN is the IAM role to assume. Required with identity WorkloadIdentity. With identity Secret
	// or Ambient, Keyferry assumes no role by default.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^arn:[a-z0-9-]+:iam::[0-9]{12}:role/[\x21-\x7e]+$`
	// +optional
	RoleARN string `json:"roleARN,omitempty"`

	// Credentials is a Secret with the keys accessKeyID, secretAccessKey and, for temporary
	// credentials, sessionToken. Required with identity Secret.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// GKEAccess authenticates to a cluster of Google Kubernetes Engine with an OAuth2 access token.
//
// +kubebuilder:validation:XValidation:rule="has(self.credentials) == (self.identity == 'Secret')",message="credentials is required when identity is Secret, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.workloadIdentityProvider) == (self.identity == 'WorkloadIdentity')",message="workloadIdentityProvider is required when identity is WorkloadIdentity, and must be empty otherwise"
type GKEAccess struct {
	// Identity authenticates to Google Cloud. Secret: a service account key in a Secret.
	// WorkloadIdentity: the Pod's ServiceAccount. Ambient: the identity that keyferry-broker gets from
	// the metadata server. The operator must allow ambient identity for the namespace.
	// +kubebuilder:validation:Enum=Secret;WorkloadIdentity;Ambient
	// +kubebuilder:default=Secret
	// +optional
	Identity CloudIdentity `json:"identity,omitempty"`

	// WorkloadIdentityProvider is the full resource name of the workload identity pool provider
	// that trusts this cluster's ServiceAccounts. Required with identity WorkloadIdentity.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$`
	// +optional
	WorkloadIdentityProvider string `json:"workloadIdentityProvider,omitempty"`

	// Impersonate is the email address of the Google service account to impersonate. Default: none.
	// +kubebuilder:validation:MaxLength=320
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z._-]+@[0-9A-Za-z.-]+$`
	// +optional
	Impersonate string `json:"impersonate,omitempty"`

	// Credentials is a Secret with the key key.json: the JSON key of a Google service account.
	// Required with identity Secret.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// AKSAccess authenticates with a Microsoft Entra token to a cluster of Azure Kubernetes Service
// that uses Microsoft Entra.
//
// +kubebuilder:validation:XValidation:rule="has(self.credentials) == (self.identity == 'Secret')",message="credentials is required when identity is Secret, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="(has(self.clientID) && has(self.tenantID)) == (self.identity == 'WorkloadIdentity') && has(self.clientID) == has(self.tenantID)",message="clientID and tenantID are required when identity is WorkloadIdentity, and must be empty otherwise: with identity Secret they are keys of the Secret"
type AKSAccess struct {
	// Identity authenticates to Microsoft Entra. Secret: an application's credentials in a Secret.
	// WorkloadIdentity: the Pod's ServiceAccount.
	// +kubebuilder:validation:Enum=Secret;WorkloadIdentity
	// +kubebuilder:default=Secret
	// +optional
	Identity CloudIdentity `json:"identity,omitempty"`

	// ClientID of the application or managed identity whose federated credential trusts the Pod's
	// ServiceAccount. Required with identity WorkloadIdentity.
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`
	// +optional
	ClientID string `json:"clientID,omitempty"`

	// TenantID is the Microsoft Entra tenant of the application or managed identity. Required with
	// identity WorkloadIdentity.
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`
	// +optional
	TenantID string `json:"tenantID,omitempty"`

	// AuthorityHost is the Microsoft Entra URL of a sovereign cloud, such as
	// https://login.microsoftonline.us. Default: the public cloud.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != ''",message="authorityHost must be an https URL with a host, such as https://login.microsoftonline.us"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@') && (!isURL(self) || url(self).getEscapedPath() in ['', '/'])",message="authorityHost must have no user, path, query or fragment: set the tenant in tenantID, or in the key tenantID of the Secret"
	// +optional
	AuthorityHost string `json:"authorityHost,omitempty"`

	// Credentials is a Secret with the keys clientID, tenantID, and either clientSecret or tls.crt
	// and tls.key. Required with identity Secret.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// ACKAccess authenticates to a cluster of Alibaba Cloud's Container Service for Kubernetes with
// temporary kubeconfigs, which Keyferry requests with an access key.
type ACKAccess struct {
	// ClusterID is the ID of the cluster, as the console shows it.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[0-9a-z]+$`
	// +required
	ClusterID string `json:"clusterID"`

	// Region of the cluster, such as cn-hangzhou or eu-central-1.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[a-z]{2}(-[a-z0-9]+)+$`
	// +required
	Region string `json:"region"`

	// PrivateIPAddress requests the kubeconfig for the private address of the cluster. Default:
	// false.
	// +optional
	PrivateIPAddress bool `json:"privateIPAddress,omitempty"`

	// Duration is the lifetime of the temporary kubeconfigs, in whole minutes from 15m to 72h.
	// Default: 1h.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('15m') && duration(self) <= duration('72h') && duration(self).getSeconds() % 60 == 0",message="duration must be whole minutes from 15m to 72h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`

	// Credentials is a Secret with the keys accessKeyID and accessKeySecret.
	// +required
	Credentials SecretReference `json:"credentials"`
}

// NCPAccess authenticates to a cluster of Naver Cloud Platform's Kubernetes Service with an access
// key of its IAM.
type NCPAccess struct {
	// ClusterUUID is the UUID of the cluster, as the console shows it.
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`
	// +required
	ClusterUUID string `json:"clusterUUID"`

	// Region is the code of the cluster's region, such as KR, SGN or JPN. Default: KR.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[A-Z][A-Z0-9]*$`
	// +optional
	Region string `json:"region,omitempty"`

	// Credentials is a Secret with the keys accessKey and secretKey.
	// +required
	Credentials SecretReference `json:"credentials"`
}

// SpiderAccess authenticates to a cluster with tokens that CB-Spider issues.
type SpiderAccess struct {
	// URL of CB-Spider, http or https, without the path /spider. Use https: http does not encrypt
	// the credentials and the tokens.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="url must be an http or https URL with a host, such as https://spider.example.com:1024"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="url must have no user, query or fragment"
	// +required
	URL string `json:"url"`

	// Cluster is the name of the cluster in CB-Spider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="cluster must not consist of one or two dots"
	// +required
	Cluster string `json:"cluster"`

	// Connection is the name of the cluster's connection config in CB-Spider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +required
	Connection string `json:"connection"`

	// Credentials is a Secret with the keys username and password, or the key token, and, if a
	// private CA signed CB-Spider's certificate, the key ca.crt. Optional if CB-Spider requires no
	// authentication.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// TumblebugAccess authenticates to a cluster with tokens that CB-Tumblebug issues.
type TumblebugAccess struct {
	// URL of CB-Tumblebug, http or https, without the path /tumblebug. Use https: http does not
	// encrypt the credentials and the tokens.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",message="url must be an http or https URL with a host, such as https://tumblebug.example.com:1323"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="url must have no user, query or fragment"
	// +required
	URL string `json:"url"`

	// Namespace is the CB-Tumblebug namespace of the cluster.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="namespace must not consist of one or two dots"
	// +required
	Namespace string `json:"namespace"`

	// Cluster is the ID of the cluster in CB-Tumblebug.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="cluster must not consist of one or two dots"
	// +required
	Cluster string `json:"cluster"`

	// CredentialHolder selects the cloud credentials that CB-Tumblebug uses (its header
	// x-credential-holder). Default: the default of CB-Tumblebug.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?$`
	// +optional
	CredentialHolder string `json:"credentialHolder,omitempty"`

	// Credentials is a Secret with the keys username and password, or the key token, and, if a
	// private CA signed CB-Tumblebug's certificate, the key ca.crt. Optional if CB-Tumblebug
	// requires no authentication.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// ExecAccess authenticates with a credential plugin (client.authentication.k8s.io/v1) of the
// ClusterProfile provider file. Only that file sets the command, the image and the arguments.
type ExecAccess struct {
	// Provider is the name of the plugin in the ClusterProfile provider file.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +required
	Provider string `json:"provider"`

	// RunIn is where the plugin runs. Broker: the plugin runs in keyferry-broker, with the broker's
	// identity. The operator must allow plugins in the broker for the namespace. Pod: the plugin runs
	// in the sidecar of each Pod, with the Pod's identity. The issue type must then be Access.
	// +kubebuilder:default=Broker
	// +optional
	RunIn RunIn `json:"runIn,omitempty"`
}

// RunIn is where a plugin runs.
//
// +kubebuilder:validation:Enum=Broker;Pod
type RunIn string

const (
	// RunInBroker runs the plugin in the broker, with the broker's identity. It is limited to
	// namespaces that the operator lists.
	RunInBroker RunIn = "Broker"
	// RunInPod runs the plugin in the sidecar, with the Pod's identity.
	RunInPod RunIn = "Pod"
)
