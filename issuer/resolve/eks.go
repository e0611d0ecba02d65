package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/eks"
)

// eks makes the source of access type EKS.
func (r *Resolver) eks(cluster *v1alpha1.TargetCluster, s Secret) (access, error) {
	spec := cluster.Spec.Access.EKS
	if spec.Identity == v1alpha1.IdentityAmbient {
		if err := r.checkAmbient(cluster, "spec.access.eks.identity Ambient"); err != nil {
			return access{}, err
		}
	}
	source, err := eks.New(eks.Config{
		ClusterName: spec.ClusterName,
		Region:      spec.Region,
		FIPS:        spec.FIPS,
		Identity:    eks.Identity(spec.Identity),
		RoleARN:     spec.RoleARN,
		Secret:      s.String(),
		Data:        s.Data,
		Egress:      r.cfg.Egress,
		Now:         r.cfg.Now,
	})
	if err != nil {
		return access{}, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
	}
	return access{source: source}, nil
}
