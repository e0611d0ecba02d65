// Package injector decides what becomes of an annotated Pod: a sidecar, two volumes, and in each
// chosen container a mount and three variables, so that "in-cluster" means another cluster there.
//
// It is pure: no I/O, no clock, no client. It reads a lean view of the Pod and answers with the few
// operations that it means, so whatever it does not know stays as it is.
package injector

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/injector/podview"
)

// Names that a Pod must not use for anything else.
const (
	RefresherContainer = podview.RefresherContainer
	CredentialsVolume  = podview.CredentialsVolume
	IdentityVolume     = podview.IdentityVolume
	ProxyVolume        = podview.ProxyVolume
	PluginVolume       = podview.PluginVolume
	CopierContainer    = podview.CopierContainer
	PluginContainer    = podview.PluginContainer
)

// TrustConfigMap is the ConfigMap with the CA of the broker, in every namespace.
const TrustConfigMap = "keyferry-trust"

// Pod is as much of a Pod, or of a Pod template, as injection and admission read.
type Pod = podview.Pod

// DecodePod reads the JSON of a Pod, or of anything with the same metadata and spec, such as a Pod
// template.
func DecodePod(raw []byte) (*Pod, error) {
	return podview.Decode(raw)
}

// ReadPod is DecodePod for what has been checked already, as a part of something else.
func ReadPod(raw jsonview.Valid) (*Pod, error) {
	return podview.Read(raw)
}

// Config says what this installation injects.
type Config struct {
	// Image of the refresher. Required.
	Image string
	// ImagePullPolicy of the refresher. Empty leaves it to the API server.
	ImagePullPolicy corev1.PullPolicy
	// Resources of the refresher, a corev1.ResourceRequirements as JSON: those that the Pod does not
	// name. Empty means none.
	Resources json.RawMessage
	// BrokerURL is where the refresher asks, such as https://keyferry-broker.keyferry-system.svc.
	// Required.
	BrokerURL string
	// BrokerAddress is the broker's ClusterIP, for Pods whose DNS does not know Services. Empty means
	// that it is not known: such Pods are refused.
	BrokerAddress string
	// EnvFromFile says that API server and nodes know env from files and the restart of all
	// containers.
	EnvFromFile bool
	// ImageVolume says that API server and nodes know volumes that are images.
	ImageVolume bool
	// RestartSpread is how long restarts after a move of the endpoint are spread over. Zero means
	// DefaultRestartSpread.
	RestartSpread time.Duration
	// Version of Keyferry, for the status annotation.
	Version string
}

// DefaultRestartSpread is long enough that a typo in an endpoint can be fixed before it has
// reached every Pod.
const DefaultRestartSpread = 5 * time.Minute

// Target is the cluster that a Pod is for, as resolved.
type Target struct {
	// Endpoint is the https URL of its API server.
	Endpoint string
	// Delivery is what the target comes to, Direct or Proxy (as in its status), and DeliveryReason
	// why.
	Delivery       string
	DeliveryReason string
	// Federation is set if the target accepts tokens of this cluster. Delivery and Endpoint do not
	// matter then.
	Federation Federation
	// Secret is the name of the Secret of a CredentialRequest, which holds the credential and the
	// endpoint; empty where the Pod asks for none. Nothing else but Namespace matters then.
	Secret string
	// SubjectAudience is the audience of the Pod's own token that the target's provider exchanges;
	// empty if it needs none.
	SubjectAudience string
	// Plugin issues the credential, in the Pod; nil leaves that to the broker.
	Plugin *Plugin
	// Namespace is where clients work that are not told otherwise.
	Namespace string
	// Further are the targets of Annotations.Clusters, in that order.
	Further []Target
}

// Values of Target.Delivery.
const (
	targetDirect = "Direct"
	targetProxy  = "Proxy"
)

// Result is what becomes of a Pod.
type Result struct {
	// Operations are to be applied in order. None means that there is nothing to do.
	Operations []Operation
	// Warnings are sentences for the user who creates the Pod.
	Warnings []string
}

// Status is the value of AnnotationStatus.
type Status struct {
	Version           string           `json:"version,omitempty"`
	Clusters          []string         `json:"clusters,omitempty"`
	ClusterProfile    string           `json:"clusterProfile,omitempty"`
	CredentialRequest string           `json:"credentialRequest,omitempty"`
	Delivery          string           `json:"delivery"`
	DeliveryReason    string           `json:"deliveryReason,omitempty"`
	OnEndpointChange  OnEndpointChange `json:"onEndpointChange,omitempty"`
	Containers        []string         `json:"containers"`
	// SubjectTokenAudiences are those of the tokens that the providers of targets exchange, by
	// TargetCluster.
	SubjectTokenAudiences map[string]string `json:"subjectTokenAudiences,omitempty"`
}

// Federated reports whether the Pod has a token of this cluster for the target, and no sidecar.
func (s Status) Federated() bool { return s.Delivery == statusFederation }

// HasSidecar reports whether the Pod has a refresher.
func (s Status) HasSidecar() bool {
	return s.Delivery != statusFederation && s.Delivery != statusSecret
}

// isForTargetsOf reports whether a Pod with one status is injected for the same targets, in the
// same way, as one with another.
func (s Status) isForTargetsOf(other Status) bool {
	return slices.Equal(s.Clusters, other.Clusters) && s.ClusterProfile == other.ClusterProfile && s.CredentialRequest == other.CredentialRequest &&
		s.Delivery == other.Delivery && s.OnEndpointChange == other.OnEndpointChange && maps.Equal(s.SubjectTokenAudiences, other.SubjectTokenAudiences)
}

// Inject returns what it takes to make pod act on target. For a Pod that is injected already, a
// mirror Pod and a Pod that asks for nothing (the zero Annotations) that is nothing; where another
// webhook added a container since, it is what that container lacks.
//
// An error is a sentence for the user who creates the Pod: it names the field or annotation, and
// the fix.
func Inject(pod *Pod, want Annotations, target Target, cfg Config) (Result, error) {
	if want.Empty() || pod.IsMirror() {
		return Result{}, nil
	}
	in, err := newInjection(pod, want, target, cfg)
	if err != nil {
		return Result{}, err
	}
	ops := make(operations, 0, 8+6*len(in.chosen))
	in.injectContainers(&ops)
	in.injectAdditions(&ops)
	in.writeStatus(&ops)
	return Result{Operations: ops, Warnings: in.warnings()}, nil
}

// injection is what has been decided about one Pod. Everything that can fail has been tried when it
// is built.
type injection struct {
	pod    *Pod
	want   Annotations
	target Target
	cfg    Config

	// delivery is targetDirect, targetProxy, statusFederation or statusSecret, and deliveryReason why.
	delivery, deliveryReason string
	// restart says that all containers are restarted when what they were told has changed; for direct
	// delivery, env comes from files then. Else everything stays as it was.
	restart bool
	// chosen are the containers to inject: init containers first, in the order of the Pod.
	chosen []chosenContainer
	// env is what each chosen container gets.
	env [3]corev1.EnvVar
	// resources of Keyferry's containers, as JSON encodes them; nil for none.
	resources any
	// sidecar is the refresher, last, and the init containers that it needs.
	sidecar []*container
	// subjects are the Pod's own tokens that the providers of its targets exchange, and audiences
	// theirs, by target.
	subjects  []podview.SubjectToken
	audiences map[string]string
	// keys of a federated target.
	keys FederationKeys

	// previous is the status that an earlier injection of the same kind has left; nil if there was
	// none. Then what has names of ours is ours.
	previous *Status
	// isRepeated says that the earlier injection was for the same targets.
	isRepeated bool
	// present are the init containers with names of ours.
	present []presentContainer
	// restored names what the Pod has lost since, if isRepeated.
	restored []string
}

// injectAdditions adds everything that does not belong to one of the Pod's own containers.
func (in *injection) injectAdditions(ops *operations) {
	switch {
	case in.federated():
		in.injectFederation(ops)
	case in.fromSecret():
		in.injectSecret(ops)
	default:
		in.injectSidecar(ops)
		in.injectVolumes(ops)
	}
}

func newInjection(pod *Pod, want Annotations, target Target, cfg Config) (*injection, error) {
	in := &injection{pod: pod, want: want, target: target, cfg: cfg}
	var problems problems
	if pod.Spec.Windows {
		problems.add("the Pod is for Windows nodes, which Keyferry does not support: run it on Linux or remove annotation %s", want.ClusterAnnotation())
	}
	switch {
	case in.federated():
		in.decideFederation(&problems)
		in.env = in.federationEnvironment()
	case in.fromSecret():
		in.decideSecret(&problems)
		in.env = in.secretEnvironment()
	default:
		in.decideSidecar(&problems)
		in.findPresent()
	}
	in.findPrevious()
	in.choose(&problems)
	in.checkReserved(&problems)
	if err := problems.err(); err != nil {
		return nil, err
	}
	in.isRepeated = in.previous != nil && in.previous.isForTargetsOf(in.status())
	return in, nil
}

// findPrevious fills in.previous. A copy of a Pod of another kind, with a sidecar or without one,
// has nothing that could stay.
func (in *injection) findPrevious() {
	recorded, ok := in.pod.Metadata.Annotations[AnnotationStatus]
	if !ok {
		return
	}
	previous := new(Status)
	if json.Unmarshal([]byte(recorded), previous) != nil || previous.HasSidecar() != in.hasSidecar() {
		return
	}
	if in.hasSidecar() || previous.Delivery == in.delivery {
		in.previous = previous
	}
}

// noteRestored records that a container or volume is restored, as a whole or, if there are any, the
// named parts.
func (in *injection) noteRestored(kind, name string, parts ...string) {
	if !in.isRepeated {
		return
	}
	what := kind + " " + name
	if len(parts) > 0 {
		what += ": " + strings.Join(parts, ", ")
	}
	in.restored = append(in.restored, what)
}

// hasSidecar reports whether the Pod is to have a refresher.
func (in *injection) hasSidecar() bool { return !in.federated() && !in.fromSecret() }

// decideSidecar decides all about the refresher and what it does for the containers.
func (in *injection) decideSidecar(problems *problems) {
	in.checkFurther(problems)
	in.decideSubjects()
	err := in.decideDelivery()
	if err != nil {
		problems.add("%w", err)
	}
	host, port, err := in.endpoint()
	if err != nil {
		problems.add("%w", err)
	}
	if in.restart, err = in.decideRestart(); err != nil {
		problems.add("%w", err)
	}
	if !in.pod.ResolvesServices() && in.cfg.BrokerAddress == "" {
		problems.add("the Pod's DNS does not know Services, and the ClusterIP of the broker is not known: set spec.dnsPolicy to %s, or to %s if spec.hostNetwork is true",
			corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet)
	}
	if err := in.decideResources(); err != nil {
		problems.add("%w", err)
	}
	in.env = environment(in.restart && in.delivery == targetDirect, host, port)
	in.sidecar = append(in.copiers(), in.refresher())
}

// decideDelivery: the Pod may ask for a proxy where none is needed, but not do without one that is.
func (in *injection) decideDelivery() error {
	in.delivery, in.deliveryReason = in.target.Delivery, in.target.DeliveryReason
	switch {
	case in.several():
		in.delivery, in.deliveryReason = targetProxy, "annotation "+AnnotationClusters+": every context leads through the proxy"
	case in.want.Delivery == DeliveryProxy && in.target.Delivery == targetDirect:
		in.delivery, in.deliveryReason = targetProxy, "annotation "+AnnotationDelivery+" asks for it"
	case in.want.Delivery == DeliveryDirect && in.target.Delivery == targetProxy:
		return fmt.Errorf("annotation %s: %s is not possible, as %s needs delivery by proxy (%s): use %s, or remove it",
			AnnotationDelivery, DeliveryDirect, in.want.ClusterName(), in.target.DeliveryReason, DeliveryProxy)
	}
	return nil
}

// endpoint returns the host and port that in-cluster clients make their URL of.
func (in *injection) endpoint() (host, port string, err error) {
	switch {
	case in.delivery == targetDirect:
		return in.directEndpoint()
	case in.delivery != targetProxy:
		return "", "", fmt.Errorf("%s needs delivery %q, which this version does not know: run the same version of keyferry-webhook and keyferry-controller",
			in.want.ClusterName(), in.delivery)
	case in.pod.Spec.HostNetwork:
		return "", "", in.hostNetworkProblem()
	case in.pod.Spec.SharesProcesses:
		return "", "", in.sharedProcessesProblem("shareProcessNamespace")
	case in.pod.Spec.HostPID:
		return "", "", in.sharedProcessesProblem("hostPID")
	default:
		return proxyHost, proxyPort, nil
	}
}

// directEndpoint returns those of the target: there must not be more than these.
func (in *injection) directEndpoint() (host, port string, err error) {
	u, err := url.Parse(in.target.Endpoint)
	if err != nil {
		return "", "", fmt.Errorf("endpoint of %s: %w", in.want.ClusterName(), err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return "", "", fmt.Errorf("endpoint of %s: %q is more or less than https://host:port, and in-cluster clients can express no other",
			in.want.ClusterName(), in.target.Endpoint)
	}
	if port = u.Port(); port == "" {
		port = "443"
	}
	return u.Hostname(), port, nil
}

// decideRestart: a restart starts a Pod's work again from its beginning, which only those Pods take
// lightly that restart always.
func (in *injection) decideRestart() (bool, error) {
	if !in.inCluster() {
		return false, nil
	}
	switch in.want.OnEndpointChange {
	case OnEndpointChangeIgnore:
		return false, nil
	case OnEndpointChangeRestart:
		if !in.cfg.EnvFromFile {
			return false, fmt.Errorf("annotation %s: %q is not possible in this cluster, whose API server or nodes lack env from files and the restart of all containers (Kubernetes 1.36 has both): use %s or remove it",
				AnnotationOnEndpointChange, OnEndpointChangeRestart, OnEndpointChangeIgnore)
		}
		return true, nil
	default:
		return in.cfg.EnvFromFile && in.pod.RestartsAlways(), nil
	}
}

func (in *injection) warnings() []string {
	var warnings []string
	if in.restart && !in.pod.RestartsAlways() {
		moves := "the endpoint of " + in.want.Cluster.String() + " moves"
		if in.delivery == targetProxy {
			moves = "the cluster behind " + in.want.Cluster.String() + " becomes another one"
		}
		warnings = append(warnings, fmt.Sprintf("annotation %s is %s and the Pod's restartPolicy is %s: when %s, the Pod's work starts again from its beginning",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, in.pod.Spec.RestartPolicy, moves))
	}
	if len(in.restored) > 0 {
		warnings = append(warnings, "Keyferry has restored what was removed or changed after it had injected the Pod: "+strings.Join(in.restored, "; "))
	}
	for _, name := range in.want.ExcludeContainers {
		if !isProxy(name) && !in.pod.HasContainer(name) {
			warnings = append(warnings, fmt.Sprintf("annotation %s: the Pod has no container %q yet: if no other webhook adds it, correct the name (the Pod has %s)",
				AnnotationExcludeContainers, name, in.pod.ContainerNames()))
		}
	}
	if in.losesGuaranteed() {
		warnings = append(warnings, fmt.Sprintf("container %s makes the Pod's QoS class Burstable, and its other containers lose exclusive CPUs: "+
			"to keep it Guaranteed, set annotation %s to %s", RefresherContainer, AnnotationRefresherResources, guaranteedResources))
	}
	for _, c := range in.chosen {
		warnings = append(warnings, in.mountWarnings(c)...)
		if m := c.localMount(); in.inCluster() && m != nil && !strings.HasPrefix(m.Volume, localVolumePrefix) {
			warnings = append(warnings, fmt.Sprintf("container %s finds volume %s at %s: at %s it now finds the credentials for %s",
				c.Name, m.Volume, podview.LocalDir, podview.ServiceAccountDir, in.want.Cluster))
		}
		if slices.ContainsFunc(c.Env, in.leadsElsewhere) {
			warnings = append(warnings, fmt.Sprintf("container %s sets KUBECONFIG: clients that read it do not act on %s", c.Name, in.clusterNames()))
		}
	}
	return warnings
}

func (in *injection) status() Status {
	status := Status{
		Version:               in.cfg.Version,
		Delivery:              in.delivery,
		DeliveryReason:        in.deliveryReason,
		OnEndpointChange:      OnEndpointChangeIgnore,
		Containers:            make([]string, len(in.chosen)),
		SubjectTokenAudiences: in.audiences,
	}
	switch {
	case in.want.ClusterProfile:
		status.ClusterProfile = in.want.Cluster.String()
	case in.want.CredentialRequest:
		status.CredentialRequest = in.want.Cluster.Name
	case in.inCluster():
		status.Clusters = []string{in.want.Cluster.String()}
	}
	for _, further := range in.want.Clusters {
		status.Clusters = append(status.Clusters, further.String())
	}
	switch {
	case !in.hasSidecar():
		status.OnEndpointChange = "" // a container that starts anew finds the target where it is now
	case !in.inCluster():
		status.OnEndpointChange = "" // no container is told an endpoint
	case in.restart:
		status.OnEndpointChange = OnEndpointChangeRestart
	}
	for i, c := range in.chosen {
		status.Containers[i] = c.Name
	}
	return status
}

func (in *injection) writeStatus(ops *operations) {
	value, err := json.Marshal(in.status())
	if err != nil {
		panic(err) // strings only
	}
	annotations := in.pod.Metadata.Annotations
	switch {
	case in.pod.Metadata.AnnotationCount == 0:
		ops.add("/metadata/annotations", map[string]string{AnnotationStatus: string(value)})
	case annotations[AnnotationStatus] != string(value):
		ops.add("/metadata/annotations/keyferry.dev~1status", string(value))
	}
}
