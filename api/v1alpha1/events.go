package v1alpha1

// Reasons of Events, besides those of conditions: where an object breaks, its Event has the
// condition's reason.
const (
	// EventCredentialRefused, on a Pod: it was refused a credential. It keeps its credential until
	// that expires, except with a lock and delivery by proxy.
	EventCredentialRefused = "CredentialRefused"

	// EventEndpointMoved, on a TargetCluster: its address is another one.
	EventEndpointMoved = "EndpointMoved"
	// EventClusterReplaced, on a TargetCluster: another cluster stands behind its name.
	EventClusterReplaced = "ClusterReplaced"
	// EventRecovered, on a TargetCluster or CredentialRequest: what was broken works again.
	EventRecovered = "Recovered"
	// EventRevocationGivenUp, on a CredentialRequest: a credential that is no longer used could not be
	// revoked, and is left to somebody.
	EventRevocationGivenUp = "RevocationGivenUp"

	// EventNameTaken, on the ConfigMap of federated Pods: somebody else has made it.
	EventNameTaken = "NameTaken"
	// EventNotKept, on a ConfigMap of Keyferry in the namespace of Pods: it cannot be written, because
	// a quota or policy denies it, or because it would be too large.
	EventNotKept = "NotKept"

	// EventAuthorityAnnounced, on the Secret of the builtin certificate authority: its successor is
	// published.
	EventAuthorityAnnounced = "AuthorityAnnounced"
	// EventAuthorityPromoted, on the same Secret: the successor signs.
	EventAuthorityPromoted = "AuthorityPromoted"
	// EventAuthorityReplaced, on the same Secret: a new one was made at once, since the old one is
	// lost.
	EventAuthorityReplaced = "AuthorityReplaced"
)
