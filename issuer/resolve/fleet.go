package resolve

import (
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
)

// Fleet is what a TargetCluster's clusterProfile and a plugin come from.
type Fleet struct {
	// File is the operator's; nil is one without providers.
	File *clusterprofile.ProviderFile
	// Profile is nil if the TargetCluster names none.
	Profile *inventory.ClusterProfile
}

// OfProfile reports whether a TargetCluster is in no API server, and stands for the ClusterProfile
// of its name.
func OfProfile(cluster *v1alpha1.TargetCluster) bool {
	return cluster.Kind == inventory.ClusterProfileKind
}

// endpoints returns the endpoint of the spec and, if the TargetCluster names a ClusterProfile, that
// of the ClusterProfile. A ClusterProfile has an endpoint for each of its access providers: with a
// plugin, that of the plugin counts.
func (f Fleet) endpoints(cluster *v1alpha1.TargetCluster) (endpoints, error) {
	known := endpoints{{Endpoint: specEndpoint(cluster)}}
	if f.Profile == nil {
		return known, nil
	}
	var at clusterprofile.Cluster
	if cluster.Spec.Access.Type == v1alpha1.AccessExec {
		plugin, err := f.plugin(cluster)
		if err != nil {
			return nil, err
		}
		at = plugin.Cluster
	} else {
		var err error
		if at, err = f.File.Cluster(f.Profile); err != nil {
			return nil, invalidProfile(err)
		}
	}
	return append(known, origin{Endpoint: at.Endpoint, object: "ClusterProfile " + f.Profile.Namespace + "/" + f.Profile.Name, public: true}), nil
}

func invalidProfile(err error) error {
	return &InvalidError{Reason: clusterprofile.Reason(err), Message: err.Error()}
}
