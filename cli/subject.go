package cli

import (
	"context"
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
)

// subjectAudience is the audience of the token that a Pod needs for the TargetCluster's source to exchange; empty if it needs none. Only
// workload identity does, which names no Secret, so the spec alone tells.
func subjectAudience(tc *v1alpha1.TargetCluster) (string, error) {
	access := tc.Spec.Access
	if (access.EKS == nil || access.EKS.Identity != v1alpha1.IdentityWorkload) &&
		(access.GKE == nil || access.GKE.Identity != v1alpha1.IdentityWorkload) &&
		(access.AKS == nil || access.AKS.Identity != v1alpha1.IdentityWorkload) {
		return "", nil
	}
	i, err := issuer.New(issuer.Config{Clusters: offline{}, Secrets: offline{}})
	if err != nil {
		return "", err
	}
	resolution, err := i.Resolve(context.Background(), tc)
	if resolution.SubjectAudience != "" {
		err = nil // what else may be wrong with it does not matter here
	}
	return resolution.SubjectAudience, err
}

// offline reads nothing.
type offline struct{}

var errOffline = errors.New("nothing is read offline")

func (offline) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errOffline
}
func (offline) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errOffline
}
