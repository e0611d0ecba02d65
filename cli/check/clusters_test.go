package check

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/exec"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/terminal"
	"github.com/keyferry/keyferry/injector"
)

// withSecond adds a TargetCluster to the Pod's contexts.
func (w *world) withSecond() {
	w.t.Helper()
	ns := w.pod.Namespace
	w.create(&v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tenant-2"},
		Spec:       w.cluster.Spec,
	})
	target := direct
	target.Further = []injector.Target{{Namespace: "default"}}
	w.inject(map[string]string{injector.AnnotationCluster: "tenant-1", injector.AnnotationClusters: "tenant-2"}, target)
}

// TestSeveralClusters: each has its TargetCluster, its permission and its credential looked at.
func TestSeveralClusters(t *testing.T) {
	w := newWorld(t)
	w.withSecond()
	ns := w.pod.Namespace
	w.exec = func(_ context.Context, _ types.NamespacedName, _ string, command ...string) (string, error) {
		dir := "/var/run/keyferry/clusters/" + ns + "/tenant-2"
		if strings.Join(command, " ") == "/refresher wait --timeout=1s --credentials-dir="+dir+" --termination-log="+dir+"/problem" {
			return "refresher: the provider is down", exec.CodeExitError{Code: 1, Err: context.DeadlineExceeded}
		}
		return "", nil
	}
	r := w.run(running())
	var text strings.Builder
	if err := r.WriteText(&text, terminal.Palette{}); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(text.String(), ns, "NS")
	for _, want := range []string{
		"Pod NS/web-1 → TargetCluster NS/tenant-1 → contexts for TargetClusters NS/tenant-2\n",
		"✓ target cluster NS/tenant-2 exists\n",
		"✗ permission     ServiceAccount NS/web may not use TargetCluster NS/tenant-2\n",
		"✓ injected       app, delivery proxy (annotation keyferry.dev/clusters: every context leads through the proxy)\n",
		"✓ credential     the files exist, and the credential has not expired\n",
		"✗ credential     NS/tenant-2: the provider is down\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestClustersThatChanged(t *testing.T) {
	t.Run("one more", func(t *testing.T) {
		w := newWorld(t)
		w.withSecond()
		w.pod.Annotations[injector.AnnotationClusters] = "tenant-2,tenant-3"
		w.want(w.run(running()), Wrong, "injected", Wrong, "the annotation has changed since the Pod was created for "+w.pod.Namespace+"/tenant-1, ")
	})
	t.Run("no mount", func(t *testing.T) {
		w := newWorld(t)
		w.withSecond()
		w.pod.Spec.Containers[0].VolumeMounts = w.pod.Spec.Containers[0].VolumeMounts[:1]
		w.want(w.run(running()), Wrong, "injected", Wrong, "container app: volumeMounts")
	})
}
