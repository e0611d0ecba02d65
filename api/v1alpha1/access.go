package v1alpha1

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
// +kubebuilder:validation:XValidation:rule="has(self.eks) == (self.type == 'EKS')",message="eks is set if and only if type is EKS"
// +kubebuilder:validation:XValidation:rule="has(self.gke) == (self.type == 'GKE')",message="gke is set if and only if type is GKE"
// +kubebuilder:validation:XValidation:rule="has(self.aks) == (self.type == 'AKS')",message="aks is set if and only if type is AKS"
// +kubebuilder:validation:XValidation:rule="has(self.ncp) == (self.type == 'NCP')",message="ncp is set if and only if type is NCP"
// +kubebuilder:validation:XValidation:rule="has(self.spider) == (self.type == 'Spider')",message="spider is set if and only if type is Spider"
// +kubebuilder:validation:XValidation:rule="has(self.tumblebug) == (self.type == 'Tumblebug')",message="tumblebug is set if and only if type is Tumblebug"
// +kubebuilder:validation:XValidation:rule="has(self.exec) == (self.type == 'Exec')",message="exec is set if and only if type is Exec"
// +union
type Access struct {
	// +unionDiscriminator
	// +required
	Type AccessType `json:"type"`

	// +optional
	Kubeconfig *KubeconfigAccess `json:"kubeconfig,omitempty"`
	// +optional
	EKS *EKSAccess `json:"eks,omitempty"`
	// +optional
	GKE *GKEAccess `json:"gke,omitempty"`
	// +optional
	AKS *AKSAccess `json:"aks,omitempty"`
	// +optional
	NCP *NCPAccess `json:"ncp,omitempty"`
	// +optional
	Spider *SpiderAccess `json:"spider,omitempty"`
	// +optional
	Tumblebug *TumblebugAccess `json:"tumblebug,omitempty"`
	// +optional
	Exec *ExecAccess `json:"exec,omitempty"`
}

// KubeconfigAccess is a kubeconfig in a Secret of the TargetCluster's namespace: a plain one, or as Cluster API, MultiKueue
// and Argo CD keep theirs. Its current context is used. It must be self-contained: file paths, exec and auth-provider are refused.
type KubeconfigAccess struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`

	// Key in the Secret. Left out, an Argo CD cluster Secret is known by its label, and of any other the key kubeconfig or value is read.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]*$`
	// +optional
	Key string `json:"key,omitempty"`
}

// SecretReference names a Secret of the TargetCluster's namespace.
type SecretReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`
}

// CloudIdentity says as whom a cloud is asked.
type CloudIdentity string

const (
	// IdentitySecret is a key in a Secret.
	IdentitySecret CloudIdentity = "Secret"
	// IdentityWorkload is the Pod's own: a projected token of its ServiceAccount is exchanged at the cloud.
	IdentityWorkload CloudIdentity = "WorkloadIdentity"
	// IdentityAmbient is the broker's own: what the cloud gives the Pods of keyferry-broker. Only in namespaces that the operator lists.
	IdentityAmbient CloudIdentity = "Ambient"
)

// EKSAccess is a cluster of Amazon EKS, entered by a presigned request to AWS STS.
//
// +kubebuilder:validation:XValidation:rule="has(self.credentials) == (self.identity == 'Secret')",message="credentials is set if and only if identity is Secret"
// +kubebuilder:validation:XValidation:rule="self.identity != 'WorkloadIdentity' || has(self.roleARN)",message="identity WorkloadIdentity needs roleARN: the role that the Pod's token is exchanged for"
type EKSAccess struct {
	// ClusterName is the cluster's name in EKS.
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z][0-9A-Za-z_-]*$`
	// +required
	ClusterName string `json:"clusterName"`

	// Region of the cluster, such as eu-central-1, us-gov-west-1 or cn-north-1; it tells the partition, too.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[a-z]{2,4}(-[a-z]+)+-[0-9]+$`
	// +required
	Region string `json:"region"`

	// FIPS asks the FIPS endpoint of AWS STS.
	// +optional
	FIPS bool `json:"fips,omitempty"`

	// Identity says as whom AWS is asked.
	// +kubebuilder:validation:Enum=Secret;WorkloadIdentity;Ambient
	// +kubebuilder:default=Secret
	// +optional
	Identity CloudIdentity `json:"identity,omitempty"`

	// RoleARN is the role to assume. Required with identity WorkloadIdentity; with the others, left out, they act as themselves.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^arn:[a-z0-9-]+:iam::[0-9]{12}:role/[\x21-\x7e]+$`
	// +optional
	RoleARN string `json:"roleARN,omitempty"`

	// Credentials is the Secret with the keys accessKeyID, secretAccessKey and, if they are temporary, sessionToken.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// GKEAccess is a cluster of Google Kubernetes Engine, entered with an OAuth2 access token.
//
// +kubebuilder:validation:XValidation:rule="has(self.credentials) == (self.identity == 'Secret')",message="credentials is set if and only if identity is Secret"
// +kubebuilder:validation:XValidation:rule="has(self.workloadIdentityProvider) == (self.identity == 'WorkloadIdentity')",message="workloadIdentityProvider is set if and only if identity is WorkloadIdentity"
type GKEAccess struct {
	// Identity says as whom Google Cloud is asked. Ambient asks the metadata server.
	// +kubebuilder:validation:Enum=Secret;WorkloadIdentity;Ambient
	// +kubebuilder:default=Secret
	// +optional
	Identity CloudIdentity `json:"identity,omitempty"`

	// WorkloadIdentityProvider is the full resource name of the provider in whose pool this cluster's ServiceAccounts are.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$`
	// +optional
	WorkloadIdentityProvider string `json:"workloadIdentityProvider,omitempty"`

	// Impersonate is the email of the Google service account to act as. Left out, the identity acts as itself.
	// +kubebuilder:validation:MaxLength=320
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z._-]+@[0-9A-Za-z.-]+$`
	// +optional
	Impersonate string `json:"impersonate,omitempty"`

	// Credentials is the Secret with a service account's key as key.json.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// AKSAccess is a cluster of Azure Kubernetes Service with Microsoft Entra authentication, entered with an Entra token.
//
// +kubebuilder:validation:XValidation:rule="has(self.credentials) == (self.identity == 'Secret')",message="credentials is set if and only if identity is Secret"
// +kubebuilder:validation:XValidation:rule="(has(self.clientID) && has(self.tenantID)) == (self.identity == 'WorkloadIdentity') && has(self.clientID) == has(self.tenantID)",message="clientID and tenantID are set if and only if identity is WorkloadIdentity; with Secret they are keys of the Secret"
type AKSAccess struct {
	// Identity says as whom Entra is asked.
	// +kubebuilder:validation:Enum=Secret;WorkloadIdentity
	// +kubebuilder:default=Secret
	// +optional
	Identity CloudIdentity `json:"identity,omitempty"`

	// ClientID of the application or managed identity that trusts the Pod's ServiceAccount by a federated credential.
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`
	// +optional
	ClientID string `json:"clientID,omitempty"`

	// TenantID is its Entra tenant.
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`
	// +optional
	TenantID string `json:"tenantID,omitempty"`

	// AuthorityHost is that of a sovereign cloud, such as https://login.microsoftonline.us. Left out, it is the public cloud's.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != ''",message="authorityHost must be an https URL with a host, such as https://login.microsoftonline.us"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@') && (!isURL(self) || url(self).getEscapedPath() in ['', '/'])",message="authorityHost must have no user, path, query or fragment: the tenant has a field, or key, of its own"
	// +optional
	AuthorityHost string `json:"authorityHost,omitempty"`

	// Credentials is the Secret with the keys clientID, tenantID, and clientSecret or tls.crt and tls.key.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
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
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="cluster must not be . or .."
	// +required
	Cluster string `json:"cluster"`

	// Connection is the name of the cluster's connection configuration in CB-Spider.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
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
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="namespace must not be . or .."
	// +required
	Namespace string `json:"namespace"`

	// Cluster is its ID in CB-Tumblebug.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self != '.' && self != '..'",message="cluster must not be . or .."
	// +required
	Cluster string `json:"cluster"`

	// CredentialHolder is whose cloud credentials CB-Tumblebug uses (its header x-credential-holder). Left out, it is CB-Tumblebug's default.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?$`
	// +optional
	CredentialHolder string `json:"credentialHolder,omitempty"`

	// Credentials is the Secret with the keys username and password, or token, and, if CB-Tumblebug's certificate is signed by a
	// private authority, ca.crt. It may be left out where CB-Tumblebug asks for no credentials.
	// +optional
	Credentials *SecretReference `json:"credentials,omitempty"`
}

// ExecAccess is a credential plugin (client.authentication.k8s.io/v1) of the operator's provider file. Command, image and arguments
// come from there only.
type ExecAccess struct {
	// Provider is its name in the provider file.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +required
	Provider string `json:"provider"`

	// RunIn says where the plugin runs: in the broker, or in each Pod's sidecar with the Pod's own identity. With Pod, issue type is Access.
	// +kubebuilder:default=Broker
	// +optional
	RunIn RunIn `json:"runIn,omitempty"`
}

// RunIn is where a plugin runs.
//
// +kubebuilder:validation:Enum=Broker;Pod
type RunIn string

const (
	// RunInBroker runs it in the broker, with the broker's own identity; hence only in namespaces that the operator lists.
	RunInBroker RunIn = "Broker"
	// RunInPod runs it in the sidecar, with the Pod's own identity.
	RunInPod RunIn = "Pod"
)
