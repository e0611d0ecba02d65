package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
)

// Reasons of an InvalidError, for the condition Resolved.
const (
	ReasonSecretNotFound         = "SecretNotFound"
	ReasonSecretForbidden        = "SecretForbidden"
	ReasonNamespaceNotListed     = "NamespaceNotListed"
	ReasonInvalidSecretType      = "InvalidSecretType"
	ReasonInvalidKubeconfig      = "InvalidKubeconfig"
	ReasonInvalidAccess          = "InvalidAccess"
	ReasonInvalidEndpoint        = endpoint.ReasonInvalidEndpoint
	ReasonAddressRefused         = endpoint.ReasonAddressRefused
	ReasonAmbientRefused         = endpoint.ReasonAmbientRefused
	ReasonNoCertificateAuthority = endpoint.ReasonNoCertificateAuthority
	ReasonDirectNotPossible      = endpoint.ReasonDirectNotPossible
	ReasonInvalidIssue           = "InvalidIssue"
	ReasonCertManagerMissing     = "CertManagerMissing"
	ReasonClusterProfileNotFound = "ClusterProfileNotFound"
	ReasonInvalidClusterProfile  = clusterprofile.ReasonInvalid
	ReasonFederated              = "Federated"
	ReasonAudienceTaken          = "AudienceTaken"
	ReasonNotSupported           = v1alpha1.ReasonNotSupported
)

// InvalidError says that a TargetCluster or its Secrets make no sense: nothing helps until somebody
// changes them.
type InvalidError struct {
	// Reason is one of the reasons above.
	Reason string
	// Message names the object, the field and the fix.
	Message string
}

func (e *InvalidError) Error() string { return e.Message }

func unsupported(what, fix string) error {
	return &InvalidError{Reason: ReasonNotSupported, Message: what + " is not supported by this version: " + fix}
}
