package injector

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Lacking returns the parts of an injection that an injected Pod lacks, such as "init container
// keyferry-refresher: restartPolicyRules". It compares the Pod with its own status annotation.
// Image, arguments and resources are not compared with this installation, because they depend on
// the version and configuration that injected the Pod. An error is a sentence about what conflicts
// with the injection.
func Lacking(pod *Pod) ([]string, error) {
	var status Status
	if err := json.Unmarshal([]byte(pod.Metadata.Annotations[AnnotationStatus]), &status); err != nil {
		return nil, fmt.Errorf("annotation %s is not valid: %w", AnnotationStatus, err)
	}
	requested, err := ParseAnnotations(pod.Metadata.Annotations, pod.Metadata.Namespace)
	if err != nil {
		return nil, err
	}
	if requested.Empty() {
		return nil, errors.New("the Pod has no annotation with a cluster")
	}
	requested.Containers, requested.ExcludeContainers, requested.RefresherResources = []string{}, nil, nil
	var missing []string
	for _, name := range status.Containers {
		if pod.HasContainer(name) {
			requested.Containers = append(requested.Containers, name)
		} else {
			missing = append(missing, "container "+name)
		}
	}
	if len(requested.Containers) == 0 {
		return missing, nil
	}
	if status.OnEndpointChange != "" {
		requested.OnEndpointChange = status.OnEndpointChange
	}
	made := madeWith{pod, status, sidecarContents(pod)}
	in, err := newInjection(pod, requested, made.target(requested), made.config())
	if err != nil {
		return nil, err
	}
	in.isRepeated = true
	for _, c := range in.sidecar {
		if args := textsOf(made.sidecar[c.Name]["args"]); len(args) > 0 {
			c.Args = args
		}
	}
	var ops operations
	in.injectContainers(&ops)
	in.injectAdditions(&ops)
	return append(missing, in.restored...), nil
}

// sidecarContents returns Keyferry's init containers by name.
func sidecarContents(pod *Pod) map[string]object {
	contents := map[string]object{}
	for _, c := range pod.Spec.InitContainers {
		if c.JSON != nil {
			contents[c.Name] = decodeObject(c.JSON)
		}
	}
	return contents
}

func textsOf(list any) []string {
	var texts []string
	elements, _ := list.([]any)
	for _, element := range elements {
		text, _ := element.(string)
		texts = append(texts, text)
	}
	return texts
}

// madeWith reconstructs the Config and Target with which a Pod was injected.
type madeWith struct {
	pod     *Pod
	status  Status
	sidecar map[string]object
}

// unknown replaces values that cannot be reconstructed: arguments are not compared, and the rest is
// lost.
const unknown = "unknown"

func (m madeWith) config() Config {
	return Config{
		Image:         m.image(RefresherContainer),
		BrokerURL:     unknown,
		BrokerAddress: unknown,
		EnvFromFile:   m.status.OnEndpointChange == OnEndpointChangeRestart,
		ImageVolume:   m.sidecar[CopierContainer] == nil && m.sidecar[PluginContainer] == nil,
	}
}

func (m madeWith) image(container string) string {
	image, _ := m.sidecar[container]["image"].(string)
	return cmp.Or(image, unknown)
}

func (m madeWith) target(requested Annotations) Target {
	target := Target{Namespace: unknown, Delivery: m.status.Delivery, Endpoint: "https://" + unknown}
	switch {
	case m.status.Federated():
		target.Federation = m.federation()
	case !m.status.HasSidecar():
		target.Secret = m.secret()
	}
	if requested.Cluster.Name != "" {
		target.SubjectAudience = m.status.SubjectTokenAudiences[requested.Cluster.String()]
	}
	for _, further := range requested.Clusters {
		target.Further = append(target.Further, Target{Namespace: unknown, SubjectAudience: m.status.SubjectTokenAudiences[further.String()]})
	}
	for _, arg := range textsOf(m.sidecar[RefresherContainer]["args"]) {
		if endpoint, ok := strings.CutPrefix(arg, "--endpoint="); ok {
			target.Endpoint = endpoint
		}
		if arg == "--plugin" {
			target.Plugin = &Plugin{Image: m.pluginImage(), Command: "/" + unknown}
			break // the remaining arguments are the plugin's
		}
	}
	return target
}

func (m madeWith) pluginImage() string {
	volume := decodeObject(m.pod.Spec.Volumes.Plugin.JSON)
	if image, ok := valueOf(volume["image"], "reference").(string); ok {
		return image
	}
	return m.image(PluginContainer)
}

func (m madeWith) federation() Federation {
	for _, source := range m.projected() {
		if token := source.ServiceAccountToken; token != nil && token.ExpirationSeconds != nil {
			return Federation{Audience: cmp.Or(token.Audience, unknown), Duration: &metav1.Duration{Duration: time.Duration(*token.ExpirationSeconds) * time.Second}}
		}
	}
	return Federation{Audience: unknown}
}

func (m madeWith) secret() string {
	for _, source := range m.projected() {
		if source.Secret != nil && source.Secret.Name != "" {
			return source.Secret.Name
		}
	}
	return unknown
}

func (m madeWith) projected() []corev1.VolumeProjection {
	if volume := projection(m.pod.Spec.Volumes.Credentials); volume != nil {
		return volume.Sources
	}
	return nil
}
