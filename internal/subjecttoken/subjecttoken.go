// Package subjecttoken decides which token of the Pod a provider exchanges for a credential
// (workload identity).
package subjecttoken

import "github.com/keyferry/keyferry/api/v1alpha1"

// Audience returns the audience of the token; empty if the provider exchanges no token of the Pod.
// It depends on the spec only: a status can be forged.
func Audience(access v1alpha1.Access) string {
	switch {
	case access.EKS != nil && access.EKS.Identity == v1alpha1.IdentityWorkload:
		return "sts.amazonaws.com"
	case access.GKE != nil && access.GKE.Identity == v1alpha1.IdentityWorkload:
		return "https://iam.googleapis.com/" + access.GKE.WorkloadIdentityProvider
	case access.AKS != nil && access.AKS.Identity == v1alpha1.IdentityWorkload:
		return "api://AzureADTokenExchange"
	}
	return ""
}
