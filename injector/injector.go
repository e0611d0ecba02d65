// Package injector decides what becomes of an annotated Pod: a sidecar, two volumes, and in each chosen container a mount and
// three variables, so that "in-cluster" means another cluster there.
//
// It is pure: no I/O, no clock, no client. It reads a lean view of the Pod and answers with the few operations that it
// means, so whatever it does not know stays as it is.
package injector

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/podview"
)

// Names that a Pod must not use for anything else.
const (
	RefresherContainer = podview.RefresherContainer
	CredentialsVolume  = podview.CredentialsVolume
	IdentityVolume     = podview.IdentityVolume
)

// TrustConfigMap is the ConfigMap with the CA of the broker, in every namespace.
const TrustConfigMap = "keyferry-trust"

// Pod is as much of a Pod, or of a Pod template, as injection and admission read.
type Pod = podview.Pod

// DecodePod reads the JSON of a Pod, or of anything with the same metadata and spec, such as a Pod template.
func DecodePod(raw []byte) (*Pod, error) {
	return podview.Decode(raw)
}

// Config says what this installation injects.
type Config struct {
	// Image of the refresher. Required.
	Image string
	// ImagePullPolicy of the refresher. Empty leaves it to the API server.
	ImagePullPolicy corev1.PullPolicy
	// Resources of the refresher, unless the Pod says otherwise.
	Resources corev1.ResourceRequirements
	// BrokerURL is where the refresher asks, such as https://keyferry-broker.keyferry-system.svc. Required.
	BrokerURL string
	// BrokerAddress is the broker's ClusterIP, for Pods whose DNS does not know Services. Empty means that it is not known:
	// such Pods are refused.
	BrokerAddress string
	// EnvFromFile says that API server and nodes know env from files and the restart of all containers.
	EnvFromFile bool
	// RestartSpread is how long restarts after a move of the endpoint are spread over. Zero means DefaultRestartSpread.
	RestartSpread time.Duration
	// Version of Keyferry, for the status annotation.
	Version string
}

// DefaultRestartSpread is long enough that a typo in an endpoint can be mended before it has reached every Pod.
const DefaultRestartSpread = 5 * time.Minute

// Target is the cluster that a Pod is for, as resolved.
type Target struct {
	// Endpoint is the https URL of its API server.
	Endpoint string
	// Delivery is what the target comes to, Direct or Proxy (as in its status), and DeliveryReason why.
	Delivery       string
	DeliveryReason string
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
	Version          string           `json:"version,omitempty"`
	Clusters         []string         `json:"clusters"`
	Delivery         string           `json:"delivery"`
	DeliveryReason   string           `json:"deliveryReason,omitempty"`
	OnEndpointChange OnEndpointChange `json:"onEndpointChange"`
	Containers       []string         `json:"containers"`
}

// Inject returns what it takes to make pod act on target. For a Pod that is injected already, a mirror Pod and a Pod that asks
// for nothing (the zero Annotations) that is nothing; where another webhook added a container since, it is what that container lacks.
//
// An error is a sentence for the user who creates the Pod: it names the field or annotation, and the mend.
func Inject(pod *Pod, want Annotations, target Target, cfg Config) (Result, error) {
	if want.Cluster.Name == "" || pod.IsMirror() {
		return Result{}, nil
	}
	in, err := newInjection(pod, want, target, cfg)
	if err != nil {
		return Result{}, err
	}
	ops := make(operations, 0, 8+6*len(in.chosen))
	in.injectContainers(&ops)
	in.injectRefresher(&ops)
	in.injectVolumes(&ops)
	in.writeStatus(&ops)
	return Result{Operations: ops, Warnings: in.warnings()}, nil
}

// injection is what has been decided about one Pod. Everything that can fail has been tried when it is built.
type injection struct {
	pod    *Pod
	want   Annotations
	target Target
	cfg    Config

	// restart says that env comes from files and follows the endpoint; else both stay as they were.
	restart bool
	// chosen are the containers to inject: init containers first, in the order of the Pod.
	chosen []chosenContainer
	// env is what each chosen container gets.
	env [3]corev1.EnvVar
	// args of the refresher.
	args []string
}

func newInjection(pod *Pod, want Annotations, target Target, cfg Config) (*injection, error) {
	in := &injection{pod: pod, want: want, target: target, cfg: cfg}
	var problems problems
	if pod.Spec.Windows {
		problems.add("the Pod is for Windows nodes, which Keyferry does not support: run it on Linux or remove annotation %s", AnnotationCluster)
	}
	host, port, err := in.directEndpoint()
	if err != nil {
		problems.add("%w", err)
	}
	if in.restart, err = in.decideRestart(); err != nil {
		problems.add("%w", err)
	}
	if !pod.ResolvesServices() && cfg.BrokerAddress == "" {
		problems.add("the Pod's DNS does not know Services, and the ClusterIP of the broker is not known: set spec.dnsPolicy to %s, or to %s if spec.hostNetwork is true",
			corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet)
	}
	in.choose(&problems)
	in.env = environment(in.restart, host, port)
	in.args = in.refresherArgs()
	in.checkReserved(&problems)
	if err := problems.err(); err != nil {
		return nil, err
	}
	return in, nil
}

// directEndpoint returns the host and port that in-cluster clients make their URL of; they know neither path nor proxy.
func (in *injection) directEndpoint() (host, port string, err error) {
	if in.target.Delivery != targetDirect {
		return "", "", fmt.Errorf("TargetCluster %s needs delivery by proxy (%s), which is not supported by this version: give it an endpoint that in-cluster clients can express, a host and a port",
			in.want.Cluster, in.target.DeliveryReason)
	}
	u, err := url.Parse(in.target.Endpoint)
	if err != nil {
		return "", "", fmt.Errorf("endpoint of TargetCluster %s: %w", in.want.Cluster, err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return "", "", fmt.Errorf("endpoint of TargetCluster %s: %q is more or less than https://host:port, and in-cluster clients can express no other",
			in.want.Cluster, in.target.Endpoint)
	}
	if port = u.Port(); port == "" {
		port = "443"
	}
	return u.Hostname(), port, nil
}

// decideRestart: a restart starts a Pod's work again from its beginning, which only those Pods take lightly that restart always.
func (in *injection) decideRestart() (bool, error) {
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
		warnings = append(warnings, fmt.Sprintf("annotation %s is %s and the Pod's restartPolicy is %s: when the endpoint of %s moves, the Pod's work starts again from its beginning",
			AnnotationOnEndpointChange, OnEndpointChangeRestart, in.pod.Spec.RestartPolicy, in.want.Cluster))
	}
	for _, c := range in.chosen {
		if m := c.localMount(); m != nil && !strings.HasPrefix(m.Volume, "kube-api-access-") {
			warnings = append(warnings, fmt.Sprintf("container %s finds volume %s at %s: at %s it now finds the credentials for %s",
				c.Name, m.Volume, podview.LocalDir, podview.ServiceAccountDir, in.want.Cluster))
		}
		if slices.ContainsFunc(c.Env, func(e podview.Env) bool { return e.Name == podview.EnvKubeconfig }) {
			warnings = append(warnings, fmt.Sprintf("container %s sets KUBECONFIG: clients that read it do not act on %s", c.Name, in.want.Cluster))
		}
	}
	return warnings
}

func (in *injection) writeStatus(ops *operations) {
	status := Status{
		Version:          in.cfg.Version,
		Clusters:         []string{in.want.Cluster.String()},
		Delivery:         targetDirect,
		DeliveryReason:   in.target.DeliveryReason,
		OnEndpointChange: OnEndpointChangeIgnore,
		Containers:       make([]string, len(in.chosen)),
	}
	if in.restart {
		status.OnEndpointChange = OnEndpointChangeRestart
	}
	for i, c := range in.chosen {
		status.Containers[i] = c.Name
	}
	value, err := json.Marshal(status)
	if err != nil {
		panic(err) // strings only
	}
	annotations := in.pod.Metadata.Annotations
	switch {
	case len(annotations) == 0:
		ops.add("/metadata/annotations", map[string]string{AnnotationStatus: string(value)})
	case annotations[AnnotationStatus] != string(value):
		ops.add("/metadata/annotations/keyferry.dev~1status", string(value))
	}
}
