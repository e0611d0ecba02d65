package e2e

import (
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestDebugAsTheApplication: a debug container works on the target with the application's
// credential.
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
	notRestarted(t, pod)
}

// TestCopyOfAPod: a copy works on the target, and so does its debug container.
func TestCopyOfAPod(t *testing.T) {
	t.Parallel()
	tn, ns, pod, said := workingPod(t)
	suite.management.kubectl(t, "debug", pod.Name, "-n", ns, "--copy-to=copy", "--keep-annotations", "--share-processes=false",
		"--profile=general", "--image="+suite.clientImage, "--container=debug", "--attach=false")
	for _, container := range []string{"client", "debug"} {
		if copied := tn.works(t, ns, "copy", container); copied.Host != said.Host {
			t.Errorf("the host of container %s is %s, want %s", container, copied.Host, said.Host)
		}
	}
	notRestarted(t, pod)
}
