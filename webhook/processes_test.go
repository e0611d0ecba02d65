package webhook

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// TestPodThatReachesTheSidecarIsDenied: with delivery by proxy, only the sidecar has the target's
// credential. Other containers must not see the sidecar's processes or mount its volumes.
func TestPodThatReachesTheSidecarIsDenied(t *testing.T) {
	account := types.NamespacedName{Namespace: "app", Name: "web"}
	proxied := ready()
	proxied.Delivery, proxied.DeliveryReason = v1alpha1.DeliveryProxy, "spec.endpoint.proxyURL is set"
	targetCluster(t, "proxied", proxied)
	targetCluster(t, "direct", ready())
	grant(t, account, "proxied")
	grant(t, account, "direct")

	for name, test := range map[string]struct {
		change func(*corev1.PodSpec)
		want   string
		always bool // also with direct delivery
	}{
		"processes of the Pod": {func(s *corev1.PodSpec) { yes := true; s.ShareProcessNamespace = &yes },
			"spec.shareProcessNamespace is true and the delivery is by proxy (spec.endpoint.proxyURL is set), so other containers can read the target's credential", false},
		"processes of the node": {func(s *corev1.PodSpec) { s.HostPID = true },
			"spec.hostPID is true and the delivery is by proxy (spec.endpoint.proxyURL is set), so other containers can read the target's credential", false},
		"the Pod's token": {func(s *corev1.PodSpec) {
			s.Containers[0].VolumeMounts = append(s.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "keyferry-identity", MountPath: "/a"})
		}, "mounts volume keyferry-identity, which only Keyferry's sidecar may mount: remove the mount", true},
		"the proxy's key, in an init container": {func(s *corev1.PodSpec) {
			s.InitContainers = append(s.InitContainers, corev1.Container{Name: "init", Image: "a", VolumeMounts: []corev1.VolumeMount{{Name: "keyferry-proxy", MountPath: "/a", SubPath: "b"}}})
		}, "container init mounts volume keyferry-proxy, which only Keyferry's sidecar may mount: remove the mount", true},
	} {
		t.Run(name, func(t *testing.T) {
			p := running("web", pod("app", annotated("cluster", "fleet/proxied")))
			test.change(&p.Spec)
			if denial := createDenied(t, p); !strings.Contains(denial.Message, test.want) {
				t.Errorf("got %s", denial.Message)
			}
			p = running("web", pod("app", annotated("cluster", "fleet/direct")))
			test.change(&p.Spec)
			if err := api.client.Create(t.Context(), p, client.DryRunAll); (err != nil) != test.always {
				t.Errorf("with direct delivery: %v", err)
			}
		})
	}
}
