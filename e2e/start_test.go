package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// BenchmarkPodStart is the time from the Pod's sandbox to the application's process: with Keyferry,
// and with a sidecar of the same image, resources and security context whose hook has nothing to
// wait for. The Pods are made in turns. It reads the processes of the nodes from this machine, so
// it is for kind. `make bench-start` runs it.
func BenchmarkPodStart(b *testing.B) {
	tn := newTenant(b)
	ns := suite.management.namespace(b, nil)
	tn.allow(b, ns, "default")
	kinds := []string{"with", "without"}
	took := map[string][]time.Duration{}
	var injected corev1.Container
	for i := range 1 + b.N {
		for _, kind := range kinds {
			pod := startedPod(ns, fmt.Sprint(kind, "-", i))
			if kind == "with" {
				pod.Annotations = map[string]string{"keyferry.dev/cluster": fleet + "/" + tn.Target}
			} else {
				pod.Spec.InitContainers = []corev1.Container{idle(injected)}
			}
			d := startOf(b, pod)
			injected = pod.Spec.InitContainers[0]
			if i > 0 { // the first one warms up
				took[kind] = append(took[kind], d)
			}
		}
	}
	for _, kind := range kinds {
		all := took[kind]
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds(), kind+"-p50-sec")
		b.ReportMetric(all[len(all)*99/100].Seconds(), kind+"-p99-sec")
	}
}

func startedPod(ns, name string) *corev1.Pod {
	none := int64(0)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &none,
		Containers:                    []corev1.Container{{Name: "client", Image: suite.clientImage}},
	}}
}

// idle returns a sidecar that does nothing.
func idle(sidecar corev1.Container) corev1.Container {
	return corev1.Container{
		Name: "sidecar", Image: sidecar.Image, RestartPolicy: sidecar.RestartPolicy, Resources: sidecar.Resources, SecurityContext: sidecar.SecurityContext,
		Command:   []string{"/refresher", "wait", "--timeout=1h", "--termination-log=/dev/null"},
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/refresher", "--version"}}}},
	}
}

// startOf creates a Pod, and deletes it once its application runs. It returns how long after the
// sandbox's process the application's began.
func startOf(b *testing.B, pod *corev1.Pod) time.Duration {
	b.Helper()
	if err := suite.management.Create(b.Context(), pod); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = suite.management.Delete(b.Context(), pod, client.GracePeriodSeconds(0)) }()
	var sandbox, application time.Duration
	eventually(b, time.Minute, pod.Name+" runs", func() (err error) {
		sandbox, application, err = processesOf(string(pod.UID))
		return err
	})
	return application - sandbox
}

// processesOf returns when, after the machine's start, the sandbox of a Pod and its application
// began.
func processesOf(uid string) (sandbox, application time.Duration, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, 0, err
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		cgroup, _ := os.ReadFile(file) // of a process that may have ended
		if text := string(cgroup); !strings.Contains(text, uid) && !strings.Contains(text, strings.ReplaceAll(uid, "-", "_")) {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		// Field 22, counted behind the name, in hundredths of a second (proc_pid_stat(5)).
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 20 {
			continue
		}
		ticks, err := strconv.Atoi(fields[19])
		if err != nil {
			return 0, 0, err
		}
		switch program, _ := os.Readlink(filepath.Join(dir, "exe")); filepath.Base(program) {
		case "pause":
			sandbox = time.Duration(ticks) * 10 * time.Millisecond
		case "client":
			application = time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	if sandbox == 0 || application == 0 {
		return 0, 0, fmt.Errorf("the sandbox began at %s, the application at %s", sandbox, application)
	}
	return sandbox, application, nil
}
