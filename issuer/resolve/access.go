package resolve

import (
	"errors"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
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
	// unread is set if the kubeconfig, which may say more of all this, was not read.
	unread bool
	// warning is a sentence about what works, and should not be so.
	warning string
}

// newAccess returns the access of a provider, or the error of its constructor.
func newAccess(provider providers.Provider, err error) (access, error) {
	return access{provider: provider}, err
}

// access constructs the provider that spec.access describes, with its Secret and what the fleet has
// for it. Its errors are an *InvalidError.
func (r *Resolver) access(cluster *v1alpha1.TargetCluster, s Secret, f Fleet) (access, error) {
	spec := cluster.Spec.Access
	row, known := rowOf(spec.Type)
	if !known {
		return access{}, unknownAccess(spec.Type)
	}
	if err := s.checkType(row); err != nil {
		return access{}, err
	}
	constructed, err := row.newAccess(r, cluster, s, f)
	if err != nil {
		if _, ok := errors.AsType[*InvalidError](err); ok {
			return access{}, err
		}
		return access{}, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
	}
	constructed.certificate = constructed.certificate || row.certificate
	if hosted, ok := constructed.provider.(providers.Hosted); ok {
		if err := r.cfg.Policy.CheckURL(hosted.Server()); err != nil {
			return access{}, &InvalidError{Reason: ReasonAddressRefused, Message: row.path(row.hostField) + ": " + err.Error()}
		}
	}
	if warner, ok := constructed.provider.(providers.Warner); ok {
		constructed.warning = warner.Warning()
	}
	return constructed, nil
}

// checkIdentity rejects identity Ambient, with an *InvalidError, if the operator does not allow it.
func (r *Resolver) checkIdentity(cluster *v1alpha1.TargetCluster, identity v1alpha1.CloudIdentity) error {
	if identity != v1alpha1.IdentityAmbient {
		return nil
	}
	row, _ := rowOf(cluster.Spec.Access.Type)
	return r.checkAmbient(cluster, row.path("identity Ambient"))
}

// checkAmbient rejects, with an *InvalidError, a field that uses the broker's own identity, if the
// operator does not allow it.
func (r *Resolver) checkAmbient(cluster *v1alpha1.TargetCluster, field string) error {
	if err := r.cfg.Policy.CheckAmbient(field, cluster.Namespace); err != nil {
		return invalid(err)
	}
	return nil
}
