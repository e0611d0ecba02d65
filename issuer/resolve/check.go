package resolve

import (
	"fmt"
	"strings"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Check refuses what the API has and this version does not. What it lets through is complete, also
// where no API server has looked at it. Its error is an *InvalidError.
func Check(spec v1alpha1.TargetClusterSpec) error {
	if spec.Endpoint != nil && spec.Endpoint.Server != "" && !strings.Contains(spec.Endpoint.Server, "://") {
		return &InvalidError{Reason: ReasonInvalidEndpoint, Message: "spec.endpoint.server: has no scheme: it must begin with https://"}
	}
	if err := checkWellKnown(spec.Endpoint); err != nil {
		return err
	}
	if err := checkAccess(spec.Access); err != nil {
		return err
	}
	if spec.Access.Type == v1alpha1.AccessExec {
		if err := checkExec(spec); err != nil {
			return err
		}
	}
	switch {
	case spec.Issue.Type == v1alpha1.IssueFederation:
		return checkFederation(spec)
	case spec.Issue.Type == v1alpha1.IssueClientCertificate && spec.Issue.ClientCertificate != nil:
		return nil
	case spec.Access.Type == v1alpha1.AccessNone:
		return unsupported(fmt.Sprintf("spec.access.type None with spec.issue.type %s", spec.Issue.Type), "use issue type Federation or ClientCertificate")
	case spec.Issue.Type == v1alpha1.IssueAccess:
		return nil
	case spec.Issue.Type != v1alpha1.IssueTokenRequest || spec.Issue.TokenRequest == nil:
		return unsupported(fmt.Sprintf("spec.issue.type %s", spec.Issue.Type), "use TokenRequest or ClientCertificate, and set the field of that name, or use Access or Federation")
	}
	switch account := spec.Issue.TokenRequest.ServiceAccount; {
	case account.Type == v1alpha1.ServiceAccountMirror:
		return nil
	case account.Type != v1alpha1.ServiceAccountFixed || account.Namespace == "" || account.Name == "":
		return unsupported(fmt.Sprintf("spec.issue.tokenRequest.serviceAccount type %s without namespace and name", account.Type), "use Fixed with both, or Mirror")
	}
	return nil
}

// checkWellKnown rejects what the API server rejects, and a value of a later version.
func checkWellKnown(e *v1alpha1.Endpoint) error {
	switch {
	case e == nil || e.WellKnownCACertificates == "":
		return nil
	case e.WellKnownCACertificates != v1alpha1.WellKnownCACertificatesSystem:
		return unsupported(fmt.Sprintf("spec.endpoint.wellKnownCACertificates %s", e.WellKnownCACertificates), "use System, or certificateAuthorityData")
	case len(e.CertificateAuthorityData) > 0:
		return &InvalidError{Reason: ReasonInvalidEndpoint,
			Message: "spec.endpoint: certificateAuthorityData and wellKnownCACertificates exclude each other: remove one of them"}
	}
	return nil
}

// checkAccess rejects an access type that this version does not have, and one without its field.
func checkAccess(spec v1alpha1.Access) error {
	row, known := rowOf(spec.Type)
	switch {
	case !known:
		return unknownAccess(spec.Type)
	case !row.isSet(spec):
		return unsupported(fmt.Sprintf("spec.access.type %s without spec.access.%s", spec.Type, row.field), "set it")
	}
	return nil
}

func unknownAccess(accessType v1alpha1.AccessType) error {
	return unsupported(fmt.Sprintf("spec.access.type %s", accessType), "use "+accessTypes())
}

func checkExec(spec v1alpha1.TargetClusterSpec) error {
	if spec.Access.Exec.RunIn == v1alpha1.RunInPod && spec.Issue.Type != v1alpha1.IssueAccess {
		return unsupported(fmt.Sprintf("spec.access.exec.runIn Pod with spec.issue.type %s", spec.Issue.Type), "use issue type Access, because the credential never leaves the Pod")
	}
	return nil
}

// checkFederation refuses a union without its value, and with an access credential, also where no
// API server has looked at it.
func checkFederation(spec v1alpha1.TargetClusterSpec) error {
	if spec.Issue.Federation == nil || spec.Issue.Federation.Audience == "" {
		return unsupported("spec.issue.type Federation without spec.issue.federation.audience", "set it")
	}
	if spec.Access.Type != v1alpha1.AccessNone {
		return unsupported(fmt.Sprintf("spec.issue.type Federation with spec.access.type %s", spec.Access.Type), "use access type None")
	}
	return nil
}
