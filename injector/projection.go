package injector

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/keyferry/keyferry/injector/podview"
)

// projected is CredentialsVolume where the kubelet fills it, and no sidecar. It names its mode,
// which the API server would fill in.
func projected(sources ...corev1.VolumeProjection) corev1.Volume {
	mode := corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: CredentialsVolume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: &mode},
	}}
}

// annotatedNamespace is the file namespace as AnnotationNamespace has it. It names its version,
// which the API server would fill in.
func annotatedNamespace() corev1.VolumeProjection {
	return corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
		Path:     "namespace",
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: fmt.Sprintf("metadata.annotations['%s']", AnnotationNamespace)},
	}}}}
}

// injectProjection adds the volume, or brings one up to date that is there: of a copied Pod, or by
// another version.
func (in *injection) injectProjection(ops *operations, want corev1.Volume) {
	switch there := in.pod.Spec.Volumes; {
	case there.Count == 0:
		ops.add("/spec/volumes", []any{want})
	case there.Credentials.JSON == nil:
		ops.add("/spec/volumes/-", want)
	case !equality.Semantic.DeepEqual(projection(there.Credentials), want.Projected):
		ops.replace(at("/spec", "/volumes/", there.Credentials.Index), want)
	default:
		return
	}
	in.noteRestored("volume", CredentialsVolume)
}

// projection returns what a volume projects; nil if it is not projected.
func projection(volume podview.Volume) *corev1.ProjectedVolumeSource {
	var decoded corev1.Volume
	if volume.JSON == nil || json.Unmarshal(volume.JSON, &decoded) != nil {
		return nil
	}
	return decoded.Projected
}

// checkProjection refuses what has our names and is not what Pods without a sidecar have, the
// sidecar of another injection among it. ours tells the volume by one of its sources, and pods
// names such Pods for messages.
func (in *injection) checkProjection(problems *problems, pods string, ours func(corev1.VolumeProjection) bool) {
	const mend = "rename yours; or, if the Pod is a copy of one that Keyferry has injected for another target, create it without what Keyferry has added"
	if in.pod.Spec.Volumes.Credentials.JSON != nil && in.previous == nil {
		if there := projection(in.pod.Spec.Volumes.Credentials); there == nil || !slices.ContainsFunc(there.Sources, ours) {
			problems.add("volume %s: the name is reserved for a volume that Keyferry adds: %s", CredentialsVolume, mend)
		}
	}
	if in.pod.HasContainer(RefresherContainer) {
		problems.add("container %s: the name is reserved for a sidecar of Keyferry, and %s have none: %s", RefresherContainer, pods, mend)
	}
}
