package resolve

import (
	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/kubeconfig"
	"github.com/keyferry/keyferry/providers/ncp"
	"github.com/keyferry/keyferry/providers/spider"
	"github.com/keyferry/keyferry/providers/tumblebug"
)

// access is what spec.access and its Secret come to.
type access struct {
	// provider is nil if there is none.
	provider providers.Provider
	// endpoint is what the provider knows of it before it issues, and knownFrom says from where; empty
	// if it never does.
	endpoint  endpoint.Endpoint
	knownFrom string
	// inPod is set, and provider is not, if a plugin in the Pod is the provider.
	inPod *InPod
	// certificate is set if the provider issues client certificates.
	certificate bool
	// unread is set if the Secret, which may say more of all this, was not read.
	unread bool
	// warning is a sentence about what works, and should not be so.
	warning string
}

// AccessSecret returns the name of the Secret that spec.access names, and the field that does. The
// name is empty if there is none.
func AccessSecret(spec v1alpha1.Access) (name, field string) {
	reference := func(field string, ref *v1alpha1.SecretReference) (string, string) {
		if ref == nil {
			return "", ""
		}
		return ref.Name, field
	}
	switch spec.Type {
	case v1alpha1.AccessEKS:
		return reference("spec.access.eks.credentials.name", spec.EKS.Credentials)
	case v1alpha1.AccessGKE:
		return reference("spec.access.gke.credentials.name", spec.GKE.Credentials)
	case v1alpha1.AccessAKS:
		return reference("spec.access.aks.credentials.name", spec.AKS.Credentials)
	case v1alpha1.AccessNCP:
		return reference("spec.access.ncp.credentials.name", &spec.NCP.Credentials)
	case v1alpha1.AccessSpider:
		return reference("spec.access.spider.credentials.name", spec.Spider.Credentials)
	case v1alpha1.AccessTumblebug:
		return reference("spec.access.tumblebug.credentials.name", spec.Tumblebug.Credentials)
	case v1alpha1.AccessExec, v1alpha1.AccessNone:
		return "", ""
	default:
		return spec.Kubeconfig.Name, "spec.access.kubeconfig.name"
	}
}

// access makes the provider that spec.access describes, of its Secret and what the fleet has for
// it. Its errors are an *InvalidError.
func (r *Resolver) access(cluster *v1alpha1.TargetCluster, s Secret, f Fleet) (access, error) {
	spec := cluster.Spec.Access
	if err := s.checkType(spec.Type); err != nil {
		return access{}, err
	}
	switch spec.Type {
	case v1alpha1.AccessEKS:
		return r.eks(cluster, s)
	case v1alpha1.AccessNone:
		return access{}, nil
	case v1alpha1.AccessGKE:
		return r.gke(cluster, s)
	case v1alpha1.AccessAKS:
		return r.aks(cluster, s)
	case v1alpha1.AccessNCP:
		return r.made("")(ncp.New(ncp.Config{
			ClusterUUID: spec.NCP.ClusterUUID,
			Region:      spec.NCP.Region,
			Secret:      s.String(),
			Data:        s.Data,
			Now:         r.cfg.Now,
		}))
	case v1alpha1.AccessSpider:
		return r.made("spec.access.spider.url")(spider.New(spider.Config{
			URL:        spec.Spider.URL,
			Cluster:    spec.Spider.Cluster,
			Connection: spec.Spider.Connection,
			Secret:     s.String(),
			Data:       s.Data,
			Egress:     r.cfg.Policy,
			Now:        r.cfg.Now,
		}))
	case v1alpha1.AccessTumblebug:
		return r.made("spec.access.tumblebug.url")(tumblebug.New(tumblebug.Config{
			URL:              spec.Tumblebug.URL,
			Namespace:        spec.Tumblebug.Namespace,
			Cluster:          spec.Tumblebug.Cluster,
			CredentialHolder: spec.Tumblebug.CredentialHolder,
			Secret:           s.String(),
			Data:             s.Data,
			Egress:           r.cfg.Policy,
			Now:              r.cfg.Now,
		}))
	case v1alpha1.AccessExec:
		return r.exec(cluster, f)
	default:
		provider, err := kubeconfig.New(kubeconfig.Config{
			Secret: s.String(),
			Labels: s.Labels,
			Data:   s.Data,
			Key:    spec.Kubeconfig.Key,
			Now:    r.cfg.Now,
		})
		if err != nil {
			return access{}, &InvalidError{Reason: ReasonInvalidKubeconfig, Message: err.Error()}
		}
		return access{provider: provider, endpoint: provider.Endpoint(), knownFrom: "Secret " + s.String(), certificate: provider.IsCertificate()}, nil
	}
}

// made takes what a constructor of a provider returns; field says where the provider is asked at,
// if anything does.
func (r *Resolver) made(field string) func(providers.Provider, error) (access, error) {
	return func(provider providers.Provider, err error) (access, error) {
		if err != nil {
			return access{}, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
		}
		if asked, ok := provider.(interface{ Host() string }); ok {
			if err := r.cfg.Policy.CheckHost(asked.Host()); err != nil {
				return access{}, &InvalidError{Reason: ReasonAddressRefused, Message: field + ": " + err.Error()}
			}
		}
		made := access{provider: provider}
		if warns, ok := provider.(interface{ Warning() string }); ok {
			made.warning = warns.Warning()
		}
		return made, nil
	}
}

// checkAmbient refuses, with an *InvalidError, what the field has the broker's own identity do, if
// the operator does not allow it.
func (r *Resolver) checkAmbient(cluster *v1alpha1.TargetCluster, field string) error {
	if err := r.cfg.Policy.CheckAmbient(field, cluster.Namespace); err != nil {
		return invalid(err)
	}
	return nil
}
