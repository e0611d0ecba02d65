package webhook

// Tests of the policy keyferry-guard, which ensures what no webhook can: a Pod that requests
// another cluster is not created without injection.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

const deniedByGuard = "ValidatingAdmissionPolicy 'keyferry-guard' with binding 'keyferry-guard' denied request: "

// installGuard applies the policy from config/default, and returns when it is in effect.
func installGuard(ctx context.Context) error {
	text, err := os.ReadFile("../config/default/guard.yaml")
	if err != nil {
		return err
	}
	first, second, _ := bytes.Cut(text, []byte("\n---\n"))
	var policy admissionregistrationv1.ValidatingAdmissionPolicy
	var binding admissionregistrationv1.ValidatingAdmissionPolicyBinding
	if err := yaml.UnmarshalStrict(first, &policy); err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(second, &binding); err != nil {
		return err
	}
	if err := api.client.Create(ctx, &policy); err != nil {
		return err
	}
	if err := api.client.Create(ctx, &binding); err != nil {
		return err
	}
	probe := pod("kube-system", annotated("probe", ""))
	if !eventually(func() bool {
		return strings.Contains(fmt.Sprint(api.client.Create(ctx, probe, client.DryRunAll)), deniedByGuard)
	}) {
		return errors.New("the policy keyferry-guard does not act")
	}
	return nil
}

// TestAnnotationOfAnotherWebhook: a policy engine adds the annotation. If the name of its webhook
// configuration sorts before Keyferry's, the Pod is injected. If it sorts after it, the API server
// does not call Keyferry's webhook. https://github.com/CrowdStrike/falcon-helm/pull/501 reports
// Pods that started without their sidecar.
func TestAnnotationOfAnotherWebhook(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	late := func() *corev1.Pod {
		p := running("web", pod("shop", nil))
		p.Labels = map[string]string{"late": "true"}
		return p
	}
	t.Run("before ours", func(t *testing.T) {
		annotator(t, "aa-policy", "keyferry.dev/cluster", late())
		p := late()
		must(t, api.client.Create(t.Context(), p, client.DryRunAll))
		if p.Annotations[injector.AnnotationStatus] == "" || len(p.Spec.InitContainers) != 1 {
			t.Errorf("not injected: %v", p.Annotations)
		}
	})
	for _, annotation := range []string{"cluster", "cluster-profile", "clusters", "credential-request"} {
		t.Run("after ours, "+annotation, func(t *testing.T) {
			annotator(t, "kyverno-resource-mutating-webhook-cfg", injector.Prefix+annotation, late())
			wantGuarded(t, late(), "annotation keyferry.dev/"+annotation+": Keyferry has not injected the Pod, ", "(container app does not mount volume keyferry-credentials, ")
		})
	}
}

// annotator installs another mutating webhook, which adds an annotation to Pods like p. It returns
// when the API server calls the webhook.
func annotator(t *testing.T, name, annotation string, p *corev1.Pod) {
	t.Helper()
	standIn(t, name, admissionregistrationv1.NeverReinvocationPolicy, p.Labels, func(*corev1.Pod) []injector.Operation {
		return []injector.Operation{{Op: "add", Path: "/metadata/annotations", Value: map[string]string{annotation: "fleet/tenant-1"}}}
	})
}

// TestUnknownNamesAreDenied: the API server accepts a prefix in upper or lower case, but the
// webhook configuration matches only lower case.
func TestUnknownNamesAreDenied(t *testing.T) {
	for annotation, want := range map[string]string{
		"Keyferry.dev/cluster": "annotation Keyferry.dev/cluster: is not known: write it in lower case: keyferry.dev/cluster",
		"KEYFERRY.DEV/Cluster": "annotation KEYFERRY.DEV/Cluster: is not known: write it in lower case: keyferry.dev/cluster",
		// The Kelvin sign: strings.ToLower, by which the API server validates keys, makes a k of it.
		"\u212aeyferry.dev/cluster": "annotation \u212aeyferry.dev/cluster: is not known: correct its name, or remove it",
	} {
		wantGuarded(t, pod("shop", map[string]string{annotation: "fleet/tenant-1"}), want)
	}
	wantGuarded(t, pod("keyferry-system", annotated("clutser", "fleet/tenant-1")), "annotation keyferry.dev/clutser: is not known: correct its name, or remove it")
}

// TestPodOfTheReleaseIsDenied: the webhook is not called for the namespaces of Keyferry and
// Kubernetes.
func TestPodOfTheReleaseIsDenied(t *testing.T) {
	for _, ns := range []string{"keyferry-system", "kube-system", "kube-public", "kube-node-lease"} {
		wantGuarded(t, pod(ns, annotated("cluster", "fleet/tenant-1")), "annotation keyferry.dev/cluster: Keyferry has not injected the Pod, ",
			": create it in another namespace, because Keyferry injects no Pods in "+ns+", or remove the annotation")
	}
}

// TestGuardWithoutTheWebhook: the webhook configuration was deleted, or Keyferry was uninstalled.
func TestGuardWithoutTheWebhook(t *testing.T) {
	removeWebhook(t)
	for _, annotation := range []string{"cluster", "cluster-profile", "clusters", "credential-request"} {
		t.Run(annotation, func(t *testing.T) {
			denial := wantGuarded(t, pod("shop", annotated(annotation, "fleet/tenant-1")), "annotation keyferry.dev/"+annotation+": Keyferry has not injected the Pod, ")
			for _, want := range []string{
				"If Keyferry is not installed (kubectl get mutatingwebhookconfiguration keyferry-webhook), install it, or remove the annotation.",
				"kubectl delete validatingadmissionpolicybinding,validatingadmissionpolicy keyferry-guard",
			} {
				if !strings.Contains(denial.Message, want) {
					t.Errorf("the message lacks %q:\n%s", want, denial.Message)
				}
			}
			if denial.Reason != metav1.StatusReasonInvalid {
				t.Errorf("reason %s", denial.Reason)
			}
		})
	}
	t.Run("forged status", func(t *testing.T) {
		wantGuarded(t, pod("shop", annotated("cluster", "fleet/tenant-1", "status", `{"version":"v0.1.0","clusters":["fleet/tenant-1"],"delivery":"Direct","containers":["app"]}`)),
			"annotation keyferry.dev/cluster: Keyferry has not injected the Pod, ")
	})
	t.Run("nothing is asked for", func(t *testing.T) {
		for _, annotations := range []map[string]string{nil, {}, {"example.com/keyferry.dev": "x"}, annotated("status", "{}")} {
			must(t, api.client.Create(t.Context(), pod("shop", annotations), client.DryRunAll))
		}
	})
	// Such a Pod may have no ServiceAccount and no token, by an admission plugin of the API server;
	// kubelets do not run it.
	t.Run("mirror Pod", func(t *testing.T) {
		annotations := annotated("cluster", "fleet/tenant-1")
		annotations[corev1.MirrorPodAnnotationKey] = "x"
		p := pod("shop", annotations)
		p.Spec.NodeName = "node"
		must(t, api.client.Create(t.Context(), p, client.DryRunAll))
	})
	t.Run("injected Pods", testGuardAdmitsInjected)
	t.Run("changed Pods", testGuardDeniesChanged)
	t.Run("damaged Pods", testGuardDeniesDamaged)
}

// testGuardAdmitsInjected checks that the guard admits all injected Pods, including those of
// released versions.
func testGuardAdmitsInjected(t *testing.T) {
	admitted := 0
	for name, p := range goldenPods(t) {
		err := api.client.Create(t.Context(), p, client.DryRunAll)
		switch {
		case err == nil:
			admitted++
		case !testenv.Has(testenv.ImageVolume) && strings.Contains(err.Error(), "(volume keyferry-plugin has another source)"):
			// The API server itself has removed the image.
		case strings.Contains(err.Error(), "keyferry-guard"):
			t.Errorf("%s: %v", name, err)
		}
	}
	if admitted < 40 {
		t.Errorf("only %d Pods were admitted: has the test data moved?", admitted)
	}
}

// goldenPods returns the injected Pods in the injector's test data.
func goldenPods(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	pods := map[string]*unstructured.Unstructured{}
	for _, pattern := range []string{"inject/*.golden.yaml", "released/*.yaml", "replay/*keyferry.yaml", "replay/*/*keyferry.yaml"} {
		files, err := filepath.Glob("../injector/testdata/" + pattern)
		must(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			must(t, err)
			var content map[string]any
			must(t, yaml.Unmarshal(text, &content))
			if golden, ok := content["pod"].(map[string]any); ok {
				content = golden
			}
			if !testenv.Has(testenv.EnvFromFile) {
				withLiteralEnv(content)
			}
			p := &unstructured.Unstructured{Object: content}
			if p.GetAnnotations()[injector.AnnotationStatus] == "" {
				continue
			}
			p.SetNamespace(cmp.Or(p.GetNamespace(), "shop"))
			must(t, unstructured.SetNestedField(p.Object, "default", "spec", "serviceAccountName")) // an admission plugin's, which does not run here
			pods[strings.TrimPrefix(file, "../injector/testdata/")] = p
		}
	}
	return pods
}

// withLiteralEnv replaces variables from files by literal ones, and the sidecar's arguments for
// them, as injection does for API servers without this feature.
func withLiteralEnv(value any) {
	switch value := value.(type) {
	case map[string]any:
		if source, ok := value["valueFrom"].(map[string]any); ok && source["fileKeyRef"] != nil {
			delete(value, "valueFrom")
			value["value"] = "6443"
			if value["name"] == "KUBERNETES_SERVICE_HOST" {
				value["value"] = "203.0.113.7"
			}
		}
		if args, ok := value["args"].([]any); ok {
			if i := slices.Index(args, any("--on-endpoint-change=restart")); i >= 0 {
				delete(value, "restartPolicyRules")
				value["args"] = slices.Concat(args[:i], []any{"--on-endpoint-change=ignore", "--endpoint=https://203.0.113.7:6443"}, args[i+1:])
			}
		}
		for _, inner := range value {
			withLiteralEnv(inner)
		}
	case []any:
		for _, inner := range value {
			withLiteralEnv(inner)
		}
	}
}

// testGuardDeniesChanged checks that the guard denies an annotation if a part of its injection is
// missing or changed.
func testGuardDeniesChanged(t *testing.T) {
	pods := goldenPods(t)
	for name, c := range map[string]struct {
		golden string
		change func(*corev1.Pod)
		want   string
	}{
		"no sidecar": {"minimal", func(p *corev1.Pod) { p.Spec.InitContainers = nil }, "keyferry-refresher"},
		"sidecar that is no sidecar": {"minimal", func(p *corev1.Pod) {
			c := &p.Spec.InitContainers[0]
			c.RestartPolicy, c.RestartPolicyRules, c.Lifecycle = nil, nil, nil
		}, "keyferry-refresher"},
		"another cluster":   {"minimal", func(p *corev1.Pod) { p.Annotations["keyferry.dev/cluster"] = "fleet/tenant-2" }, "keyferry-refresher"},
		"another namespace": {"minimal", func(p *corev1.Pod) { p.Annotations["keyferry.dev/cluster"] = "tenant-1" }, "keyferry-refresher"},
		"a profile": {"minimal", func(p *corev1.Pod) {
			delete(p.Annotations, "keyferry.dev/cluster")
			p.Annotations["keyferry.dev/cluster-profile"] = "fleet/tenant-1"
		}, "keyferry-refresher"},
		"another federated cluster": {"federated", func(p *corev1.Pod) { p.Annotations["keyferry.dev/cluster"] = "fleet/tenant-2" }, "neither container keyferry-refresher"},
		"a cluster beside a CredentialRequest": {"secret", func(p *corev1.Pod) { p.Annotations["keyferry.dev/cluster"] = "fleet/tenant-2" },
			"neither container keyferry-refresher"},
		"one more cluster": {"clusters", func(p *corev1.Pod) { p.Annotations["keyferry.dev/clusters"] += ",fleet/other" }, "keyferry-refresher"},
		"the sidecar's, from a CredentialRequest": {"minimal", func(p *corev1.Pod) {
			delete(p.Annotations, "keyferry.dev/cluster")
			p.Annotations["keyferry.dev/credential-request"] = "tenant-1"
		}, "volume keyferry-credentials"},
		"the local token in a volume of that name": {"federated", func(p *corev1.Pod) {
			for i := range p.Spec.Volumes {
				if v := &p.Spec.Volumes[i]; v.Name == injector.CredentialsVolume {
					v.Projected.Sources = []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}
				}
			}
		}, "volume keyferry-credentials"},
		"no mount": {"minimal", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts = nil }, "container app does not mount volume keyferry-credentials"},
		"the local token is mounted": {"minimal", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "local", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "local"})
		}, "container app does not mount volume keyferry-credentials"},
		"another container": {"minimal", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "late", Image: "example.com/late:1"})
		}, "container late does not mount volume keyferry-credentials"},
		"another init container": {"minimal", func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "late", Image: "example.com/late:1"})
		}, "container late does not mount volume keyferry-credentials"},
		"a container of another Pod, with a name of Argo Workflows'": {"minimal", func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "init", Image: "example.com/init:1"})
		}, "container init does not mount volume keyferry-credentials"},
		"a proxy that is asked for": {"minimal", func(p *corev1.Pod) {
			p.Annotations["keyferry.dev/containers"] = "app, istio-proxy"
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "istio-proxy", Image: "example.com/istio:1"})
		}, "container istio-proxy does not mount volume keyferry-credentials"},
		"no kubeconfig": {"clusters-only", func(p *corev1.Pod) {
			for i := range p.Spec.Containers {
				p.Spec.Containers[i].VolumeMounts = nil
			}
		}, "container app does not mount volume keyferry-credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			golden, ok := pods["inject/"+c.golden+".golden.yaml"]
			if !ok {
				t.Fatalf("there is no %s", c.golden)
			}
			wantGuarded(t, changedPod(t, golden, c.change), ": Keyferry has not injected the Pod, ", c.want)
		})
	}
	for name, c := range map[string]struct {
		golden string
		change func(*corev1.Pod)
		want   string
	}{
		"another mount over the files": {"literal-env", func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "other"})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts,
				corev1.VolumeMount{Name: "other", MountPath: "/run/secrets/kubernetes.io/serviceaccount/"})
		}, "container app has another mount at /run/secrets/kubernetes.io/serviceaccount"},
		"a variable before those that it refers to": {"literal-env", func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.Env = append([]corev1.EnvVar{{Name: "API", Value: "https://$(KUBERNETES_SERVICE_HOST)"}}, c.Env...)
		}, "container app has moved env: a variable with $(KUBERNETES_SERVICE_...) is before KUBERNETES_SERVICE_HOST"},
		"no label": {"federated", func(p *corev1.Pod) { p.Labels = nil }, "the Pod has lost label keyferry.dev/federated"},
		"no namespace": {"secret", func(p *corev1.Pod) { delete(p.Annotations, "keyferry.dev/namespace") },
			"the Pod has lost annotation keyferry.dev/namespace"},
		"many damages": {"several-containers", func(p *corev1.Pod) {
			p.Annotations["keyferry.dev/on-endpoint-change"] = "ignore"
			for i := range p.Spec.Containers {
				p.Spec.Containers[i].Env = nil
			}
		}, "has lost or changed env " + allVariables},
	} {
		t.Run(name, func(t *testing.T) {
			wantGuarded(t, changedPod(t, pods["inject/"+c.golden+".golden.yaml"], c.change), ": another webhook has changed what Keyferry added to the Pod (", c.want)
		})
	}
	t.Run("order of init containers", func(t *testing.T) {
		wantGuarded(t, changedPod(t, pods["inject/minimal.golden.yaml"], func(p *corev1.Pod) {
			early := *p.Spec.Containers[0].DeepCopy()
			early.Name = "early"
			p.Spec.InitContainers = append([]corev1.Container{early}, p.Spec.InitContainers...)
		}), ": another webhook has changed what Keyferry added to the Pod (init container early is before keyferry-refresher): "+
			"update that webhook, set its reinvocationPolicy to Never, or give its configuration a name that sorts before keyferry-webhook")
	})
	for name, change := range map[string]func(*corev1.Pod){
		"another container, excluded": func(p *corev1.Pod) {
			p.Annotations["keyferry.dev/exclude-containers"] = "other, late"
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "late", Image: "example.com/late:1"})
		},
		"another container, not listed": func(p *corev1.Pod) {
			p.Annotations["keyferry.dev/containers"] = " app"
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "late", Image: "example.com/late:1"})
		},
		"as many containers as the annotation may name, with variables and mounts": func(p *corev1.Pod) {
			app := &p.Spec.Containers[0]
			for i := range 40 {
				name := fmt.Sprintf("%s-%d", strings.Repeat("v", 50), i)
				app.Env = append(app.Env, corev1.EnvVar{Name: name, Value: name})
				app.VolumeMounts = append(app.VolumeMounts, corev1.VolumeMount{Name: injector.CredentialsVolume, MountPath: "/opt/" + name, ReadOnly: true})
			}
			app.Env = append(app.Env, corev1.EnvVar{Name: "API", Value: "https://$(KUBERNETES_SERVICE_HOST)"})
			p.Annotations["keyferry.dev/containers"] = app.Name
			for i := range 199 {
				another := *app.DeepCopy()
				another.Name = fmt.Sprintf("%s-%d", strings.Repeat("a", 50), i)
				p.Spec.Containers = append(p.Spec.Containers, another)
				p.Annotations["keyferry.dev/containers"] += ", " + another.Name
			}
		},
		"mounts elsewhere": func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "other"})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts,
				corev1.VolumeMount{Name: "other", MountPath: "/host/run/secrets/kubernetes.io/serviceaccount"},
				corev1.VolumeMount{Name: "other", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount-other"})
		},
		"a proxy": func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "istio-proxy", Image: "example.com/istio:1"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, api.client.Create(t.Context(), changedPod(t, pods["inject/minimal.golden.yaml"], change), client.DryRunAll))
		})
	}
}

func changedPod(t *testing.T, golden *unstructured.Unstructured, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	raw, err := golden.MarshalJSON()
	must(t, err)
	p := new(corev1.Pod)
	must(t, json.Unmarshal(raw, p))
	change(p)
	return p
}

// removeWebhook removes Keyferry's MutatingWebhookConfiguration until t ends.
func removeWebhook(t *testing.T) {
	t.Helper()
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "keyferry-webhook"}}
	must(t, api.client.Get(t.Context(), client.ObjectKeyFromObject(configuration), configuration))
	calls := func(want bool) {
		t.Helper()
		if !eventually(func() bool {
			err := api.client.Create(context.Background(), pod("shop", annotated("typo", "")), client.DryRunAll)
			return strings.Contains(fmt.Sprint(err), deniedBy) == want
		}) {
			t.Fatalf("the API server is to call the webhook: %t", want)
		}
	}
	must(t, api.client.Delete(t.Context(), configuration))
	t.Cleanup(func() {
		configuration.ObjectMeta = metav1.ObjectMeta{Name: configuration.Name}
		must(t, api.client.Create(context.Background(), configuration))
		calls(true)
	})
	calls(false)
}

// wantGuarded checks that the guard denies a Pod with a message that contains each of want.
func wantGuarded(t *testing.T, p *corev1.Pod, want ...string) metav1.Status {
	t.Helper()
	err := api.client.Create(t.Context(), p.DeepCopy(), client.DryRunAll)
	denial, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		t.Fatalf("want a denial, got %v", err)
	}
	if _, message, ok := strings.Cut(denial.Error(), deniedByGuard); !ok || slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(message, part) }) {
		t.Errorf("got  %v\nwant %s…%s", err, deniedByGuard, strings.Join(want, "…"))
	}
	return denial.Status()
}

// TestAnnotationOfAnExistingPod: an annotation that is added to an existing Pod has no effect. Even
// while a Pod waits for its scheduling gates, the API server does not accept a sidecar.
func TestAnnotationOfAnExistingPod(t *testing.T) {
	gated := pod("shop", nil)
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/queue"}}
	must(t, api.client.Create(t.Context(), gated))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), gated)) })
	gated.Annotations = annotated("cluster", "fleet/tenant-1")
	must(t, api.client.Update(t.Context(), gated))
	if len(gated.Spec.InitContainers) > 0 {
		t.Errorf("the Pod has the init containers %v", gated.Spec.InitContainers)
	}
	sidecar := gated.DeepCopy()
	sidecar.Spec.InitContainers = []corev1.Container{{Name: injector.RefresherContainer, Image: "example.com/refresher:1"}}
	if err := api.client.Update(t.Context(), sidecar); !apierrors.IsInvalid(err) {
		t.Errorf("a sidecar is added: %v", err)
	}
	gated.Spec.SchedulingGates = nil
	must(t, api.client.Update(t.Context(), gated))
}
