package clusterprofile

import (
	"errors"
	"fmt"

	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
)

// ReasonInvalid is the reason of an error about a ClusterProfile or the provider file; see Reason.
const ReasonInvalid = "InvalidClusterProfile"

// Target is the cluster of a ClusterProfile that Pods use without a TargetCluster.
type Target struct {
	Plugin Plugin
	// Endpoint is checked, and its Server normalised.
	Endpoint endpoint.Endpoint
	// Delivery is Direct or Proxy, and DeliveryReason says why in a sentence.
	Delivery       endpoint.Delivery
	DeliveryReason string
}

// Target returns the cluster of a ClusterProfile, with the plugin that Select returns. An error
// names the ClusterProfile, the field and the fix; Reason returns its reason.
func (f *ProviderFile) Target(profile *inventory.ClusterProfile, policy endpoint.Policy) (Target, error) {
	plugin, err := f.Select(profile)
	if err != nil {
		return Target{}, err
	}
	if plugin.RunIn == v1alpha1.RunInBroker {
		if err := policy.CheckAmbient(fmt.Sprintf("provider %s of the provider file (runIn: Broker)", plugin.Name), profile.Namespace); err != nil {
			return Target{}, fmt.Errorf("ClusterProfile %s: %w", nameOf(profile), err)
		}
	}
	at := plugin.Cluster.Endpoint
	at.SystemRoots = !at.Has(endpoint.FieldCertificateAuthority)
	if at, err = policy.Check(at); err != nil {
		return Target{}, invalidCluster(profile, plugin.Name, err)
	}
	delivery, reason, err := endpoint.Deliver(endpoint.Auto, at, false)
	if err != nil {
		return Target{}, invalidCluster(profile, plugin.Name, err)
	}
	return Target{Plugin: plugin, Endpoint: at, Delivery: delivery, DeliveryReason: reason}, nil
}

// invalidCluster adds the ClusterProfile and the field to an *endpoint.Error.
func invalidCluster(profile *inventory.ClusterProfile, provider string, err error) error {
	field := "cluster"
	if wrong, ok := errors.AsType[*endpoint.Error](err); ok && wrong.Field != "" {
		field += "." + wrong.Field.Kubeconfig()
	}
	return fmt.Errorf("ClusterProfile %s: %s[%s].%s: %w: the cluster manager has to correct the ClusterProfile",
		nameOf(profile), entries(profile)[provider].field, provider, field, err)
}

// Reason returns the reason of an error of this package: that of an *endpoint.Error, or
// ReasonInvalid.
func Reason(err error) string {
	if wrong, ok := errors.AsType[*endpoint.Error](err); ok {
		return wrong.Reason
	}
	return ReasonInvalid
}
