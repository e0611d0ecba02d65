package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/gke"
)

// gke makes the source of access type GKE.
func (r *Resolver) gke(cluster *v1alpha1.TargetCluster, s Secret) (access, error) {
	spec := cluster.Spec.Access.GKE
	if spec.Identity == v1alpha1.IdentityAmbient {
		if err := r.checkAmbient(cluster, "spec.access.gke.identity Ambient"); err != nil {
			return access{}, err
		}
	}
	source, err := gke.New(gke.Config{
		Identity:                 gke.Identity(spec.Identity),
		WorkloadIdentityProvider: spec.WorkloadIdentityProvider,
		Impersonate:              spec.Impersonate,
		Secret:                   s.String(),
		Data:                     s.Data,
		Egress:                   r.cfg.Egress,
		Now:                      r.cfg.Now,
	})
	if err != nil {
		return access{}, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
	}
	return access{source: source}, nil
}
