package injector

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/podview"
)

// RemovedFeatures reports which features of Config the earlier injection of a Pod used, and another
// webhook has removed. A webhook that decodes Pods into types of an older Kubernetes, and returns
// them, removes the fields that these types lack.
func RemovedFeatures(pod *Pod) (envFromFile, imageVolume bool) {
	text, injected := pod.Metadata.Annotations[AnnotationStatus]
	var status Status
	if !injected || json.Unmarshal([]byte(text), &status) != nil {
		return false, false
	}
	sidecar := sidecarContents(pod)
	if sidecar[RefresherContainer] == nil {
		return false, false
	}
	envFromFile = status.OnEndpointChange == OnEndpointChangeRestart &&
		(sidecar[RefresherContainer]["restartPolicyRules"] == nil || hasEmptyEnv(pod, status.Containers))
	imageVolume = pod.Spec.Volumes.Plugin.JSON != nil && sidecar[CopierContainer] == nil && sidecar[PluginContainer] == nil &&
		decodeObject(pod.Spec.Volumes.Plugin.JSON)["image"] == nil
	return envFromFile, imageVolume
}

// hasEmptyEnv reports whether one of the named containers has a variable of in-cluster clients
// without a value and without a source that Keyferry uses.
func hasEmptyEnv(pod *Pod, names []string) bool {
	isEmpty := func(e podview.Env) bool {
		return e.Name != podview.EnvKubeconfig && same(&e, &corev1.EnvVar{Name: e.Name})
	}
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c podview.Container) bool {
		return slices.Contains(names, c.Name) && slices.ContainsFunc(c.Env, isEmpty)
	})
}
