package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/aks"
)

// aks makes the source of access type AKS.
func (r *Resolver) aks(cluster *v1alpha1.TargetCluster, s Secret) (access, error) {
	spec := cluster.Spec.Access.AKS
	source, err := aks.New(aks.Config{
		Identity:      aks.Identity(spec.Identity),
		ClientID:      spec.ClientID,
		TenantID:      spec.TenantID,
		AuthorityHost: spec.AuthorityHost,
		Secret:        s.String(),
		Data:          s.Data,
		Egress:        r.cfg.Egress,
		Now:           r.cfg.Now,
	})
	if err != nil {
		return access{}, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
	}
	if err := r.checkHost(source.Host()); err != nil {
		return access{}, &InvalidError{Reason: ReasonAddressRefused, Message: "spec.access.aks.authorityHost: " + err.Error()}
	}
	return access{source: source}, nil
}
