// Package injector computes the changes to an annotated Pod: a sidecar, two volumes, and in each
// chosen container a mount and three variables, which make in-cluster clients use another cluster.
//
// The package does no I/O and has no clock and no client. It reads only the fields of a Pod that it
// needs, and returns JSON Patch operations, so fields that it does not know stay unchanged.
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

// Names that Keyferry reserves in a Pod.
const (
	RefresherContainer = podview.RefresherContainer
	CredentialsVolume  = podview.CredentialsVolume
	IdentityVolume     = podview.IdentityVolume
	ProxyVolume        = podview.ProxyVolume
	PluginVolume       = podview.PluginVolume
	CopierContainer    = podview.CopierContainer
	PluginContainer    = podview.PluginContainer
)

// TrustConfigMap is the ConfigMap with the CA of the broker. It is in every namespace.
const TrustConfigMap = "keyferry-trust"

// Pod contains the fields of a Pod or Pod template that injection and admission need.
type Pod = podview.Pod

// DecodePod decodes the JSON of a Pod, or of another object with the same metadata and spec, such
// as a Pod template.
func DecodePod(raw []byte) (*Pod, error) {
	return podview.Decode(raw)
}

// ReadPod is DecodePod for JSON that is already validated, as a part of another document.
func ReadPod(raw jsonview.Valid) (*Pod, error) {
	return podview.Read(raw)
}

// Config configures injection for an installation.
type Config struct {
	// Image of the refresher. Required.
	Image string
	// ImagePullPolicy of the refresher. Empty leaves it to the API server.
	ImagePullPolicy corev1.PullPolicy
	// Resources of the refresher: a corev1.ResourceRequirements as JSON. The Pod's annotation
	// overrides single resources. Empty means none.
	Resources json.RawMessage
	// BrokerURL is the URL of the broker, such as https://keyferry-broker.keyferry-system.svc.
	// Required.
	BrokerURL string
	// BrokerAddress is the broker's ClusterIP, for Pods whose DNS does not resolve Services. If it is
	// empty, such Pods are denied.
	BrokerAddress string
	// EnvFromFile reports whether the API server and the nodes support variables from files and the
	// restart of all containers.
	EnvFromFile bool
	// ImageVolume reports whether the API server and the nodes support images as volumes.
	ImageVolume bool
	// RestartSpread is the longest time that a refresher waits before it restarts its Pod for a new
	// endpoint. Zero means that it does not wait.
	RestartSpread time.Duration
	// Version of Keyferry, for the status annotation.
	Version string
}

// DefaultRestartSpread leaves time to fix a typo in an endpoint before all Pods have restarted.
const DefaultRestartSpread = 5 * time.Minute

// Target is the resolved cluster of a Pod.
type Target struct {
	// Endpoint is the https URL of the API server.
	Endpoint string
	// Delivery is Direct or Proxy, as in the status of the TargetCluster. DeliveryReason is the reason
	// for it.
	Delivery       string
	DeliveryReason string
	// Federation is set if the target accepts tokens of this cluster. Then Delivery and Endpoint are
	// not used.
	Federation Federation
	// Secret is the name of the Secret of a CredentialRequest, with the credential and the endpoint.
	// It is empty if the Pod names no CredentialRequest. If it is set, only Namespace is used of the
	// other fields.
	Secret string
	// SubjectAudience is the audience of the Pod's token that the target's provider exchanges. It is
	// empty if the provider needs no such token.
	SubjectAudience string
	// Plugin issues the credential in the Pod. If it is nil, the broker issues the credential.
	Plugin *Plugin
	// Namespace is the default namespace of clients.
	Namespace string
	// Further are the targets of Annotations.Clusters, in the same order.
	Further []Target
}

// Values of Target.Delivery.
const (
	targetDirect = "Direct"
	targetProxy  = "Proxy"
)

// Result is the result of Inject.
type Result struct {
	// Operations are applied in order. If there are none, the Pod stays unchanged.
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
	// SubjectTokenAudiences maps TargetClusters to the audience of the Pod's token that the
	// TargetCluster's provider exchanges.
	SubjectTokenAudiences map[string]string `json:"subjectTokenAudiences,omitempty"`
}

// Federated reports whether the target accepts tokens of this cluster. Then the Pod has no sidecar.
func (s Status) Federated() bool { return s.Delivery == statusFederation }

// HasSidecar reports whether the Pod has a refresher.
func (s Status) HasSidecar() bool {
	return s.Delivery != statusFederation && s.Delivery != statusSecret
}

// isForTargetsOf reports whether two statuses describe injections for the same targets and with the
// same delivery.
func (s Status) isForTargetsOf(other Status) bool {
	return slices.Equal(s.Clusters, other.Clusters) && s.ClusterProfile == other.ClusterProfile && s.CredentialRequest == other.CredentialRequest &&
		s.Delivery == other.Delivery && s.OnEndpointChange == other.OnEndpointChange && maps.Equal(s.SubjectTokenAudiences, other.SubjectTokenAudiences)
}

// Inject returns the operations that make in-cluster clients of a Pod use target. There are none
// for a Pod that is already injected, for a mirror Pod, and for the zero Annotations. If another
// webhook has added a container, or removed or changed a part of an earlier injection, the
// operations inject or restore only that.
//
// An error is a sentence for the user who creates the Pod: it names the field or annotation, and
// the fix. A Pod that exceeds a limit, as in Pod.Exceeded, is an error.
func Inject(pod *Pod, requested Annotations, target Target, cfg Config) (Result, error) {
	if requested.Empty() || pod.IsMirror() {
		return Result{}, nil
	}
	in, err := newInjection(pod, requested, target, cfg)
	if err != nil {
		return Result{}, err
	}
	ops := make(operations, 0, 8+6*len(in.chosen))
	in.injectContainers(&ops)
	in.injectAdditions(&ops)
	in.writeStatus(&ops)
	return Result{Operations: ops, Warnings: in.warnings()}, nil
}

// injection contains all decisions about one Pod. newInjection does everything that can fail.
type injection struct {
	pod       *Pod
	requested Annotations
	target    Target
	cfg       Config

	// delivery is targetDirect, targetProxy, statusFederation or statusSecret; deliveryReason is the
	// reason for it.
	delivery, deliveryReason string
	// restart reports whether the refresher restarts all containers if the endpoint changes. With
	// direct delivery, the variables are then read from a file. If restart is false, endpoint and
	// variables never change.
	restart bool
	// chosen are the containers to inject: init containers first, in the order of the Pod.
	chosen []chosenContainer
	// env are the variables that each chosen container gets.
	env [3]corev1.EnvVar
	// resources of Keyferry's containers, as JSON encodes them; nil for none.
	resources any
	// sidecar contains the refresher as the last element, after the init containers that it needs.
	sidecar []*container
	// subjects are the Pod's tokens that the providers of its targets exchange. audiences maps targets
	// to the audience of their token.
	subjects  []podview.SubjectToken
	audiences map[string]string
	// keys of a federated target in FederationConfigMap.
	keys FederationKeys

	// previous is the status of an earlier injection of the same kind; nil if there was none. If it is
	// set, containers and volumes with Keyferry's names are Keyferry's.
	previous *Status
	// injected are the containers that the earlier injection included.
	injected map[string]bool
	// isRepeated reports whether the earlier injection was for the same targets.
	isRepeated bool
	// present are the Pod's init containers with Keyferry's names.
	present []presentContainer
	// restored names what the Pod has lost since the earlier injection, if isRepeated.
	restored []string
	// mountpoints are the volumes that a container mounts above a directory of Keyferry.
	mountpoints map[string]mountpoint
}

// injectAdditions adds everything outside the Pod's own containers.
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

func newInjection(pod *Pod, requested Annotations, target Target, cfg Config) (*injection, error) {
	if pod.Exceeded != nil {
		return nil, pod.Exceeded
	}
	in := &injection{pod: pod, requested: requested, target: target, cfg: cfg}
	var problems problems
	if pod.Spec.Windows {
		problems.add("the Pod is for Windows nodes, which Keyferry does not support: run it on Linux or remove annotation %s", requested.ClusterAnnotation())
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

// findPrevious sets in.previous. It ignores the status of an injection of another kind (with or
// without a sidecar), because none of its changes can stay in the Pod.
func (in *injection) findPrevious() {
	recorded, ok := in.pod.Metadata.Annotations[AnnotationStatus]
	if !ok {
		return
	}
	previous := new(Status)
	if json.Unmarshal([]byte(recorded), previous) != nil || previous.HasSidecar() != in.hasSidecar() {
		return
	}
	if !in.hasSidecar() && previous.Delivery != in.delivery {
		return
	}
	in.previous, in.injected = previous, make(map[string]bool, len(previous.Containers))
	for _, name := range previous.Containers {
		in.injected[name] = true
	}
}

// noteRestored records that a container or volume, or only the named parts of it, was restored.
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

// hasSidecar reports whether the Pod gets a refresher.
func (in *injection) hasSidecar() bool { return !in.federated() && !in.fromSecret() }

// decideSidecar makes all decisions about the refresher and the files and variables that it
// provides.
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
		problems.add("the Pod's DNS does not resolve Services, and the broker's ClusterIP is not configured: set spec.dnsPolicy to %s, or to %s if spec.hostNetwork is true",
			corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet)
	}
	if err := in.decideResources(); err != nil {
		problems.add("%w", err)
	}
	in.env = environment(in.restart && in.delivery == targetDirect, host, port)
	in.sidecar = append(in.copiers(), in.refresher())
}

// decideDelivery sets the delivery. A Pod may request the proxy for a target that does not need it,
// but not direct delivery for a target that needs the proxy.
func (in *injection) decideDelivery() error {
	in.delivery, in.deliveryReason = in.target.Delivery, in.target.DeliveryReason
	switch {
	case in.several():
		in.delivery, in.deliveryReason = targetProxy, "annotation "+AnnotationClusters+": every context leads through the proxy"
	case in.requested.Delivery == DeliveryProxy && in.target.Delivery == targetDirect:
		in.delivery, in.deliveryReason = targetProxy, "annotation "+AnnotationDelivery+" is "+string(DeliveryProxy)
	case in.requested.Delivery == DeliveryDirect && in.target.Delivery == targetProxy:
		return fmt.Errorf("annotation %s: %s is not possible, because %s needs delivery by proxy (%s): use %s, or remove the annotation",
			AnnotationDelivery, DeliveryDirect, in.requested.ClusterName(), in.target.DeliveryReason, DeliveryProxy)
	}
	return nil
}

// endpoint returns the host and port for the variables of in-cluster clients.
func (in *injection) endpoint() (host, port string, err error) {
	switch {
	case in.delivery == targetDirect:
		return in.directEndpoint()
	case in.delivery != targetProxy:
		return "", "", fmt.Errorf("%s needs delivery %q, which this version of Keyferry does not support: run the same version of keyferry-webhook and keyferry-controller",
			in.requested.ClusterName(), in.delivery)
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

// directEndpoint returns the host and port of the target. In-cluster clients support nothing else
// in a URL.
func (in *injection) directEndpoint() (host, port string, err error) {
	u, err := url.Parse(in.target.Endpoint)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("endpoint of %s: %w", in.requested.ClusterName(), err)
	case u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil:
		return "", "", fmt.Errorf("endpoint of %s: %q is not a URL of the form https://host:port: correct the endpoint",
			in.requested.ClusterName(), u.Redacted())
	case u.Path != "" && u.Path != "/":
		return "", "", fmt.Errorf("endpoint of %s: in-cluster clients do not support the path %s: set annotation %s to %s, or spec.delivery of the TargetCluster to Proxy",
			in.requested.ClusterName(), u.Path, AnnotationDelivery, DeliveryProxy)
	}
	if port = u.Port(); port == "" {
		port = "443"
	}
	return u.Hostname(), port, nil
}

// decideRestart reports whether a change of the endpoint restarts the Pod's containers. By default
// it does not in a Pod that runs to completion: its work would start from the beginning.
func (in *injection) decideRestart() (bool, error) {
	if !in.inCluster() {
		return false, nil
	}
	switch in.requested.OnEndpointChange {
	case OnEndpointChangeIgnore:
		return false, nil
	case OnEndpointChangeRestart:
		if !in.cfg.EnvFromFile {
			return false, fmt.Errorf("annotation %s: %q is not possible in this cluster: it needs an API server and nodes that support variables from files and the restart of all containers (on by default since Kubernetes 1.36): use %s, or remove the annotation",
				AnnotationOnEndpointChange, OnEndpointChangeRestart, OnEndpointChangeIgnore)
		}
		return true, nil
	default:
		return in.cfg.EnvFromFile && in.pod.RestartsAlways(), nil
	}
}

func (in *injection) warnings() []string {
	var found warnings
	if in.restart && !in.pod.RestartsAlways() {
		change := "the endpoint of " + in.requested.Cluster.String() + " changes"
		if in.delivery == targetProxy {
			change = "another cluster answers at the endpoint of " + in.requested.Cluster.String()
		}
		found.add("annotation %s is %s and the Pod's restartPolicy is %s: if %s, all containers restart and start their work from the beginning",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, in.pod.Spec.RestartPolicy, change)
	}
	if len(in.restored) > 0 {
		found.add("Keyferry restored parts of its earlier injection that were missing or different: %s", strings.Join(in.restored, "; "))
	}
	for _, name := range in.requested.ExcludeContainers {
		if !isProxy(name) && !in.pod.HasContainer(name) {
			found.add("annotation %s: the Pod has no container %q yet: if no other webhook adds it, correct the name (the Pod has %s)",
				AnnotationExcludeContainers, name, in.pod.ContainerNames())
		}
	}
	if in.losesGuaranteed() {
		found.add("container %s makes the Pod's QoS class Burstable, and its other containers lose exclusive CPUs: "+
			"to keep the Pod Guaranteed, set annotation %s to %s", RefresherContainer, AnnotationRefresherResources, guaranteedResources)
	}
	in.warnOfPodLevel(&found)
	in.warnOfPorts(&found)
	for _, c := range in.chosen {
		in.warnOfMounts(c, &found)
		if m := c.localMount(); in.inCluster() && m != nil && !strings.HasPrefix(m.Volume, localVolumePrefix) {
			found.add("container %s: volume %s is now mounted at %s, because %s has the credentials for %s",
				c.Name, m.Volume, podview.LocalDir, podview.ServiceAccountDir, in.requested.Cluster)
		}
		if slices.ContainsFunc(c.Env, in.leadsElsewhere) {
			found.add("container %s sets KUBECONFIG: clients that read this variable do not use %s", c.Name, in.clusterNames())
		}
	}
	if len(found) > maxProblems {
		found = append(found[:maxProblems], "and more")
	}
	return found
}

// warnings collects sentences for the user who creates the Pod.
type warnings []string

// add ignores warnings that users would not see.
func (w *warnings) add(format string, args ...any) {
	if len(*w) <= maxProblems {
		*w = append(*w, fmt.Sprintf(format, args...))
	}
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
	case in.requested.ClusterProfile:
		status.ClusterProfile = in.requested.Cluster.String()
	case in.requested.CredentialRequest:
		status.CredentialRequest = in.requested.Cluster.Name
	case in.inCluster():
		status.Clusters = []string{in.requested.Cluster.String()}
	}
	for _, further := range in.requested.Clusters {
		status.Clusters = append(status.Clusters, further.String())
	}
	switch {
	case !in.hasSidecar():
		status.OnEndpointChange = "" // a container that starts reads the current endpoint
	case !in.inCluster():
		status.OnEndpointChange = "" // no container has variables of an endpoint
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
