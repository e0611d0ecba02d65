// Package v1alpha1 is the API of keyferry.dev: what a user writes to make a cluster reachable for
// Pods.
//
// It holds types, their defaults and their validation rules (CEL, enforced by the API server), and
// no logic.
//
// +kubebuilder:object:generate=true
// +groupName=keyferry.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every type in this package.
var GroupVersion = schema.GroupVersion{Group: "keyferry.dev", Version: "v1alpha1"}

// BrokerAudience is the audience of the projected token that a Pod presents to the broker.
const BrokerAudience = "keyferry"

// AddToScheme adds the types of this package to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &TargetCluster{}, &TargetClusterList{}, &CredentialRequest{}, &CredentialRequestList{},
		&Lock{}, &LockList{}, &ClusterLock{}, &ClusterLockList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
