package resolve

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/exec"
)

// inPodLife is how long the answer is the same that a Pod has to see to it.
const inPodLife = 24 * time.Hour

// plugin returns that of spec.access.exec, with what the ClusterProfile has to say if there is one.
func (f Fleet) plugin(cluster *v1alpha1.TargetCluster) (clusterprofile.Plugin, error) {
	spec := cluster.Spec.Access.Exec
	found, err := f.File.Named(spec.Provider, spec.RunIn == v1alpha1.RunInPod, f.Profile)
	switch {
	case errors.Is(err, clusterprofile.ErrProvider):
		return found, &InvalidError{Reason: ReasonInvalidAccess, Message: err.Error()}
	case err != nil:
		return found, invalidProfile(err)
	}
	return found, nil
}

// exec is access by a plugin: one that runs here, or one of which the Pod's sidecar is told what
// the ClusterProfile has for it.
func (r *Resolver) exec(cluster *v1alpha1.TargetCluster, _ Secret, used Fleet) (access, error) {
	found, err := used.plugin(cluster)
	if err != nil {
		return access{}, err
	}
	if cluster.Spec.Access.Exec.RunIn == v1alpha1.RunInPod {
		return access{inPod: &InPod{Config: found.Cluster.Config}}, nil
	}
	if err := r.checkRunIn(cluster); err != nil {
		return access{}, err
	}
	cfg := exec.Config{
		Name:       found.Name,
		Command:    found.Command,
		Args:       found.Args,
		APIVersion: found.APIVersion,
		Environ:    os.Environ(),
		Slots:      r.plugins,
		Namespace:  cluster.Namespace,
		Target:     cluster.Name,
	}
	for _, variable := range found.Env {
		cfg.Env = append(cfg.Env, variable.Name+"="+variable.Value)
	}
	if found.ProvideClusterInfo {
		known, err := used.endpoints(cluster)
		if err != nil {
			return access{}, err
		}
		at := known.merged()
		cfg.Cluster = &credentialplugin.Cluster{
			Server:                   at.Server,
			TLSServerName:            at.TLSServerName,
			CertificateAuthorityData: at.CertificateAuthority,
			ProxyURL:                 at.ProxyURL,
			Config:                   found.Cluster.Config,
		}
	}
	return newAccess(exec.New(cfg))
}

// checkRunIn returns an *InvalidError if the plugin runs in the broker and may not act with the
// broker's identity.
func (r *Resolver) checkRunIn(cluster *v1alpha1.TargetCluster) error {
	if cluster.Spec.Access.Exec.RunIn == v1alpha1.RunInPod || OfProfile(cluster) { // of a profile, its Target has been asked
		return nil
	}
	return r.checkAmbient(cluster, "spec.access.exec.runIn Broker")
}

// InPod says that the credential is issued by a plugin in the Pod: here only the endpoint is known.
type InPod struct {
	// Config is what the ClusterProfile has for the plugin, JSON; nil if nothing. It is data, never
	// anything to execute.
	Config json.RawMessage
}

// notHere is what is asked in place of a plugin in the Pod. Its credential is empty.
type notHere struct{ now func() time.Time }

func (n notHere) Issue(context.Context, providers.Request) (providers.Credential, error) {
	return providers.Credential{NotAfter: n.now().Add(inPodLife)}, nil
}

func (notHere) ShareKey(providers.Request) string { return "" }
