package clusterprofile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/endpoint"
)

// Extensions of a ClusterProfile's cluster.
const (
	// extensionConfig is the cluster's config in the ExecCredential for the plugin.
	extensionConfig = "client.authentication.k8s.io/exec"
	// extensionArgs is an array of strings, extensionEnv an object of strings (KEP-5339).
	extensionArgs = "clusterprofiles.multicluster.x-k8s.io/exec/additional-args"
	extensionEnv  = "clusterprofiles.multicluster.x-k8s.io/exec/additional-envs"
)

// Cluster is the cluster of a ClusterProfile.
type Cluster struct {
	endpoint.Endpoint
	// Config is JSON for the plugin; nil if the profile has none.
	Config json.RawMessage
}

// Select returns the first plugin, in the operator's order, for which the profile has an access
// provider, configured for the profile's cluster. An error names the profile, the field and the
// fix.
func (f *ProviderFile) Select(profile *inventory.ClusterProfile) (Plugin, error) {
	for _, name := range f.Names() {
		if _, ok := entries(profile)[name]; ok {
			return f.ForProfile(name, profile)
		}
	}
	return Plugin{}, fmt.Errorf("none of ClusterProfile %s's access providers is in the provider file: the profile has %s, the provider file has %s",
		nameOf(profile), listed(slices.Sorted(maps.Keys(entries(profile)))), listed(f.Names()))
}

// ErrProvider is wrapped by errors about a provider that the provider file does not have, or not as
// it is needed.
var ErrProvider = errors.New("spec.access.exec")

// Named returns the plugin that spec.access.exec of a TargetCluster names, ready to be run for the
// cluster of profile, if that is not nil. inPod is set if it runs in Pods. An error names the field
// and the fix.
func (f *ProviderFile) Named(name string, inPod bool, profile *inventory.ClusterProfile) (Plugin, error) {
	p, ok := f.find(name)
	switch {
	case !ok:
		return Plugin{}, fmt.Errorf("%w.provider: the provider file has no provider %q: it has %s: correct the name, or add the provider to the chart value providerFile",
			ErrProvider, name, listed(f.Names()))
	case inPod && p.plugin.Image == "":
		return Plugin{}, fmt.Errorf("%w.runIn Pod: provider %q of the provider file has no image to run in Pods: add the image to the chart value providerFile, or use runIn Broker",
			ErrProvider, name)
	case profile == nil:
		return p.plugin.clone(), nil
	}
	return f.ForProfile(name, profile)
}

// ForProfile returns the plugin with that name, configured for the profile's cluster. An error
// names the profile, the field and the fix.
func (f *ProviderFile) ForProfile(name string, profile *inventory.ClusterProfile) (Plugin, error) {
	p, ok := f.find(name)
	if !ok {
		return Plugin{}, fmt.Errorf("the provider file has no provider %q: it has %s", name, listed(f.Names()))
	}
	e, ok := entries(profile)[name]
	if !ok {
		return Plugin{}, fmt.Errorf("ClusterProfile %s: status.accessProviders does not contain %q: it contains %s", nameOf(profile), name, listed(slices.Sorted(maps.Keys(entries(profile)))))
	}
	plugin, err := p.forCluster(e.cluster)
	if err != nil {
		return Plugin{}, e.error(profile, err)
	}
	return plugin, nil
}

// Cluster returns the profile's cluster according to the access provider that Select would use. If
// the provider file has none of the profile's access providers, the profile must have exactly one.
// An error names the profile, the field and the fix.
func (f *ProviderFile) Cluster(profile *inventory.ClusterProfile) (Cluster, error) {
	all := entries(profile)
	names := slices.Sorted(maps.Keys(all))
	common := slices.IndexFunc(f.Names(), func(name string) bool { return slices.Contains(names, name) })
	var name string
	switch {
	case common >= 0:
		name = f.Names()[common]
	case len(names) == 1:
		name = names[0]
	case len(names) == 0:
		return Cluster{}, fmt.Errorf("ClusterProfile %s: status.accessProviders is empty: the cluster manager must write the endpoint to this field", nameOf(profile))
	default:
		return Cluster{}, fmt.Errorf("ClusterProfile %s: status.accessProviders has %s, but the provider file contains %s: add one of the profile's access providers to the provider file",
			nameOf(profile), listed(names), listed(f.Names()))
	}
	cluster, err := readCluster(all[name].cluster)
	if err != nil {
		return Cluster{}, all[name].error(profile, err)
	}
	return cluster, nil
}

// entry is an access provider of a profile.
type entry struct {
	field   string
	name    string
	cluster *clientcmdv1.Cluster
}

func (e entry) error(profile *inventory.ClusterProfile, err error) error {
	return fmt.Errorf("ClusterProfile %s: %s[%s].%w", nameOf(profile), e.field, e.name, err)
}

// entries returns the access providers of a profile by name. An entry of the deprecated field is
// used if the other field has none with its name.
func entries(profile *inventory.ClusterProfile) map[string]entry {
	all := map[string]entry{}
	for _, list := range []struct {
		field   string
		entries []inventory.AccessProvider
	}{{"status.credentialProviders", profile.Status.CredentialProviders}, {"status.accessProviders", profile.Status.AccessProviders}} {
		for i := range list.entries {
			all[list.entries[i].Name] = entry{field: list.field, name: list.entries[i].Name, cluster: &list.entries[i].Cluster}
		}
	}
	return all
}

// readCluster returns the cluster of an access provider, or an error if it is incomplete or
// insecure.
func readCluster(c *clientcmdv1.Cluster) (Cluster, error) {
	config := extension(c, extensionConfig)
	switch {
	case c.InsecureSkipTLSVerify:
		return Cluster{}, errors.New("cluster.insecure-skip-tls-verify is set, but Keyferry sends credentials only to verified servers: set certificate-authority-data instead")
	case c.CertificateAuthority != "" && len(c.CertificateAuthorityData) == 0:
		return Cluster{}, errors.New("cluster.certificate-authority is a path of another machine: set certificate-authority-data instead")
	case len(config) > maxBytes:
		return Cluster{}, fmt.Errorf("cluster.extensions[%s] is longer than %d KiB", extensionConfig, maxBytes>>10)
	case config != nil && !json.Valid(config):
		return Cluster{}, fmt.Errorf("cluster.extensions[%s] is no JSON", extensionConfig)
	}
	return Cluster{
		Endpoint: endpoint.Endpoint{
			Server:               c.Server,
			CertificateAuthority: slices.Clone(c.CertificateAuthorityData),
			TLSServerName:        c.TLSServerName,
			ProxyURL:             c.ProxyURL,
		},
		Config: slices.Clone(config),
	}, nil
}

func extension(c *clientcmdv1.Cluster, name string) json.RawMessage {
	for _, e := range c.Extensions {
		if e.Name == name {
			return e.Extension.Raw
		}
	}
	return nil
}

// forCluster returns the plugin for a cluster, with the arguments and variables of the profile that
// the provider's policies allow.
func (p provider) forCluster(c *clientcmdv1.Cluster) (Plugin, error) {
	plugin := p.plugin.clone()
	var err error
	if plugin.Cluster, err = readCluster(c); err != nil {
		return Plugin{}, err
	}
	if p.argPolicy == policyAppend {
		var added []string
		if err := read(c, extensionArgs, "an array of strings", &added); err != nil {
			return Plugin{}, err
		}
		if slices.ContainsFunc(added, hasControl) {
			return Plugin{}, fmt.Errorf("cluster.extensions[%s] contains a newline or another control character", extensionArgs)
		}
		plugin.Args = append(plugin.Args, added...)
	}
	if p.envPolicy == policyAppendIfNotExists || p.envPolicy == policyReplace {
		var added map[string]string
		if err := read(c, extensionEnv, "an object of strings", &added); err != nil {
			return Plugin{}, err
		}
		if err := p.addEnv(&plugin, added); err != nil {
			return Plugin{}, fmt.Errorf("cluster.extensions[%s] %w", extensionEnv, err)
		}
	}
	if err := plugin.checkSize(); err != nil {
		return Plugin{}, fmt.Errorf("cluster.extensions add too many arguments or variables to provider %s: %w", plugin.Name, err)
	}
	return plugin, nil
}

func read(c *clientcmdv1.Cluster, name, form string, into any) error {
	raw := extension(c, name)
	switch {
	case raw == nil:
		return nil
	case len(raw) > maxBytes:
		return fmt.Errorf("cluster.extensions[%s] is longer than %d KiB", name, maxBytes>>10)
	case json.Unmarshal(raw, into) != nil: // the decoder's error may quote a value
		return fmt.Errorf("cluster.extensions[%s] must be %s", name, form)
	}
	return nil
}

// addEnv adds variables to the plugin. The plugin's own variables keep their order; the others
// follow, sorted by name.
func (p provider) addEnv(plugin *Plugin, added map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(added)) {
		if err := p.checkProfileSets(name); err != nil {
			return err
		}
		if hasControl(added[name]) {
			return fmt.Errorf("has a newline or another control character in the variable %s", name)
		}
		i := slices.IndexFunc(plugin.Env, func(v EnvVar) bool { return v.Name == name })
		switch {
		case i < 0:
			plugin.Env = append(plugin.Env, EnvVar{Name: name, Value: added[name]})
		case p.envPolicy == policyReplace:
			plugin.Env[i].Value = added[name]
		}
	}
	return nil
}

func nameOf(profile *inventory.ClusterProfile) string {
	return profile.Namespace + "/" + profile.Name
}

// listed joins names for messages.
func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
