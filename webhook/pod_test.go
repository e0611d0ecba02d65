package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

const deniedBy = `admission webhook "pods.keyferry.dev" denied the request: `

func TestPodIsInjected(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	c, warned := recordingClient(t)
	p := running("web", pod("shop", annotated("cluster", "fleet/tenant-1")))
	must(t, c.Create(t.Context(), p))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), p, client.GracePeriodSeconds(0))) })
	must(t, api.client.Get(t.Context(), client.ObjectKeyFromObject(p), p))
	if len(p.Spec.InitContainers) != 1 || p.Spec.InitContainers[0].Name != injector.RefresherContainer {
		t.Fatalf("init containers: %+v", p.Spec.InitContainers)
	}
	if p.Annotations[injector.AnnotationStatus] == "" {
		t.Error("no status annotation")
	}
	env := p.Spec.Containers[0].Env[0]
	if testenv.Has(testenv.EnvFromFile) {
		if env.ValueFrom == nil || env.ValueFrom.FileKeyRef == nil {
			t.Error("env does not come from a file")
		}
	} else if env.Name != "KUBERNETES_SERVICE_HOST" || env.Value != "203.0.113.7" {
		t.Errorf("env has no literal value: %+v", env)
	}
	if got := warned.take(); got != "" {
		t.Errorf("warnings: %s", got)
	}
}

// TestPodIsInjectedFromCache: as in production, TargetClusters come from a cache with only the
// fields that are needed.
func TestPodIsInjectedFromCache(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	cached, err := cache.New(api.config, cache.Options{
		Scheme: api.client.Scheme(), ByObject: map[client.Object]cache.ByObject{&v1alpha1.TargetCluster{}: {Transform: Strip}},
	})
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() { stopped <- cached.Start(ctx) }()
	if !cached.WaitForCacheSync(ctx) {
		t.Fatal("the cache does not start")
	}
	h := testHandler(t, func(cfg *Config) { cfg.Cached, cfg.Live = cached, broken{} })
	if got := ask(t, h, podReview(t, pod("", annotated("cluster", "fleet/tenant-1")))); !got.Allowed || got.Patch == nil {
		t.Errorf("got %+v", got.Result)
	}
	stop()
	must(t, <-stopped)
}

func TestPodThatAsksForNothingIsNotSeen(t *testing.T) {
	before := api.reviews.Load()
	p := pod("shop", map[string]string{"example.com/cluster": "fleet/tenant-1"})
	must(t, api.client.Create(t.Context(), p, client.DryRunAll))
	if reviews := api.reviews.Load() - before; reviews != 0 || len(p.Spec.InitContainers) != 0 {
		t.Errorf("%d reviews; init containers: %+v", reviews, p.Spec.InitContainers)
	}
}

func TestPodIsInjectedWithAProxy(t *testing.T) {
	proxied := ready()
	proxied.Delivery, proxied.DeliveryReason = v1alpha1.DeliveryProxy, "spec.endpoint.proxyURL is set"
	targetCluster(t, "proxied", proxied)
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "proxied")
	p := running("web", pod("shop", annotated("cluster", "fleet/proxied")))
	must(t, api.client.Create(t.Context(), p))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), p, client.GracePeriodSeconds(0))) })
	if env := p.Spec.Containers[0].Env; len(env) != 3 || env[0].Value != "127.0.0.1" || env[1].Value != "16443" {
		t.Errorf("environment: %+v", env)
	}
	if status := p.Annotations[injector.AnnotationStatus]; !strings.Contains(status, `"delivery":"Proxy","deliveryReason":"spec.endpoint.proxyURL is set"`) {
		t.Errorf("status: %s", status)
	}
}

func TestPodIsDenied(t *testing.T) {
	account := types.NamespacedName{Namespace: "app", Name: "web"}
	targetCluster(t, "tenant-1", ready())
	targetCluster(t, "broken", ready(metav1.Condition{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionFalse, Reason: "SecretForbidden",
		Message: "Secret fleet/broken may not be read: add fleet to secretAccess.namespaces of the chart"}))
	targetCluster(t, "new", v1alpha1.TargetClusterStatus{})
	proxied := ready()
	proxied.Delivery, proxied.DeliveryReason = v1alpha1.DeliveryProxy, "spec.endpoint.proxyURL is set"
	targetCluster(t, "proxied", proxied)
	changed := targetCluster(t, "changed", ready())
	changed.Spec.DefaultNamespace = "other"
	must(t, api.client.Update(t.Context(), changed))
	for _, target := range []string{"broken", "new", "proxied", "changed", "missing"} {
		grant(t, account, target)
	}

	for name, c := range map[string]struct {
		annotations map[string]string
		code        int32
		want        string
	}{
		"misspelled annotation": {annotated("clutser", "fleet/tenant-1"), 422,
			`annotation keyferry.dev/clutser: is unknown: did you mean keyferry.dev/cluster?`},
		"malformed value": {annotated("cluster", "fleet/tenant/1"), 422, `annotation keyferry.dev/cluster: "fleet/tenant/1" has no valid name`},
		"no right": {annotated("cluster", "fleet/tenant-1"), 403,
			`annotation keyferry.dev/cluster: ServiceAccount app/web may not use TargetCluster fleet/tenant-1: grant the verb "use" on targetclusters.keyferry.dev "tenant-1" in namespace fleet: ` +
				`keyferry grant fleet/tenant-1 app/web (check with: kubectl auth can-i use targetclusters/tenant-1 -n fleet --as system:serviceaccount:app:web)`},
		"no right, and no such object": {annotated("cluster", "fleet/unheard-of"), 403, `annotation keyferry.dev/cluster: ServiceAccount app/web may not use TargetCluster fleet/unheard-of: grant`},
		"no namespace means the Pod's": {annotated("cluster", "tenant-1"), 403, `annotation keyferry.dev/cluster: ServiceAccount app/web may not use TargetCluster app/tenant-1: grant`},
		"no such object": {annotated("cluster", "fleet/missing"), 422,
			`annotation keyferry.dev/cluster: there is no TargetCluster fleet/missing: create it, or correct the annotation (kubectl get targetclusters -n fleet lists them)`},
		"not resolved": {annotated("cluster", "fleet/broken"), 422,
			`annotation keyferry.dev/cluster: TargetCluster fleet/broken is not resolved: SecretForbidden: Secret fleet/broken may not be read: add fleet to secretAccess.namespaces of the chart`},
		"not looked at yet": {annotated("cluster", "fleet/new"), 422,
			`annotation keyferry.dev/cluster: TargetCluster fleet/new is not resolved yet: try again in a few seconds; if the error persists, see the log of keyferry-controller`},
		"changed since": {annotated("cluster", "fleet/changed"), 422, `annotation keyferry.dev/cluster: TargetCluster fleet/changed is not resolved yet: `},
		"direct delivery, which is not possible": {annotated("cluster", "fleet/proxied", "delivery", "direct"), 422,
			`annotation keyferry.dev/delivery: direct is not possible, because TargetCluster fleet/proxied needs delivery by proxy (spec.endpoint.proxyURL is set): use proxy, or remove the annotation`},
	} {
		t.Run(name, func(t *testing.T) {
			denial := createDenied(t, running("web", pod("app", c.annotations)))
			if message := strings.TrimPrefix(denial.Message, deniedBy); !strings.HasPrefix(message, c.want) || message == denial.Message {
				t.Errorf("got  %s\nwant %s%s", denial.Message, deniedBy, c.want)
			}
			if denial.Code != c.code {
				t.Errorf("code %d, want %d", denial.Code, c.code)
			}
		})
	}
}

// createDenied creates a Pod, also as a dry run, checks that it is denied, and returns the reason.
func createDenied(t *testing.T, p *corev1.Pod) metav1.Status {
	t.Helper()
	var denials [2]metav1.Status
	for i, options := range [][]client.CreateOption{{}, {client.DryRunAll}} {
		err := api.client.Create(t.Context(), p.DeepCopy(), options...)
		status, ok := errors.AsType[*apierrors.StatusError](err)
		if !ok {
			t.Fatalf("want a denial, got %v", err)
		}
		denials[i] = status.Status()
	}
	if denials[0].Message != denials[1].Message {
		t.Errorf("got %q, but from a dry run %q", denials[0].Message, denials[1].Message)
	}
	return denials[0]
}

func TestUnreachableTargetIsWarnedOf(t *testing.T) {
	targetCluster(t, "down", ready(metav1.Condition{Type: v1alpha1.ConditionReachable, Status: metav1.ConditionFalse, Reason: "Timeout", Message: "dial tcp 203.0.113.7:6443: i/o timeout"}))
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "down")
	c, warned := recordingClient(t)
	p := running("web", pod("shop", annotated("cluster", "fleet/down")))
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "KUBECONFIG", Value: "/config"}}
	must(t, c.Create(t.Context(), p, client.DryRunAll))
	got := warned.take()
	for _, want := range []string{
		"annotation keyferry.dev/cluster: TargetCluster fleet/down does not answer now; the Pod's containers start when it answers: dial tcp 203.0.113.7:6443: i/o timeout",
		"container app sets KUBECONFIG: clients that read this variable do not use fleet/down",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("warnings lack %q:\n%s", want, got)
		}
	}
	if len(p.Spec.InitContainers) != 1 {
		t.Error("not injected")
	}
}

func TestWithdrawnRightIsDenied(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	withdraw := grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	p := running("web", pod("shop", annotated("cluster", "fleet/tenant-1")))
	must(t, api.client.Create(t.Context(), p.DeepCopy(), client.DryRunAll))
	withdraw()
	if denial := createDenied(t, p); denial.Code != 403 {
		t.Errorf("got %+v", denial)
	}
}

// TestInjectedPodsAreAccepted checks that the API server accepts each valid Pod after it was
// injected, and that a second injection changes nothing.
func TestInjectedPodsAreAccepted(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "default"}, "tenant-1")
	files, err := filepath.Glob("../injector/testdata/inject/*.yaml")
	must(t, err)
	injected := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			must(t, err)
			var p unstructured.Unstructured
			must(t, yaml.Unmarshal(text, &p.Object))
			p.SetNamespace("shop")
			_ = unstructured.SetNestedField(p.Object, "default", "spec", "serviceAccountName")

			plain := p.DeepCopy()
			plain.SetAnnotations(nil)
			if err := api.client.Create(t.Context(), plain, client.DryRunAll); err != nil {
				t.Skipf("the API server does not take it as it is: %v", err)
			}
			if err := api.client.Create(t.Context(), &p, client.DryRunAll); err != nil {
				if !strings.Contains(err.Error(), deniedBy) {
					t.Errorf("the API server does not take what was injected: %v", err)
				}
				return
			}
			if p.GetAnnotations()[injector.AnnotationStatus] == "" {
				return // asks for nothing
			}
			injected++
			again := p.DeepCopy()
			unstructured.RemoveNestedField(again.Object, "metadata", "managedFields")
			for _, field := range []string{"uid", "creationTimestamp", "resourceVersion", "generation"} {
				unstructured.RemoveNestedField(again.Object, "metadata", field)
			}
			must(t, api.client.Create(t.Context(), again, client.DryRunAll))
			if before, after := spec(t, &p), spec(t, again); before != after {
				t.Errorf("injected twice\nbefore %s\nafter  %s", before, after)
			}
		})
	}
	if injected < 15 {
		t.Errorf("only %d Pods were injected: has the test data moved?", injected)
	}
}

func spec(t *testing.T, p *unstructured.Unstructured) string {
	t.Helper()
	raw, err := json.Marshal(p.Object["spec"])
	must(t, err)
	return string(raw)
}
