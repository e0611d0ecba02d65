package webhook

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// Feature is a feature that not every cluster supports, with the means to detect it.
type Feature struct {
	// Name is the name of the flag that overrides the detection.
	Name string
	help string // of the metric

	// use returns the spec of a Pod that uses the feature. dropped returns what the API server dropped
	// from such a spec. nodeLack returns what a node lacks. Both return the empty string if nothing is
	// missing.
	use      func() corev1.PodSpec
	dropped  func(*corev1.PodSpec) string
	nodeLack func(*corev1.Node) string
}

// restartAllContainers is the feature that nodes declare, named after its feature gate
// (k8s.io/component-helpers/nodedeclaredfeatures). Kubelets that have it (1.35; on by default since
// 1.36) also support variables from files, which are on by default since 1.35.
const restartAllContainers = "RestartAllContainersOnContainerExits"

// EnvFromFile is the feature of variables from files and the restart of all containers of a Pod.
func EnvFromFile() Feature {
	return Feature{
		Name: "env-from-file",
		help: "1 if the API server and all nodes support variables from files and the restart of all containers, else 0. With 1, Pods restart in place when the endpoint changes.",
		use: func() corev1.PodSpec {
			always := corev1.ContainerRestartPolicyAlways
			return corev1.PodSpec{
				Volumes: []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				InitContainers: []corev1.Container{{
					Name: "sidecar", Image: "probe", RestartPolicy: &always,
					RestartPolicyRules: []corev1.ContainerRestartRule{{
						Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
						ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
					}},
				}},
				Containers: []corev1.Container{{
					Name: "app", Image: "probe",
					Env: []corev1.EnvVar{{Name: "PROBE", ValueFrom: &corev1.EnvVarSource{
						FileKeyRef: &corev1.FileKeySelector{VolumeName: "files", Path: "env", Key: "PROBE"},
					}}},
				}},
			}
		},
		dropped: func(spec *corev1.PodSpec) string {
			sidecar, app := spec.InitContainers[0], spec.Containers[0]
			switch {
			case len(sidecar.RestartPolicyRules) == 0:
				return "the API server drops restartPolicyRules"
			case len(app.Env) == 0 || app.Env[0].ValueFrom == nil || app.Env[0].ValueFrom.FileKeyRef == nil:
				return "the API server drops fileKeyRef"
			}
			return ""
		},
		nodeLack: func(node *corev1.Node) string {
			if !slices.Contains(node.Status.DeclaredFeatures, restartAllContainers) {
				return fmt.Sprintf("(kubelet %s) does not declare %s", node.Status.NodeInfo.KubeletVersion, restartAllContainers)
			}
			return ""
		},
	}
}

// ImageVolume is the feature of images as volumes. Nodes do not declare it, so nodeLack compares
// versions: it is on by default since kubelet 1.35, and container runtimes support it from the
// versions below.
func ImageVolume() Feature {
	runtimes := map[string]*version.Version{"containerd": version.MajorMinor(2, 1), "cri-o": version.MajorMinor(1, 33)}
	return Feature{
		Name: "image-volume",
		help: "1 if the API server and all nodes support image volumes, else 0. With 0, plugins are copied into Pods.",
		use: func() corev1.PodSpec {
			return corev1.PodSpec{
				Volumes: []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "probe"}}}},
				Containers: []corev1.Container{{
					Name: "app", Image: "probe", VolumeMounts: []corev1.VolumeMount{{Name: "image", MountPath: "/image"}},
				}},
			}
		},
		dropped: func(spec *corev1.PodSpec) string {
			if len(spec.Volumes) == 0 || spec.Volumes[0].Image == nil {
				return "the API server drops volumes that are images"
			}
			return ""
		},
		nodeLack: func(node *corev1.Node) string {
			info := node.Status.NodeInfo
			name, number, _ := strings.Cut(info.ContainerRuntimeVersion, "://")
			if !isAtLeast(info.KubeletVersion, version.MajorMinor(1, 35)) || runtimes[name] == nil || !isAtLeast(number, runtimes[name]) {
				return fmt.Sprintf("(kubelet %s, %s) might not support images as volumes", info.KubeletVersion, info.ContainerRuntimeVersion)
			}
			return ""
		},
	}
}

func isAtLeast(text string, least *version.Version) bool {
	v, err := version.ParseGeneric(text)
	return err == nil && v.AtLeast(least)
}
