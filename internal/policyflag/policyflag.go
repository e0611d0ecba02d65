// Package policyflag defines the flags for an endpoint.Policy, which are the same in all programs.
package policyflag

import (
	"github.com/spf13/pflag"

	"github.com/keyferry/keyferry/endpoint"
)

const (
	allowLinkLocal    = "allow-link-local"
	allowLocal        = "allow-local-addresses"
	ambientNamespaces = "ambient-identity-namespaces"
)

// Add adds the flags, which set policy.
func Add(flags *pflag.FlagSet, policy *endpoint.Policy) {
	flags.BoolVar(&policy.AllowLinkLocal, allowLinkLocal, false, "allow targets with link-local addresses (clouds' metadata servers have such addresses)")
	flags.BoolVar(&policy.AllowLocal, allowLocal, false, "allow targets with loopback addresses (addresses of this program's Pod)")
	flags.StringSliceVar(&policy.AmbientNamespaces, ambientNamespaces, nil,
		"`namespaces` whose TargetClusters and ClusterProfiles may use the broker's own cloud identity (ambient credentials) and plugins in the broker")
}

// Override copies the fields of given whose flags were set to policy. changed reports whether a
// flag was set.
func Override(policy *endpoint.Policy, given endpoint.Policy, changed func(flag string) bool) {
	if changed(allowLinkLocal) {
		policy.AllowLinkLocal = given.AllowLinkLocal
	}
	if changed(allowLocal) {
		policy.AllowLocal = given.AllowLocal
	}
	if changed(ambientNamespaces) {
		policy.AmbientNamespaces = given.AmbientNamespaces
	}
}
