package injector

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/keyferry/keyferry/injector/podview"
)

// projected returns CredentialsVolume for a Pod without a sidecar, where the kubelet writes the
// files. The mode is set explicitly, because the API server would add it, and the volumes are
// compared.
func projected(sources ...corev1.VolumeProjection) corev1.Volume {
	mode := corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: CredentialsVolume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: &mode},
	}}
}

// annotatedNamespace projects the file namespace from AnnotationNamespace. APIVersion is set
// explicitly, because the API server would add it, and the volumes are compared.
func annotatedNamespace() corev1.VolumeProjection {
	return corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
		Path:     "namespace",
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: fmt.Sprintf("metadata.annotations['%s']", AnnotationNamespace)},
	}}}}
}

// injectProjection adds the volume, or replaces the outdated volume of a copied Pod or another
// version.
func (in *injection) injectProjection(ops *operations, wanted corev1.Volume) {
	switch there := in.pod.Spec.Volumes; {
	case there.Count == 0:
		ops.add("/spec/volumes", []any{wanted})
	case there.Credentials.JSON == nil:
		ops.add("/spec/volumes/-", wanted)
	case !equality.Semantic.DeepEqual(projection(there.Credentials), wanted.Projected):
		ops.replace(at("/spec", "/volumes/", there.Credentials.Index), wanted)
	default:
		return
	}
	in.noteRestored("volume", CredentialsVolume)
}

// projection returns the projected source of a volume; nil if the volume is not projected.
func projection(volume podview.Volume) *corev1.ProjectedVolumeSource {
	var decoded corev1.Volume
	if volume.JSON == nil || json.Unmarshal(volume.JSON, &decoded) != nil {
		return nil
	}
	return decoded.Projected
}

// checkProjection adds a problem if a Pod that gets no sidecar has a container with the sidecar's
// name, or a volume with the name of Keyferry's volume and other content. ours recognizes the
// volume by one of its sources. reason is the reason why the Pod gets no sidecar.
func (in *injection) checkProjection(problems *problems, reason string, ours func(corev1.VolumeProjection) bool) {
	const fix = "rename yours; or, if the Pod is a copy of a Pod injected for another target, remove everything that Keyferry added"
	if in.pod.Spec.Volumes.Credentials.JSON != nil && in.previous == nil {
		if there := projection(in.pod.Spec.Volumes.Credentials); there == nil || !slices.ContainsFunc(there.Sources, ours) {
			problems.add("volume %s: the name is reserved for a volume that Keyferry adds: %s", CredentialsVolume, fix)
		}
	}
	if in.pod.HasContainer(RefresherContainer) {
		problems.add("container %s: the name is reserved for Keyferry's sidecar, and this Pod gets no sidecar, because %s: %s", RefresherContainer, reason, fix)
	}
}
