// Package injector decides what becomes of an annotated Pod: a sidecar, two volumes, and in each chosen container a mount and
// three variables, so that "in-cluster" means another cluster there.
//
// It is pure: no I/O, no clock, no client. It reads a lean view of the Pod and answers with the few operations that it
// means, so whatever it does not know stays as it is.
package injector

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Names that a Pod must not use for anything else.
const (
	// RefresherContainer is the sidecar.
	RefresherContainer = "keyferry-refresher"
	// CredentialsVolume holds what the refresher writes and the application reads.
	CredentialsVolume = "keyferry-credentials"
	// IdentityVolume holds what the refresher shows the broker, and what it knows the broker by.
	IdentityVolume = "keyferry-identity"
	// TrustConfigMap is the ConfigMap with the broker's CA, in every namespace.
	TrustConfigMap = "keyferry-trust"
)

// Config says what this installation injects; it is the same for every Pod.
type Config struct {
	// Image of the refresher. Required.
	Image string
	// ImagePullPolicy of the refresher. Empty leaves it to the API server.
	ImagePullPolicy corev1.PullPolicy
	// Resources of the refresher, unless the Pod says otherwise. Zero means DefaultResources.
	Resources corev1.ResourceRequirements
	// BrokerURL is where the refresher asks, such as https://keyferry-broker.keyferry-system.svc. Required.
	BrokerURL string
	// BrokerAddress is the broker's ClusterIP, for Pods whose DNS does not know Services. Empty means that it is not known:
	// such Pods are refused.
	BrokerAddress string
	// EnvFromFile says that API server and nodes know env from files and the restart of all containers.
	EnvFromFile bool
	// RestartSpread is how long restarts after a move of the endpoint are spread over. Zero means 5 minutes.
	RestartSpread time.Duration
	// Version of Keyferry, for the status annotation.
	Version string
}

// Target is the cluster that a Pod is for, as resolved.
type Target struct {
	// Endpoint is the https URL of its API server.
	Endpoint string
	// Delivery is what the target comes to, Direct or Proxy (as in its status), and DeliveryReason why.
	Delivery       string
	DeliveryReason string
}

// Operation is an operation of RFC 6902.
type Operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from,omitempty"`
	Value any    `json:"value,omitempty"`
}

// Result is what becomes of a Pod.
type Result struct {
	// Operations are to be applied in order. None means that there is nothing to do.
	Operations []Operation
	// Warnings are sentences for the user who creates the Pod.
	Warnings []string
}

// Inject returns what it takes to make pod act on target. For a Pod that is injected already, a mirror Pod and a Pod that asks
// for nothing (the zero Annotations) that is nothing; where another webhook added a container since, it is what that container lacks.
//
// An error is a sentence for the user who creates the Pod: it names the field or annotation, and the mend.
func Inject(pod *Pod, want Annotations, target Target, cfg Config) (Result, error) {
	panic("being written")
}
