package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// sidecarUser is the user that the refresher's image names.
const sidecarUser = 65532

// TestSidecarIsOutOfReach: a container with the sidecar's user, and the right to trace processes,
// does not get to the sidecar's files in a Pod with delivery by proxy, unless the containers share
// their processes: then the Pod is denied. With direct delivery such a Pod runs, which shows that
// the container looks for the files where they are.
func TestSidecarIsOutOfReach(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")

	for name, change := range map[string]func(*corev1.PodSpec){
		"shareProcessNamespace": func(s *corev1.PodSpec) { yes := true; s.ShareProcessNamespace = &yes },
		"hostPID":               func(s *corev1.PodSpec) { s.HostPID = true },
	} {
		pod := tn.snoop(ns, name, "proxy")
		change(&pod.Spec)
		err := suite.management.Create(t.Context(), pod, client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "spec."+name+" is true and the delivery is by proxy") {
			t.Errorf("%s: %v", name, err)
		}
	}

	apart := tn.snoop(ns, "apart", "proxy")
	together := tn.snoop(ns, "together", "direct")
	yes := true
	together.Spec.ShareProcessNamespace = &yes
	for _, test := range []struct {
		pod   *corev1.Pod
		finds bool
	}{{apart, false}, {together, true}} {
		if err := suite.management.Create(t.Context(), test.pod); err != nil {
			t.Fatal(err)
		}
		cleanUp(t, suite.management, test.pod)
		eventually(t, 2*time.Minute, fmt.Sprintf("Pod %s finds files of the sidecar: %v", test.pod.Name, test.finds), func() error {
			log, err := suite.management.clientset.CoreV1().Pods(ns).GetLogs(test.pod.Name, &corev1.PodLogOptions{Container: "snoop"}).DoRaw(t.Context())
			if err != nil {
				return err
			}
			said := strings.Fields(string(log))
			if len(said) < 2 {
				return fmt.Errorf("its log is %q", log)
			}
			if finds := said[len(said)-1] != "files=0"; finds != test.finds {
				return fmt.Errorf("it says %s", said[len(said)-2:])
			}
			return nil
		})
	}
}

// snoop is a Pod whose container looks for the files of the sidecar's identity in all processes
// that it sees.
func (tn tenant) snoop(namespace, name, delivery string) *corev1.Pod {
	user, grace := int64(sidecarUser), int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(name), Namespace: namespace, Annotations: map[string]string{
			"keyferry.dev/cluster": "fleet/" + tn.Target, "keyferry.dev/delivery": delivery,
		}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "snoop", Image: suite.podtoolsImage,
				Args: []string{"snoop", "/var/run/secrets/keyferry.dev/identity"},
				SecurityContext: &corev1.SecurityContext{
					RunAsUser:    &user,
					Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}},
				},
			}},
		},
	}
}
