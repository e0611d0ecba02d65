package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestSeveralClusters: one Pod works on two targets by a kubeconfig, through renewals, and on its
// own cluster. One target's provider fails until the end, which neither the Pod's start nor the
// other target's client notices.
func TestSeveralClusters(t *testing.T) {
	t.Parallel()
	one, two := newTenant(t), newTenant(t)
	ns := suite.management.namespace(t, nil)
	one.allow(t, ns, "default")
	two.allow(t, ns, "default")
	forbidden := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: two.Namespace, Name: "keyferry-access"}}
	if err := suite.target.Get(t.Context(), client.ObjectKeyFromObject(forbidden), forbidden); err != nil {
		t.Fatal(err)
	}
	if err := suite.target.Delete(t.Context(), forbidden); err != nil {
		t.Fatal(err)
	}

	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata:
  name: client
  namespace: {{.NS}}
  labels: {app: client}
  annotations:
    keyferry.dev/clusters: fleet/{{.One}}, fleet/{{.Two}}
    keyferry.dev/set-kubeconfig: "true"
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: one, image: {{.Image}}, args: [-context, fleet/{{.One}}]}
  - {name: two, image: {{.Image}}, args: [-context, fleet/{{.Two}}]}
  - {name: local, image: {{.Image}}}
`, map[string]any{"NS": ns, "One": one.Target, "Two": two.Target, "Image": suite.clientImage})
	pod := runningPod(t, ns)
	first := one.works(t, ns, pod.Name, "one")
	if first.Host != "https://127.0.0.1:16444" {
		t.Errorf("the client's host is %q", first.Host)
	}
	eventually(t, time.Minute, "in-cluster is the local cluster", func() error {
		last, err := lastReport(t, pod, "local")
		if want := "system:serviceaccount:" + ns + ":default"; err == nil && last.User != want {
			err = fmt.Errorf("the client is %q there, want %q", last.User, want)
		}
		return err
	})
	eventually(t, time.Minute, "the other context says why it does not work", func() error {
		last, err := lastReport(t, pod, "two")
		if err == nil && (last.User != "" || !strings.Contains(last.LastError, "there is no credential for TargetCluster fleet/"+two.Target+": the broker answers ")) {
			err = fmt.Errorf("it is %q, and its last error is %q", last.User, last.LastError)
		}
		return err
	})
	renewed(t, pod, 3)
	if out := suite.keyferry(t, 1, "check", pod.Name, "-n", ns); !strings.Contains(out, "✗ credential     fleet/"+two.Target+": ") {
		t.Errorf("keyferry check says\n%s", out)
	}

	again := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: forbidden.Namespace, Name: forbidden.Name}, RoleRef: forbidden.RoleRef, Subjects: forbidden.Subjects}
	if err := suite.target.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	two.works(t, ns, pod.Name, "two")
	if last := one.works(t, ns, pod.Name, "one"); last.Failures != 0 {
		t.Errorf("%d of %d requests failed, the last with %s", last.Failures, last.Requests, last.LastError)
	}
	notRestarted(t, pod)
	if status := pod.Annotations["keyferry.dev/status"]; !strings.Contains(status, fmt.Sprintf(`"clusters":["fleet/%s","fleet/%s"]`, one.Target, two.Target)) {
		t.Errorf("the status annotation is %s", status)
	}
}

func lastReport(t *testing.T, pod *corev1.Pod, container string) (report, error) {
	t.Helper()
	all, err := reports(t.Context(), pod.Namespace, pod.Name, container)
	switch {
	case err != nil:
		return report{}, err
	case len(all) == 0:
		return report{}, errors.New("it has said nothing yet")
	}
	return all[len(all)-1], nil
}
