package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/aks"
	"github.com/keyferry/keyferry/providers/eks"
	"github.com/keyferry/keyferry/providers/gke"
)

func (r *Resolver) eks(cluster *v1alpha1.TargetCluster, s Secret) (access, error) {
	spec := cluster.Spec.Access.EKS
	if spec.Identity == v1alpha1.IdentityAmbient {
		if err := r.checkAmbient(cluster, "spec.access.eks.identity Ambient"); err != nil {
			return access{}, err
		}
	}
	return r.made("")(eks.New(eks.Config{
		ClusterName: spec.ClusterName,
		Region:      spec.Region,
		FIPS:        spec.FIPS,
		Identity:    eks.Identity(spec.Identity),
		RoleARN:     spec.RoleARN,
		Secret:      s.String(),
		Data:        s.Data,
		Egress:      r.cfg.Policy,
		Now:         r.cfg.Now,
	}))
}

func (r *Resolver) gke(cluster *v1alpha1.TargetCluster, s Secret) (access, error) {
	spec := cluster.Spec.Access.GKE
	if spec.Identity == v1alpha1.IdentityAmbient {
		if err := r.checkAmbient(cluster, "spec.access.gke.identity Ambient"); err != nil {
			return access{}, err
		}
	}
	return r.made("")(gke.New(gke.Config{
		Identity:                 gke.Identity(spec.Identity),
		WorkloadIdentityProvider: spec.WorkloadIdentityProvider,
		Impersonate:              spec.Impersonate,
		Secret:                   s.String(),
		Data:                     s.Data,
		Egress:                   r.cfg.Policy,
		Now:                      r.cfg.Now,
	}))
}

func (r *Resolver) aks(cluster *v1alpha1.TargetCluster, s Secret) (access, error) {
	spec := cluster.Spec.Access.AKS
	return r.made("spec.access.aks.authorityHost")(aks.New(aks.Config{
		Identity:      aks.Identity(spec.Identity),
		ClientID:      spec.ClientID,
		TenantID:      spec.TenantID,
		AuthorityHost: spec.AuthorityHost,
		Secret:        s.String(),
		Data:          s.Data,
		Egress:        r.cfg.Policy,
		Now:           r.cfg.Now,
	}))
}
