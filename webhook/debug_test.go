package webhook

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

// TestCopyOfAPod: kubectl debug --copy-to. The copy has what injection added to the Pod. The debug
// container has the target only if the annotations are kept, because only then the API server calls
// the webhook.
func TestCopyOfAPod(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	for name, test := range map[string]struct {
		flags    []string
		injected string
		// replaced is set if the Pod is gone then.
		replaced bool
		// proxied is set for delivery by proxy, and denied is a part of the denial.
		proxied bool
		denied  string
	}{
		"another node":      {injected: "app"},
		"same node":         {flags: []string{"--same-node"}, injected: "app"},
		"replace":           {flags: []string{"--replace"}, injected: "app", replaced: true},
		"labels":            {flags: []string{"--keep-labels"}, injected: "app"},
		"annotations":       {flags: []string{"--keep-annotations"}, injected: "app debugger"},
		"without a sidecar": {flags: []string{"--keep-init-containers=false"}, injected: "app"},
		"restored sidecar":  {flags: []string{"--keep-init-containers=false", "--keep-annotations"}, injected: "app debugger"},
		"proxy":             {flags: []string{"--keep-annotations"}, proxied: true, denied: "spec.shareProcessNamespace is true"},
		"proxy, not shared": {flags: []string{"--keep-annotations", "--share-processes=false"}, proxied: true, injected: "app debugger"},
	} {
		t.Run(name, func(t *testing.T) {
			p := running("web", pod("shop", annotated("cluster", "fleet/tenant-1")))
			p.Name, p.GenerateName, p.Labels = "debugged", "", map[string]string{"app": "web"}
			if test.proxied {
				p.Annotations[injector.AnnotationDelivery] = string(injector.DeliveryProxy)
			}
			must(t, api.client.Create(t.Context(), p))
			copied := &corev1.Pod{}
			copied.Namespace, copied.Name = p.Namespace, "copy"
			t.Cleanup(func() {
				removePod(t, p)
				removePod(t, copied)
			})
			out, err := testenv.Kubectl(t, api.config, t.TempDir(), append([]string{"debug", p.Name, "-n", p.Namespace, "--copy-to=copy",
				"--image=example.com/debug:1", "--container=debugger", "--profile=general", "--attach=false"}, test.flags...)...).CombinedOutput()
			switch {
			case test.denied != "":
				if err == nil || !strings.Contains(string(out), test.denied) {
					t.Errorf("got %v: %s, want … %s", err, out, test.denied)
				}
				return
			case err != nil:
				t.Fatalf("kubectl debug: %v: %s", err, out)
			}
			must(t, api.client.Get(t.Context(), client.ObjectKeyFromObject(copied), copied))
			if got := strings.Join(injectedContainers(copied), " "); got != test.injected {
				t.Errorf("injected are %q, want %q", got, test.injected)
			}
			keepsSidecar := !slices.Contains(test.flags, "--keep-init-containers=false") || slices.Contains(test.flags, "--keep-annotations")
			hasSidecar := len(copied.Spec.InitContainers) == 1 && copied.Spec.InitContainers[0].Name == injector.RefresherContainer
			if hasSidecar != keepsSidecar || copied.Spec.ServiceAccountName != "web" {
				t.Errorf("the sidecar is there: %t, the ServiceAccount is %s", hasSidecar, copied.Spec.ServiceAccountName)
			}
			if keepsLabels := slices.Contains(test.flags, "--keep-labels"); (len(copied.Labels) > 0) != keepsLabels {
				t.Errorf("the labels are %v", copied.Labels)
			}
			if err := api.client.Get(t.Context(), client.ObjectKeyFromObject(p), &corev1.Pod{}); apierrors.IsNotFound(err) != test.replaced {
				t.Errorf("the Pod itself: %v", err)
			}
		})
	}
}

// removePod deletes a Pod at once; no kubelet confirms it.
func removePod(t *testing.T, p *corev1.Pod) {
	t.Helper()
	must(t, client.IgnoreNotFound(api.client.Delete(context.Background(), p, client.GracePeriodSeconds(0))))
}
