package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// LabelCredentialRequest is on every Secret that holds a credential; its value is the name of the CredentialRequest. On a Secret that
	// somebody else has made, it says that the request of that name may write and delete it.
	LabelCredentialRequest = "keyferry.dev/credential-request"
	// AnnotationCredential is on such a Secret what Keyferry knows of the credential: JSON, nothing secret.
	AnnotationCredential = "keyferry.dev/credential"
	// FinalizerRevocation holds a CredentialRequest until its credentials are revoked in the targets.
	FinalizerRevocation = "keyferry.dev/revocation"
)

// CredentialRequest keeps a credential of a target in a Secret of its own namespace, for programs that cannot have a sidecar. It
// is issued on behalf of a ServiceAccount of that namespace, which needs the verb use on the TargetCluster: whoever may create
// CredentialRequests acts as any ServiceAccount of the namespace, as with Pods.
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

// CredentialRequestSpec is the wanted state of a CredentialRequest.
//
// +kubebuilder:validation:XValidation:rule="!has(self.secret.key) || self.type == 'kubeconfig'",message="secret.key goes with type kubeconfig only: the keys of the other types are fixed"
type CredentialRequestSpec struct {
	// TargetCluster is the cluster that the credential is for.
	// +required
	TargetCluster ObjectReference `json:"targetCluster"`

	// ServiceAccountName is the ServiceAccount of the request's namespace on whose behalf the credential is issued. It needs the
	// verb use on the TargetCluster, now and at each renewal.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	ServiceAccountName string `json:"serviceAccountName"`

	// Type is the form in which the Secret holds the credential.
	// +required
	Type CredentialType `json:"type"`

	// Duration of the credential, 10m to 48h, where that is less than the TargetCluster's and the source can choose. What is granted
	// counts; less than 10m is refused.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('48h')",message="duration must be from 10m to 48h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`

	// Secret is where the credential is kept, in the request's namespace.
	// +required
	Secret CredentialSecret `json:"secret"`
}

// CredentialType is the form in which a Secret holds a credential.
//
// +kubebuilder:validation:Enum=kubeconfig;tokenFile;argocd
type CredentialType string

// The forms.
const (
	// CredentialKubeconfig is a kubeconfig.
	CredentialKubeconfig CredentialType = "kubeconfig"
	// CredentialTokenFile is a token, an authority, a host and a port, under the keys that NVIDIA DPF has for them.
	CredentialTokenFile CredentialType = "tokenFile"
	// CredentialArgoCD is what Argo CD takes for one of its clusters.
	CredentialArgoCD CredentialType = "argocd"
)

// CredentialSecret describes the Secret that holds a credential.
type CredentialSecret struct {
	// Name of the Secret. One that is there must have been made by this request, or have the label
	// keyferry.dev/credential-request with the request's name: no other is written.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`

	// Key of the kubeconfig; with type kubeconfig only. Empty is kubeconfig.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]*[a-zA-Z0-9][-._a-zA-Z0-9]*$`
	// +optional
	Key string `json:"key,omitempty"`

	// Labels of the Secret, besides those that Keyferry sets.
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('keyferry.dev/'))",message="labels must not begin with keyferry.dev/: those are Keyferry's"
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations of the Secret, besides those that Keyferry sets.
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('keyferry.dev/'))",message="annotations must not begin with keyferry.dev/: those are Keyferry's"
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// CredentialRequestStatus is what became of a CredentialRequest.
type CredentialRequestStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Secret is the name of the Secret that holds the credential.
	// +optional
	Secret string `json:"secret,omitempty"`

	// IssuedAt is when the credential in the Secret was issued.
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// ExpirationTimestamp is when it ends.
	// +optional
	ExpirationTimestamp *metav1.Time `json:"expirationTimestamp,omitempty"`

	// RenewAt is when it is replaced.
	// +optional
	RenewAt *metav1.Time `json:"renewAt,omitempty"`

	// Revocations are objects in targets whose deletion ends credentials of this request: noted before such a credential is
	// issued, and deleted when it is no longer used.
	// +listType=atomic
	// +optional
	Revocations []Revocation `json:"revocations,omitempty"`

	// Conditions: Issued, SecretWritten, Revoked, Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Revocation is an object in a target whose deletion ends the credentials that were issued with it.
type Revocation struct {
	// TargetCluster is the way to the target.
	TargetCluster ObjectReference `json:"targetCluster"`
	// ServiceAccountName is the ServiceAccount on whose behalf they were issued.
	ServiceAccountName string `json:"serviceAccountName"`
	// Handle is what the source of credentials calls the object, as a rule namespace/name.
	Handle string `json:"handle"`
	// Since is when it came to be no longer used; not set while it is.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
}

// The conditions of a CredentialRequest, besides Ready, their sum.
const (
	// ConditionIssued: the last credential that was due could be issued.
	ConditionIssued = "Issued"
	// ConditionSecretWritten: the Secret holds the last credential.
	ConditionSecretWritten = "SecretWritten"
	// ConditionRevoked is False while a credential that is no longer used could not be revoked; otherwise it is not there.
	ConditionRevoked = "Revoked"

	// ReasonNotExpressible is why Issued is False where the Secret's type cannot express what the target needs, and ReasonNotSupported where
	// no Secret can hold what its source issues.
	ReasonNotExpressible = "NotExpressible"
	ReasonNotSupported   = "NotSupported"
)
