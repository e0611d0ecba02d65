package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
// +kubebuilder:validation:XValidation:rule="has(self.clientCertificate) == (self.type == 'ClientCertificate')",message="clientCertificate is set if and only if type is ClientCertificate"
// +kubebuilder:validation:XValidation:rule="has(self.federation) == (self.type == 'Federation')",message="federation is set if and only if type is Federation"
// +union
type Issue struct {
	// +unionDiscriminator
	// +required
	Type IssueType `json:"type"`

	// +optional
	TokenRequest *TokenRequestIssue `json:"tokenRequest,omitempty"`
	// +optional
	ClientCertificate *ClientCertificateIssue `json:"clientCertificate,omitempty"`
	// +optional
	Federation *FederationIssue `json:"federation,omitempty"`
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
	// +kubebuilder:validation:items:Pattern=`^[^\x00-\x1f\x7f]*$`
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
// +kubebuilder:validation:XValidation:rule="self.type == 'Fixed' ? has(self.__namespace__) && has(self.name) : !has(self.__namespace__) && !has(self.name)",message="namespace and name are required with type Fixed and not allowed with type Mirror"
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

// ClientCertificateIssue is a client certificate that cert-manager has signed, by a CA that the target trusts.
//
// In commonName and organizations, ${namespace}, ${serviceAccount}, ${podName} and ${podUID} stand for those of the Pod; there
// are no others. What comes out must not begin with system:, a name that the target's own components have.
type ClientCertificateIssue struct {
	// IssuerRef names the cert-manager issuer. An Issuer is in the TargetCluster's namespace.
	// +required
	IssuerRef CertificateIssuerReference `json:"issuerRef"`

	// CommonName is the name of the user, to the target.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('system:')",message="commonName must not begin with system:"
	// +required
	CommonName string `json:"commonName"`

	// Organizations are the user's groups, to the target.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self.all(o, !o.startsWith('system:'))",message="organizations must not begin with system:"
	// +listType=atomic
	// +optional
	Organizations []string `json:"organizations,omitempty"`

	// Duration that is asked for, 10m to 48h. What the issuer grants counts.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('48h')",message="duration must be from 10m to 48h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`
}

// CertificateIssuerReference names an issuer of cert-manager.
type CertificateIssuerReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`

	// Kind is Issuer, ClusterIssuer, or that of an external issuer.
	// +kubebuilder:default=Issuer
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]*$`
	// +optional
	Kind string `json:"kind,omitempty"`

	// Group is cert-manager.io, or that of an external issuer.
	// +kubebuilder:default=cert-manager.io
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +optional
	Group string `json:"group,omitempty"`
}

// FederationIssue is trust between clusters: the target's API server accepts tokens that this cluster's issues, and the kubelet
// projects one into the Pod. There is no sidecar, no broker and no secret.
type FederationIssue struct {
	// Audience of the token; the one that the target accepts, and no other target does.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +required
	Audience string `json:"audience"`

	// Duration of the token, 10m to 24h. The target does not hear of a deleted Pod or ServiceAccount, so shorter is safer.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('24h')",message="duration must be from 10m to 24h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`
}
