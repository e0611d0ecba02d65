package webhook

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/injector"
)

// TestContainerOfAnotherWebhook: another webhook adds a container, before or after Keyferry's
// webhook. The container is injected, or keeps the local cluster if the Pod excludes it: a Pod may
// name a container that is added later.
func TestContainerOfAnotherWebhook(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	for _, name := range []string{"aa-profiler", "profiler"} { // keyferry-webhook is between them
		for _, policy := range []admissionregistrationv1.ReinvocationPolicyType{
			admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy,
		} {
			t.Run(name+", "+string(policy), func(t *testing.T) {
				labels := map[string]string{"profile": "true"}
				standIn(t, name, policy, labels, func(p *corev1.Pod) []injector.Operation {
					if slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == "profiler" }) {
						return nil
					}
					return []injector.Operation{{Op: "add", Path: "/spec/containers/-", Value: map[string]string{"name": "profiler", "image": "example.com/profiler:1"}}}
				})
				for exclude, want := range map[string]string{"": "app profiler", "profiler": "app"} {
					annotations := annotated("cluster", "fleet/tenant-1")
					if exclude != "" {
						annotations[injector.AnnotationExcludeContainers] = exclude
					}
					p := running("web", pod("shop", annotations))
					p.Labels = labels
					if err := api.client.Create(t.Context(), p, client.DryRunAll); err != nil {
						t.Errorf("excluded %q: %v", exclude, err)
						continue
					}
					if got := strings.Join(injectedContainers(p), " "); got != want || len(p.Spec.Containers) != 2 {
						t.Errorf("excluded %q: injected are %q of %d, want %q", exclude, got, len(p.Spec.Containers), want)
					}
				}
			})
		}
	}
}

// damages are changes of other webhooks to an injected Pod. For webhooks with types of a Kubernetes
// that Keyferry supports, see TestWebhookWithOlderTypes.
var damages = map[string]struct {
	do func(*corev1.Pod)
	// last is a part of the denial if such a webhook has the last word; empty if the Pod works anyway.
	last string
	// restored is what the warning names as restored; empty if there is no warning.
	restored string
}{
	"types of Kubernetes 1.27": {do: func(p *corev1.Pod) {
		for i := range p.Spec.InitContainers {
			p.Spec.InitContainers[i].RestartPolicyRules, p.Spec.InitContainers[i].RestartPolicy = nil, nil
		}
	}, last: "lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always", restored: "init container keyferry-refresher: restartPolicy"},
	"containers of others are removed": {do: func(p *corev1.Pod) {
		p.Spec.InitContainers = slices.DeleteFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "keyferry-refresher" })
	}, last: "neither container keyferry-refresher nor volume keyferry-credentials provides the credentials", restored: "init container keyferry-refresher"},
	"mounts of unknown volumes are removed": {do: func(p *corev1.Pod) {
		p.Spec.Containers[0].VolumeMounts = nil
	}, last: "if another webhook adds or changes app after Keyferry", restored: "container app: volumeMounts"},
	"mounts get another subPath": {do: func(p *corev1.Pod) {
		p.Spec.Containers[0].VolumeMounts[0].SubPath = "other"
	}, last: "container app has changed the mount of volume keyferry-credentials", restored: "container app: volumeMounts"},
	"mounts become writable": {do: func(p *corev1.Pod) {
		p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false
	}, last: "container app has changed the mount of volume keyferry-credentials", restored: "container app: volumeMounts"},
	"variables are removed": {do: func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = nil
	}, last: "container app has lost or changed env " + allVariables, restored: "container app: env"},
	"variables without their sources": {do: func(p *corev1.Pod) {
		for i := range p.Spec.Containers[0].Env {
			p.Spec.Containers[0].Env[i].ValueFrom, p.Spec.Containers[0].Env[i].Value = nil, ""
		}
	}, last: "container app has lost or changed env " + allVariables, restored: "container app: env"},
	"the local cluster's address": {do: func(p *corev1.Pod) {
		env := p.Spec.Containers[0].Env
		env[0] = corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: "10.96.0.1"}
	}, last: "container app has lost or changed env KUBERNETES_SERVICE_HOST)", restored: "container app: env"},
	"the local cluster's address as the last variable": {do: func(p *corev1.Pod) {
		if env := &p.Spec.Containers[0].Env; len(*env) == 3 {
			*env = append(*env, corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: "10.96.0.1"})
		}
	}, last: "container app has lost or changed env KUBERNETES_SERVICE_HOST)", restored: "container app: env"},
	"hooks are removed": {do: func(p *corev1.Pod) {
		for i := range p.Spec.InitContainers {
			p.Spec.InitContainers[i].Lifecycle = nil
		}
	}, last: "init container keyferry-refresher has lost lifecycle.postStart", restored: "init container keyferry-refresher: lifecycle"},
	"mounts of init containers are removed": {do: func(p *corev1.Pod) {
		for i := range p.Spec.InitContainers {
			if c := &p.Spec.InitContainers[i]; c.Name == injector.RefresherContainer {
				c.VolumeMounts = nil
			}
		}
	}, last: "init container keyferry-refresher has lost the mount of volume keyferry-credentials, " +
		"init container keyferry-refresher has lost the mount of volume keyferry-identity", restored: "init container keyferry-refresher: volumeMounts"},
	"volumes lose their sources": {do: func(p *corev1.Pod) {
		for i := range p.Spec.Volumes {
			p.Spec.Volumes[i].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
		}
	}, last: "volume keyferry-credentials has another source, volume keyferry-identity has another source", restored: "volume keyferry-credentials; volume keyferry-identity"},
	"everything in reverse order": {do: func(p *corev1.Pod) {
		slices.Reverse(p.Spec.InitContainers)
		slices.Reverse(p.Spec.Containers)
		slices.Reverse(p.Spec.Volumes)
	}, last: "init container setup is before keyferry-refresher"},
	"sorted by name": {do: func(p *corev1.Pod) {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			slices.SortFunc(list, func(a, b corev1.Container) int { return strings.Compare(a.Name, b.Name) })
		}
	}},
	"its own init container first": {do: func(p *corev1.Pod) {
		if p.Spec.InitContainers[0].Name != "first" {
			p.Spec.InitContainers = slices.DeleteFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "first" })
			p.Spec.InitContainers = append([]corev1.Container{{Name: "first", Image: "example.com/first:1"}}, p.Spec.InitContainers...)
		}
	}, last: "if another webhook adds or changes first after Keyferry and the container is for the local cluster, " +
		"name it in annotation keyferry.dev/exclude-containers"},
}

const allVariables = "KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT, KUBERNETES_SERVICE_PORT_HTTPS"

// TestWebhookThatDamagesThePod checks that Keyferry restores what another webhook removes or moves.
// If the API server calls the other webhook last, the Pod works nevertheless, or is denied with the
// cause.
func TestWebhookThatDamagesThePod(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	for _, name := range []string{"aa-other", "other"} { // keyferry-webhook is between them
		for _, policy := range []admissionregistrationv1.ReinvocationPolicyType{
			admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy,
		} {
			t.Run(name+", "+string(policy), func(t *testing.T) { testDamages(t, name, policy) })
		}
	}
}

func testDamages(t *testing.T, name string, policy admissionregistrationv1.ReinvocationPolicyType) {
	t.Helper()
	c, warned := recordingClient(t)
	labels := map[string]string{"damaged": "true"}
	var damage atomic.Pointer[func(*corev1.Pod)]
	standIn(t, name, policy, labels, func(p *corev1.Pod) []injector.Operation {
		if do := damage.Load(); do != nil && p.Annotations[injector.AnnotationStatus] != "" {
			(*do)(p)
			return []injector.Operation{{Op: "replace", Path: "/spec", Value: p.Spec}}
		}
		return nil
	})
	isAfter, isReinvoked := name == "other", policy == admissionregistrationv1.IfNeededReinvocationPolicy
	for what, test := range damages {
		t.Run(what, func(t *testing.T) {
			damage.Store(&test.do)
			p := running("web", pod("shop", annotated("cluster", "fleet/tenant-1")))
			p.Labels = labels
			p.Spec.InitContainers = []corev1.Container{{Name: "setup", Image: "example.com/setup:1"}}
			err := c.Create(t.Context(), p, client.DryRunAll)
			warnings := warned.take()
			if isAfter && isReinvoked && test.last != "" {
				if err == nil || !strings.Contains(err.Error(), test.last) {
					t.Errorf("got %v, want … %s", err, test.last)
				}
				return
			}
			must(t, err)
			if first := p.Spec.InitContainers[0].Name; first != injector.RefresherContainer {
				t.Errorf("the first init container is %s", first)
			}
			want := ""
			if test.restored != "" && (isAfter || isReinvoked) {
				want = "Keyferry restored parts of its earlier injection that were missing or different: " + test.restored
			}
			if !strings.HasPrefix(warnings, want) || want == "" && warnings != "" {
				t.Errorf("warnings: %q, want %q", warnings, want)
			}
		})
	}
	damage.Store(nil)
}

func injectedContainers(p *corev1.Pod) []string {
	var names []string
	for _, c := range p.Spec.Containers {
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == injector.CredentialsVolume }) {
			names = append(names, c.Name)
		}
	}
	return names
}

// standIn installs another mutating webhook, for Pods with the labels. It returns when the API
// server calls the webhook.
func standIn(
	t *testing.T, name string, policy admissionregistrationv1.ReinvocationPolicyType, labels map[string]string,
	change func(*corev1.Pod) []injector.Operation,
) {
	t.Helper()
	var calls atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var review admissionv1.AdmissionReview
		var p corev1.Pod
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
			return
		}
		if err := json.Unmarshal(review.Request.Object.Raw, &p); err != nil {
			t.Error(err)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if ops := change(&p); len(ops) > 0 {
			patch, err := json.Marshal(ops)
			if err != nil {
				t.Error(err)
			}
			patchType := admissionv1.PatchTypeJSONPatch
			review.Response.Patch, review.Response.PatchType = patch, &patchType
		}
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	none, fail := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "stand-in.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail, ReinvocationPolicy: &policy,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL: &server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			},
			ObjectSelector: &metav1.LabelSelector{MatchLabels: labels},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}
	// isCalled has the API server create a Pod with the labels, and reports whether that calls the
	// stand-in.
	isCalled := func(ctx context.Context) (bool, error) {
		before := calls.Load()
		p := pod("shop", nil)
		p.Labels = labels
		err := api.client.Create(ctx, p, client.DryRunAll)
		return calls.Load() > before, err
	}
	must(t, api.client.Create(t.Context(), configuration))
	t.Cleanup(func() {
		must(t, api.client.Delete(context.Background(), configuration))
		if !eventually(func() bool { called, err := isCalled(context.Background()); return !called && err == nil }) {
			t.Errorf("the API server goes on calling %s", name)
		}
	})
	if !eventually(func() bool { called, _ := isCalled(t.Context()); return called }) {
		t.Fatalf("the API server does not call %s", name)
	}
}
