package e2e

import (
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestDebugAsTheApplication: a debug container works on the target with the application's
// credential, and so does a copy of the Pod.
func TestDebugAsTheApplication(t *testing.T) {
	t.Parallel()
	tn, ns, pod, said := workingPod(t)
	host, err := url.Parse(said.Host)
	if err != nil {
		t.Fatal(err)
	}
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	// The volume as a whole, since ephemeral containers may not mount with subPath: its directory
	// serviceaccount is then where clients look.
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debug", Image: suite.clientImage,
			Env: []corev1.EnvVar{
				{Name: "KUBERNETES_SERVICE_HOST", Value: host.Hostname()},
				{Name: "KUBERNETES_SERVICE_PORT", Value: host.Port()},
			},
			VolumeMounts: []corev1.VolumeMount{{Name: "keyferry-credentials", MountPath: "/var/run/secrets/kubernetes.io", ReadOnly: true}},
		},
	})
	if err := suite.management.SubResource("ephemeralcontainers").Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if debug := tn.works(t, ns, pod.Name, "debug"); debug.Host != said.Host {
		t.Errorf("the debug container's host is %s, the application's %s", debug.Host, said.Host)
	}

	suite.management.kubectl(t, "debug", pod.Name, "-n", ns, "--copy-to=copy", "--share-processes=false", "--set-image=client="+suite.clientImage)
	tn.works(t, ns, "copy", "client")
	copied := &corev1.Pod{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "copy"}, copied); err != nil {
		t.Fatal(err)
	}
	if len(copied.Spec.InitContainers) != len(pod.Spec.InitContainers) || len(copied.Spec.Volumes) != len(pod.Spec.Volumes) {
		t.Errorf("the copy has %d init containers and %d volumes, the Pod %d and %d",
			len(copied.Spec.InitContainers), len(copied.Spec.Volumes), len(pod.Spec.InitContainers), len(pod.Spec.Volumes))
	}
	notRestarted(t, pod)
}
