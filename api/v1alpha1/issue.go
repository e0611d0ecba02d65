package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IssueType selects the credential that Pods receive. It is the discriminator of Issue.
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

// Issue is the credential that Pods receive. Exactly the field that type selects is set; type
// Access has no field.
//
// +kubebuilder:validation:XValidation:rule="has(self.tokenRequest) == (self.type == 'TokenRequest')",message="tokenRequest is required when type is TokenRequest, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.clientCertificate) == (self.type == 'ClientCertificate')",message="clientCertificate is required when type is ClientCertificate, and must be empty otherwise"
// +kubebuilder:validation:XValidation:rule="has(self.federation) == (self.type == 'Federation')",message="federation is required when type is Federation, and must be empty otherwise"
// +union
type Issue struct {
	// Type selects the credential. TokenRequest: a token of a ServiceAccount of the target. Access:
	// the credential that Keyferry uses to authenticate to the target. ClientCertificate: a client
	// certificate that cert-manager issues. Federation: a token of this cluster that the target
	// trusts.
	// +unionDiscriminator
	// +required
	Type IssueType `json:"type"`

	// TokenRequest requests a token of a ServiceAccount of the target. Required when type is
	// TokenRequest.
	// +optional
	TokenRequest *TokenRequestIssue `json:"tokenRequest,omitempty"`
	// ClientCertificate requests a client certificate from cert-manager. In commonName and
	// organizations, ${namespace}, ${serviceAccount}, ${podName} and ${podUID} are replaced by the
	// values of the Pod. Required when type is ClientCertificate.
	// +optional
	ClientCertificate *ClientCertificateIssue `json:"clientCertificate,omitempty"`
	// Federation projects a token of this cluster into the Pod; the target trusts this cluster as a
	// token issuer. Required when type is Federation.
	// +optional
	Federation *FederationIssue `json:"federation,omitempty"`
}

// TokenRequestIssue is a token of a ServiceAccount of the target, which Keyferry requests by
// TokenRequest.
type TokenRequestIssue struct {
	// ServiceAccount is the ServiceAccount of the target that Pods act as.
	// +required
	ServiceAccount RemoteServiceAccount `json:"serviceAccount"`

	// Create creates the ServiceAccount in the target if it does not exist. If the ServiceAccount
	// exists and Keyferry did not create it for this TargetCluster, Keyferry leaves it unchanged
	// and issues no credential. Default: false.
	// +optional
	Create bool `json:"create,omitempty"`

	// Audiences of the token. Default: the audiences of the target's API server.
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +listType=atomic
	// +optional
	Audiences []string `json:"audiences,omitempty"`

	// Duration is the requested lifetime of the token, 10m to 48h. The target may issue a token
	// with a shorter lifetime.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('48h')",message="duration must be from 10m to 48h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`

	// Revocable binds each token to a Secret in the ServiceAccount's namespace of the target: if
	// the Secret is deleted, the target rejects the tokens. Default: false.
	// +optional
	Revocable bool `json:"revocable,omitempty"`
}

// RemoteServiceAccountType is the discriminator of RemoteServiceAccount.
//
// +kubebuilder:validation:Enum=Fixed;Mirror
type RemoteServiceAccountType string

const (
	// ServiceAccountFixed is one ServiceAccount for all Pods that use the TargetCluster.
	ServiceAccountFixed RemoteServiceAccountType = "Fixed"
	// ServiceAccountMirror is the ServiceAccount with the namespace and name of the Pod's
	// ServiceAccount.
	ServiceAccountMirror RemoteServiceAccountType = "Mirror"
)

// RemoteServiceAccount is a ServiceAccount of the target.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'Fixed' ? has(self.__namespace__) && has(self.name) : !has(self.__namespace__) && !has(self.name)",message="namespace and name are required with type Fixed and not allowed with type Mirror"
// +union
type RemoteServiceAccount struct {
	// Type selects the ServiceAccount. Fixed: the ServiceAccount namespace/name, for all Pods. Mirror:
	// the ServiceAccount of the target that has the same namespace and name as the Pod's
	// ServiceAccount.
	// +unionDiscriminator
	// +required
	Type RemoteServiceAccountType `json:"type"`
	// Namespace of the ServiceAccount. Required with type Fixed.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Name of the ServiceAccount. Required with type Fixed.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +optional
	Name string `json:"name,omitempty"`
}

// ClientCertificateIssue is a client certificate that cert-manager issues, from a CA that the
// target trusts.
//
// In commonName and organizations, Keyferry replaces ${namespace}, ${serviceAccount}, ${podName}
// and ${podUID} by the values of the Pod. The results must not begin with system:, the prefix of
// Kubernetes' own users and groups.
type ClientCertificateIssue struct {
	// IssuerRef names the issuer of cert-manager. An Issuer must be in the TargetCluster's
	// namespace.
	// +required
	IssuerRef CertificateIssuerReference `json:"issuerRef"`

	// CommonName is the name of the user in the target.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('system:')",message="commonName must not begin with system: (reserved for Kubernetes)"
	// +required
	CommonName string `json:"commonName"`

	// Organizations are the groups of the user in the target.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +kubebuilder:validation:XValidation:rule="self.all(o, !o.startsWith('system:'))",message="organizations must not begin with system: (reserved for Kubernetes)"
	// +listType=atomic
	// +optional
	Organizations []string `json:"organizations,omitempty"`

	// Duration is the requested lifetime of the certificate, 10m to 48h. The issuer may issue a
	// certificate with another lifetime.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('48h')",message="duration must be from 10m to 48h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`
}

// CertificateIssuerReference names an issuer of cert-manager.
type CertificateIssuerReference struct {
	// Name of the issuer.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +required
	Name string `json:"name"`

	// Kind of the issuer: Issuer, ClusterIssuer, or the kind of an external issuer.
	// +kubebuilder:default=Issuer
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]*$`
	// +optional
	Kind string `json:"kind,omitempty"`

	// Group of the issuer: cert-manager.io, or the API group of an external issuer.
	// +kubebuilder:default=cert-manager.io
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +optional
	Group string `json:"group,omitempty"`
}

// FederationIssue is a projected token of this cluster. The target's API server trusts this cluster
// as a token issuer. Pods have no sidecar, and no Secret is needed.
type FederationIssue struct {
	// Audience of the token. Only this target may accept the audience.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +required
	Audience string `json:"audience"`

	// Duration is the lifetime of the token, 10m to 24h. The target accepts the token until it
	// expires, even if the Pod or the ServiceAccount is deleted: keep the lifetime short.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('24h')",message="duration must be from 10m to 24h"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`
}
