package issuer

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/eks"
)

// eks makes the source of access type EKS.
func (i *Issuer) eks(cluster *v1alpha1.TargetCluster, s secret) (access, error) {
	spec := cluster.Spec.Access.EKS
	if spec.Identity == v1alpha1.IdentityAmbient {
		if err := i.checkAmbient(cluster, "spec.access.eks.identity Ambient"); err != nil {
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
		Data:        s.data,
		Egress:      i.egress,
		Now:         i.cfg.Now,
	})
	if err != nil {
		return access{}, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
	}
	return access{source: source}, nil
}
