package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestRenewalGoesUnnoticed: an unmodified program works on the target, as the mapped
// ServiceAccount, through many renewals, without one failed request.
func TestRenewalGoesUnnoticed(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)

	// The refresher renews every ten seconds; client-go reads the file again about once a minute.
	var all []report
	eventually(t, 5*time.Minute, "three minutes with ten renewals, and three tokens that the client saw", func() (err error) {
		if all, err = reports(t.Context(), ns, pod.Name, "client"); err != nil {
			return err
		}
		issued, err := issuedTo(t.Context(), pod.UID)
		if err != nil {
			return err
		}
		seen, age := distinctTokens(all), all[len(all)-1].Time.Sub(all[0].Time)
		if seen < 3 || len(issued) < 11 || age < 3*time.Minute {
			return fmt.Errorf("after %s: %d credentials issued, %d seen by the client", age, len(issued), seen)
		}
		return nil
	})
	last := all[len(all)-1]
	if last.Failures != 0 {
		t.Errorf("%d of %d requests failed, the last with %s", last.Failures, last.Requests, last.LastError)
	}
	if last.User != tn.User {
		t.Errorf("the target knows the Pod as %q, want %q", last.User, tn.User)
	}
	if !slices.Contains(last.Namespaces, tn.Namespace) {
		t.Errorf("namespace %s of the target is not among %v", tn.Namespace, last.Namespaces)
	}
	issued, err := issuedTo(t.Context(), pod.UID)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(issued)
	if again := len(issued) - len(slices.Compact(slices.Clone(issued))); again != 0 {
		t.Errorf("%d of %d renewals brought the same token again", again, len(issued))
	}
	t.Logf("%d requests, %d failures in %s; %d tokens issued, %d seen by the client",
		last.Requests, last.Failures, last.Time.Sub(all[0].Time).Round(time.Second), len(issued), distinctTokens(all))

	out := suite.keyferry(t, 0, "check", pod.Name, "-n", ns)
	t.Logf("keyferry check:\n%s", out)
}

// TestRestrictedPod: two users, neither root, read-only root file systems, Pod Security
// `restricted` enforced.
func TestRestrictedPod(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	tn.allow(t, ns, "default")
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: restricted, namespace: {{.NS}}, annotations: {keyferry.dev/cluster: fleet/{{.Target}}, keyferry.dev/metrics-port: "8085"}}
spec:
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  {{- range $i, $uid := .UIDs}}
  - name: client-{{$i}}
    image: {{$.Image}}
    securityContext: {runAsUser: {{$uid}}, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  {{- end}}
`, map[string]any{"NS": ns, "Target": tn.Target, "Image": suite.clientImage, "UIDs": []int{1000, 2000}})
	for _, container := range []string{"client-0", "client-1"} {
		tn.works(t, ns, "restricted", container)
	}
}

// TestWithoutLocalToken: a Pod that has no token of its own cluster gets one of the target all the
// same.
func TestWithoutLocalToken(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "automountServiceAccountToken: false")
	tn.works(t, ns, runningPod(t, ns).Name, "client")
}

// TestInitContainerAndJob: an init container of the application uses the target already, and the
// sidecar does not keep a Job of two containers from completing.
func TestInitContainerAndJob(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	suite.management.mustApply(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: twice, namespace: {{.NS}}}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {keyferry.dev/cluster: fleet/{{.Target}}}}
    spec:
      restartPolicy: Never
      initContainers:
      - {name: before, image: {{.Image}}, args: [--once]}
      containers:
      - {name: one, image: {{.Image}}, args: [--for=5s]}
      - {name: two, image: {{.Image}}, args: [--for=15s]}
`, map[string]any{"NS": ns, "Target": tn.Target, "Image": suite.clientImage})
	eventually(t, 3*time.Minute, "the Job completes", func() error {
		job := &batchv1.Job{}
		if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "twice"}, job); err != nil {
			return err
		}
		if job.Status.Failed > 0 {
			t.Fatalf("the Job failed: %+v", job.Status)
		}
		if job.Status.Succeeded != 1 {
			return fmt.Errorf("status %+v", job.Status)
		}
		return nil
	})
}

// TestPodKilled: every process of a Pod is killed, its sandbox too. The application finds a
// credential when it starts again.
func TestPodKilled(t *testing.T) {
	t.Parallel()
	tn, ns, pod, _ := workingPod(t)

	// The privileged helper is in a namespace that is not of the application.
	helperNS := suite.management.namespace(t, map[string]string{"pod-security.kubernetes.io/enforce": "privileged"})
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: killer, namespace: {{.NS}}}
spec:
  restartPolicy: Never
  hostPID: true
  nodeName: {{.Node}}
  containers:
  - name: killer
    image: {{.Image}}
    args: [kill-pod, --uid={{.UID}}]
    securityContext: {runAsUser: 0, privileged: true}
`, map[string]any{"NS": helperNS, "Node": pod.Spec.NodeName, "UID": pod.UID, "Image": suite.podtoolsImage})
	eventually(t, 3*time.Minute, "the client runs again", func() error {
		now := &corev1.Pod{}
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), now); err != nil {
			return err
		}
		if status := now.Status.ContainerStatuses[0]; status.RestartCount == 0 || status.State.Running == nil {
			return fmt.Errorf("container status %+v", status)
		}
		return nil
	})
	if r := tn.works(t, ns, pod.Name, "client"); r.Failures != 0 {
		t.Errorf("the restarted client began with %d failures, the last %s", r.Failures, r.LastError)
	}
}

// deploy makes a Deployment of the client in a namespace; podSpec is more YAML for its Pod's spec.
func (tn tenant) deploy(t *testing.T, namespace, podSpec string) {
	t.Helper()
	suite.management.mustApply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: {{.NS}}}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata:
      labels: {app: client}
      annotations: {keyferry.dev/cluster: fleet/{{.Target}}}
    spec:
      terminationGracePeriodSeconds: 1
      {{.PodSpec}}
      containers:
      - {name: client, image: {{.Image}}}
`, map[string]any{"NS": namespace, "Target": tn.Target, "Image": suite.clientImage, "PodSpec": podSpec})
}

// workingPod returns a tenant, and a Pod with the client, in a namespace of its own, that works on
// the target; said is its first report.
func workingPod(t *testing.T) (tn tenant, namespace string, pod *corev1.Pod, said report) {
	t.Helper()
	tn = newTenant(t)
	namespace, pod, said = tn.workingPod(t)
	return tn, namespace, pod, said
}

// workingPod is the function of the same name, for an existing tenant.
func (tn tenant) workingPod(t *testing.T) (namespace string, pod *corev1.Pod, said report) {
	t.Helper()
	namespace = suite.management.namespace(t, nil)
	tn.allow(t, namespace, "default")
	tn.deploy(t, namespace, "")
	pod = runningPod(t, namespace)
	return namespace, pod, tn.works(t, namespace, pod.Name, "client")
}

// runningPod waits for the one Pod of the Deployment client to run.
func runningPod(t *testing.T, namespace string) *corev1.Pod {
	t.Helper()
	pods := &corev1.PodList{}
	eventually(t, 2*time.Minute, "the client's Pod runs in "+namespace, func() error {
		if err := suite.management.List(t.Context(), pods, client.InNamespace(namespace), client.MatchingLabels{"app": "client"}); err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("there are %d Pods", len(pods.Items))
		}
		if phase := pods.Items[0].Status.Phase; phase != corev1.PodRunning {
			return fmt.Errorf("its phase is %s", phase)
		}
		return nil
	})
	return &pods.Items[0]
}

// works waits until a client container of the management cluster sees the target as the tenant's
// user.
func (tn tenant) works(t *testing.T, namespace, pod, container string) (last report) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("%s of Pod %s works on the target", container, pod), func() error {
		all, err := reports(t.Context(), namespace, pod, container)
		if err != nil {
			return err
		}
		last = all[len(all)-1]
		if last.User != tn.User || !slices.Contains(last.Namespaces, tn.Namespace) {
			return fmt.Errorf("it is %q and sees %v (last error: %s)", last.User, last.Namespaces, last.LastError)
		}
		return nil
	})
	return last
}

// failuresSince is how many requests of the container client failed after a report of it.
func failuresSince(ctx context.Context, namespace, pod string, before report) (int, error) {
	all, err := reports(ctx, namespace, pod, "client")
	if err != nil {
		return 0, err
	}
	last := all[len(all)-1]
	if last.Requests < before.Requests {
		return 0, errors.New("the client has been restarted")
	}
	return last.Failures - before.Failures, nil
}
