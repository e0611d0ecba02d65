package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// LabelCredentialRequest marks each Secret that contains a credential; its value is the name of
	// the CredentialRequest. A Secret of another creator with this label permits that
	// CredentialRequest to write and delete it.
	LabelCredentialRequest = "keyferry.dev/credential-request"
	// AnnotationCredential is the annotation of such a Secret with Keyferry's data about the
	// credential: JSON, nothing secret.
	AnnotationCredential = "keyferry.dev/credential"
	// FinalizerRevocation keeps a CredentialRequest until its credentials are revoked in the
	// targets.
	FinalizerRevocation = "keyferry.dev/revocation"
)

// CredentialRequest stores a credential for a target in a Secret of its namespace and renews it,
// for programs that cannot have a sidecar. The credential is issued for a ServiceAccount of the
// namespace. This ServiceAccount needs the verb use on the TargetCluster. A user who may create
// CredentialRequests can act as each ServiceAccount of the namespace, like a user who may create
// Pods.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=credreq,categories=keyferry
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="the name must have at most 63 characters: it is the value of a label of the Secret"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetCluster.name`
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Secret",type=string,JSONPath=`.status.secret`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expirationTimestamp`
// +kubebuilder:printcolumn:name="Target-Namespace",type=string,JSONPath=`.spec.targetCluster.namespace`,priority=1
// +kubebuilder:printcolumn:name="ServiceAccount",type=string,JSONPath=`.spec.serviceAccountName`,priority=1
// +kubebuilder:printcolumn:name="Renews",type=string,JSONPath=`.status.renewAt`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CredentialRequest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec CredentialRequestSpec `json:"spec"`
	// +optional
	Status CredentialRequestStatus `json:"status,omitempty"`
}

// CredentialRequestList is a list of CredentialRequests.
//
// +kubebuilder:object:root=true
type CredentialRequestList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CredentialRequest `json:"items"`
}

// CredentialRequestSpec is the desired state of a CredentialRequest.
//
// +kubebuilder:validation:XValidation:rule="!has(self.secret.key) || self.type == 'kubeconfig'",message="secret.key is supported only with type kubeconfig: the keys of the other types are fixed"
type CredentialRequestSpec struct {
	// TargetCluster is the target of the credential.
	// +required
	TargetCluster ObjectReference `json:"targetCluster"`

	// ServiceAccountName is the ServiceAccount, in the namespace of the CredentialRequest, for which
	// the credential is issued. The ServiceAccount needs the verb use on the TargetCluster each time
	// that Keyferry issues a credential.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	ServiceAccountName string `json:"serviceAccountName"`

	// Type is the format of the Secret. kubeconfig: a kubeconfig. tokenFile: token, CA, host and
	// port under the keys of NVIDIA DPF. argocd: a cluster Secret of Argo CD.
	// +required
	Type CredentialType `json:"type"`

	// Duration is the requested lifetime of the credential, 10m to 48h. Keyferry uses duration only if
	// it is shorter than the lifetime in the TargetCluster, and if the provider supports a requested
	// lifetime. Default: the lifetime in the TargetCluster.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('48h')",message="duration must be from 10m to 48h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`

	// Secret describes the Secret that stores the credential, in the namespace of the
	// CredentialRequest.
	// +required
	Secret CredentialSecret `json:"secret"`
}

// CredentialType is the format of a Secret that contains a credential.
//
// +kubebuilder:validation:Enum=kubeconfig;tokenFile;argocd
type CredentialType string

// The formats.
const (
	// CredentialKubeconfig is a kubeconfig.
	CredentialKubeconfig CredentialType = "kubeconfig"
	// CredentialTokenFile is a token, a CA, a host and a port under the keys that NVIDIA DPF uses.
	CredentialTokenFile CredentialType = "tokenFile"
	// CredentialArgoCD is a cluster Secret of Argo CD.
	CredentialArgoCD CredentialType = "argocd"
)

// CredentialSecret describes the Secret that contains a credential.
type CredentialSecret struct {
	// Name of the Secret. Keyferry writes an existing Secret only if this CredentialRequest created
	// it, or if the Secret's label keyferry.dev/credential-request contains the name of this
	// CredentialRequest.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`

	// Key of the Secret that contains the kubeconfig, with type kubeconfig only. Default:
	// kubeconfig.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]*[a-zA-Z0-9][-._a-zA-Z0-9]*$`
	// +optional
	Key string `json:"key,omitempty"`

	// Labels of the Secret, in addition to Keyferry's labels.
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('keyferry.dev/'))",message="labels must not begin with keyferry.dev/: only Keyferry sets keys with this prefix"
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations of the Secret, in addition to Keyferry's annotations.
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('keyferry.dev/'))",message="annotations must not begin with keyferry.dev/: only Keyferry sets keys with this prefix"
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// CredentialRequestStatus is the observed state of a CredentialRequest.
type CredentialRequestStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Secret is the name of the Secret that contains the credential.
	// +optional
	Secret string `json:"secret,omitempty"`

	// IssuedAt is the time at which the credential in the Secret was issued.
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// ExpirationTimestamp is the time at which the credential in the Secret expires.
	// +optional
	ExpirationTimestamp *metav1.Time `json:"expirationTimestamp,omitempty"`

	// RenewAt is the time at which Keyferry renews the credential.
	// +optional
	RenewAt *metav1.Time `json:"renewAt,omitempty"`

	// Revocations are objects in targets to which credentials of this CredentialRequest are bound.
	// Keyferry records an object before it issues a credential that is bound to the object, and
	// deletes the object when the credential is no longer used.
	// +listType=atomic
	// +optional
	Revocations []Revocation `json:"revocations,omitempty"`

	// Conditions of the CredentialRequest. Issued: the last credential was issued. SecretWritten: the
	// Secret contains the last credential. Revoked: False if Keyferry could not revoke a credential
	// that is no longer used. Ready: no other condition is False.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Revocation is an object in a target to which credentials are bound: if it is deleted, the target
// rejects them.
type Revocation struct {
	// TargetCluster is the TargetCluster of these credentials.
	TargetCluster ObjectReference `json:"targetCluster"`
	// ServiceAccountName is the ServiceAccount for which the credentials were issued.
	ServiceAccountName string `json:"serviceAccountName"`
	// Handle identifies the object for the provider, usually by namespace/name.
	Handle string `json:"handle"`
	// Since is the time from which Keyferry no longer uses the object's credentials. Not set before.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
}

// The conditions of a CredentialRequest, in addition to Ready.
const (
	// ConditionIssued is True if the last credential that was due was issued.
	ConditionIssued = "Issued"
	// ConditionSecretWritten is True if the Secret contains the last credential.
	ConditionSecretWritten = "SecretWritten"
	// ConditionRevoked is False if a credential that is no longer used could not be revoked;
	// otherwise it is absent.
	ConditionRevoked = "Revoked"

	// ReasonNotExpressible is the reason of ConditionIssued if the format of the Secret does not
	// support the endpoint.
	ReasonNotExpressible = "NotExpressible"
	// ReasonNotSupported is the reason of ConditionIssued if no Secret can contain the credential
	// of the provider.
	ReasonNotSupported = "NotSupported"
)
