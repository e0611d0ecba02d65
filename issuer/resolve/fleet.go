package resolve

import (
	"fmt"

	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
)

// Fleet is what a TargetCluster's clusterProfile and a plugin come from.
type Fleet struct {
	// File is the operator's; nil is one without providers.
	File *clusterprofile.ProviderFile
	// Profile is nil if the TargetCluster names none.
	Profile *inventory.ClusterProfile
}

// OfProfile reports whether a TargetCluster is in no API server, and stands for the ClusterProfile of its name.
func OfProfile(cluster *v1alpha1.TargetCluster) bool {
	return cluster.Kind == inventory.ClusterProfileKind
}

// endpoint returns what the TargetCluster itself says of where the target is, and from where that is: its spec, or its ClusterProfile. A
// profile says it for each of its access providers: with a plugin, that of the plugin counts.
func (f Fleet) endpoint(cluster *v1alpha1.TargetCluster) (at endpoint.Endpoint, from string, err error) {
	if f.Profile == nil {
		return specEndpoint(cluster), "", nil
	}
	var said clusterprofile.Cluster
	if cluster.Spec.Access.Type == v1alpha1.AccessExec {
		plugin, err := f.plugin(cluster)
		if err != nil {
			return endpoint.Endpoint{}, "", err
		}
		said = plugin.Cluster
	} else if said, err = f.File.Cluster(f.Profile); err != nil {
		return endpoint.Endpoint{}, "", invalidProfile(err)
	}
	return said.Endpoint, "ClusterProfile " + f.Profile.Namespace + "/" + f.Profile.Name, nil
}

// checkAuthority returns an *InvalidError that names the ClusterProfile, and not the spec, if its cluster has no
// certificate authority.
func (f Fleet) checkAuthority(at endpoint.Endpoint) error {
	if f.Profile == nil || at.CheckAuthority() == nil {
		return nil
	}
	return &InvalidError{Reason: ReasonNoCertificateAuthority, Message: fmt.Sprintf(
		"ClusterProfile %s/%s has no certificate-authority-data, by which Pods verify the endpoint: its cluster manager has to set it", f.Profile.Namespace, f.Profile.Name)}
}

func invalidProfile(err error) error {
	return &InvalidError{Reason: clusterprofile.Reason(err), Message: err.Error()}
}
