package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/testenv"
)

// startNodes makes nodes, and has kwok (https://kwok.sigs.k8s.io) act for their kubelets: it says
// that the nodes are ready, and that the Pods on them run. There is no scheduler; a Pod names its
// node.
func (in *installation) startNodes(b *testing.B, nodes int) {
	b.Helper()
	build := exec.CommandContext(b.Context(), "../tools/run", "--build", "kwok")
	build.Stderr = os.Stderr
	program, err := build.Output()
	must(b, err)
	run(b, nil, strings.TrimSpace(string(program)), "--config=testdata/kwok.yaml", "--kubeconfig="+testenv.WriteKubeconfig(b, in.config, ""), "--v=ERROR")
	each(nodes, func(i int) {
		must(b, in.fleet.Create(b.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}))
	})
}

func nodeName(i int) string { return fmt.Sprint("node-", i) }

// waitForPods waits until all Pods that have a node run.
func (in *installation) waitForPods(b *testing.B) {
	b.Helper()
	waiting := client.MatchingFieldsSelector{Selector: fields.ParseSelectorOrDie("status.phase=Pending,spec.nodeName!=")}
	until(b, "the run of all Pods", func() bool {
		pause(b, time.Second) // to answer, the API server looks at all Pods
		var pods corev1.PodList
		must(b, in.fleet.List(b.Context(), &pods, waiting, client.Limit(1)))
		return len(pods.Items) == 0
	})
}
