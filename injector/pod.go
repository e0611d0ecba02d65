package injector

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Pod is as much of a Pod, or of a Pod template, as injection and admission read. Every field that is decoded costs at each
// admission: only what is needed is here.
type Pod struct {
	Metadata Metadata `json:"metadata"`
	Spec     Spec     `json:"spec"`
}

// Metadata is as much of a Pod's metadata as is read.
type Metadata struct {
	Name         string            `json:"name"`
	GenerateName string            `json:"generateName"`
	Namespace    string            `json:"namespace"`
	Annotations  map[string]string `json:"annotations"`
}

// Spec is as much of a Pod's spec as is read.
type Spec struct {
	ServiceAccountName string               `json:"serviceAccountName"`
	RestartPolicy      corev1.RestartPolicy `json:"restartPolicy"`
	DNSPolicy          corev1.DNSPolicy     `json:"dnsPolicy"`
	HostNetwork        bool                 `json:"hostNetwork"`
	OS                 struct {
		Name corev1.OSName `json:"name"`
	} `json:"os"`
	NodeSelector struct {
		OS string `json:"kubernetes.io/os"`
	} `json:"nodeSelector"`
	SecurityContext struct {
		RunAsUser *int64 `json:"runAsUser"`
	} `json:"securityContext"`
	Volumes        []Volume    `json:"volumes"`
	InitContainers []Container `json:"initContainers"`
	Containers     []Container `json:"containers"`
}

// Volume is as much of a volume as it takes to know ours.
type Volume struct {
	Name     string `json:"name"`
	EmptyDir struct {
		Medium corev1.StorageMedium `json:"medium"`
	} `json:"emptyDir"`
	Projected struct {
		Sources []struct {
			ServiceAccountToken struct {
				Audience string `json:"audience"`
			} `json:"serviceAccountToken"`
		} `json:"sources"`
	} `json:"projected"`
}

// Container is as much of a container as is read. The arguments are kept as they are: only those of the refresher matter.
type Container struct {
	Name          string                        `json:"name"`
	RestartPolicy corev1.ContainerRestartPolicy `json:"restartPolicy"`
	Args          json.RawMessage               `json:"args"`
	Env           []Env                         `json:"env"`
	VolumeMounts  []VolumeMount                 `json:"volumeMounts"`
}

// Env is as much of an environment variable as is read.
type Env struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	ValueFrom struct {
		FileKeyRef corev1.FileKeySelector `json:"fileKeyRef"`
	} `json:"valueFrom"`
}

// VolumeMount is as much of a volume mount as is read.
type VolumeMount struct {
	Name        string `json:"name"`
	MountPath   string `json:"mountPath"`
	ReadOnly    bool   `json:"readOnly"`
	SubPath     string `json:"subPath"`
	SubPathExpr string `json:"subPathExpr"`
}

// DecodePod reads the JSON of a Pod, or of anything with the same metadata and spec, such as a Pod template.
func DecodePod(raw []byte) (*Pod, error) {
	pod := new(Pod)
	if err := json.Unmarshal(raw, pod); err != nil {
		return nil, fmt.Errorf("decoding Pod: %w", err)
	}
	return pod, nil
}

// ServiceAccountName returns the name of the Pod's ServiceAccount, default where it names none.
func (p *Pod) ServiceAccountName() string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}

// IsMirror tells whether the Pod is the API server's picture of a Pod that a kubelet runs from a file: nothing that is changed
// in it reaches the kubelet.
func (p *Pod) IsMirror() bool {
	_, ok := p.Metadata.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// isWindows goes by the node selector, too: most Windows Pods say no more.
func (p *Pod) isWindows() bool {
	return p.Spec.OS.Name == corev1.Windows || p.Spec.NodeSelector.OS == string(corev1.Windows)
}

// resolvesServices tells whether the Pod's DNS knows the Services of the cluster.
func (p *Pod) resolvesServices() bool {
	switch p.Spec.DNSPolicy {
	case corev1.DNSClusterFirstWithHostNet:
		return true
	case corev1.DNSDefault, corev1.DNSNone:
		return false
	default:
		return !p.Spec.HostNetwork
	}
}

// restartsAlways goes by the API's default where the Pod says nothing.
func (p *Pod) restartsAlways() bool {
	return p.Spec.RestartPolicy == "" || p.Spec.RestartPolicy == corev1.RestartPolicyAlways
}

// containerNames returns the names of all containers but our own, for messages.
func (p *Pod) containerNames() string {
	var names []string
	for _, list := range [][]Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name != RefresherContainer {
				names = append(names, list[i].Name)
			}
		}
	}
	return strings.Join(names, ", ")
}

func (p *Pod) hasContainer(name string) bool {
	return indexOf(p.Spec.InitContainers, name) >= 0 || indexOf(p.Spec.Containers, name) >= 0
}

func (p *Pod) hasVolume(name string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v Volume) bool { return v.Name == name })
}

// indexOf returns the index of the container of that name, or -1.
func indexOf(containers []Container, name string) int {
	return slices.IndexFunc(containers, func(c Container) bool { return c.Name == name })
}
