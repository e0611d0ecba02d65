package e2e

import (
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// eachDelivery runs a test with a Pod whose clients connect to the target, and with one whose
// clients connect to the proxy.
func eachDelivery(t *testing.T, test func(t *testing.T, tn tenant, ns string, pod *corev1.Pod, said report)) {
	t.Helper()
	for name, byProxy := range map[string]bool{"direct": false, "proxy": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			if byProxy {
				tn.applyTargetCluster(t, "{server: '"+tn.Server+"', tlsServerName: kubernetes.default.svc}")
				tn.waitFor(t, "Ready", "True")
			}
			ns, pod, said := tn.workingPod(t)
			if (said.Host == loopback) != byProxy {
				t.Fatalf("the client's host is %s", said.Host)
			}
			test(t, tn, ns, pod, said)
			notRestarted(t, pod)
		})
	}
}

// TestDebugAsTheApplication: a debug container works on the target with the application's
// credential.
func TestDebugAsTheApplication(t *testing.T) {
	t.Parallel()
	eachDelivery(t, func(t *testing.T, tn tenant, ns string, pod *corev1.Pod, said report) {
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
	})
}

// TestCopyOfAPod: a copy works on the target, and so does its debug container.
func TestCopyOfAPod(t *testing.T) {
	t.Parallel()
	eachDelivery(t, func(t *testing.T, tn tenant, ns string, pod *corev1.Pod, said report) {
		suite.management.kubectl(t, "debug", pod.Name, "-n", ns, "--copy-to=copy", "--keep-annotations", "--share-processes=false",
			"--profile=general", "--image="+suite.clientImage, "--container=debug", "--attach=false")
		for _, container := range []string{"client", "debug"} {
			if copied := tn.works(t, ns, "copy", container); copied.Host != said.Host {
				t.Errorf("the host of container %s is %s, want %s", container, copied.Host, said.Host)
			}
		}
	})
}
