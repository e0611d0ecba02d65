package subjecttoken

import (
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

func TestAudience(t *testing.T) {
	const pool = "projects/1/locations/global/workloadIdentityPools/p/providers/r"
	for _, identity := range []v1alpha1.CloudIdentity{v1alpha1.IdentitySecret, v1alpha1.IdentityWorkload, v1alpha1.IdentityAmbient} {
		for want, access := range map[string]v1alpha1.Access{
			"sts.amazonaws.com":                  {EKS: &v1alpha1.EKSAccess{Identity: identity}},
			"https://iam.googleapis.com/" + pool: {GKE: &v1alpha1.GKEAccess{Identity: identity, WorkloadIdentityProvider: pool}},
			"api://AzureADTokenExchange":         {AKS: &v1alpha1.AKSAccess{Identity: identity}},
			"":                                   {Kubeconfig: &v1alpha1.KubeconfigAccess{}},
		} {
			if identity != v1alpha1.IdentityWorkload {
				want = ""
			}
			if got := Audience(access); got != want {
				t.Errorf("%s, %+v: got %q, want %q", identity, access, got, want)
			}
		}
	}
}
