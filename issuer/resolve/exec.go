package resolve

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/exec"
)

const (
	// maxPlugins run in this process's container at a time: of one namespace, and of one target, only
	// some of them.
	maxPlugins, maxPluginsOfNamespace, maxPluginsOfTarget = 16, 8, 4
	// inPodLife is how long the answer is the same that a Pod has to see to it.
	inPodLife = 24 * time.Hour
)

// plugin returns that of spec.access.exec, with what the ClusterProfile has to say if there is one.
func (f Fleet) plugin(cluster *v1alpha1.TargetCluster) (clusterprofile.Plugin, error) {
	spec := cluster.Spec.Access.Exec
	found, ok := f.File.Plugin(spec.Provider)
	switch {
	case !ok:
		return found, &InvalidError{Reason: ReasonInvalidAccess, Message: fmt.Sprintf(
			"spec.access.exec.provider: the provider file has no %q: it has %s: correct the name, or add it to the chart value providerFile", spec.Provider, listed(f.File.Names()))}
	case spec.RunIn == v1alpha1.RunInPod && found.Image == "":
		return found, &InvalidError{Reason: ReasonInvalidAccess, Message: fmt.Sprintf(
			"spec.access.exec.runIn Pod: provider %s has no image in the provider file, from which Pods could have the program: add it to the chart value providerFile, or use Broker", spec.Provider)}
	case f.Profile == nil:
		return found, nil
	}
	found, err := f.File.ForProfile(spec.Provider, f.Profile)
	if err != nil {
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

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
