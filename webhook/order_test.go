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

// TestContainerOfAnotherWebhook: a webhook adds a container, before Keyferry's or after it. The
// container is injected, or it keeps the local cluster if the Pod excludes it: the Pod may name it
// before it is there.
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

func injectedContainers(p *corev1.Pod) []string {
	var names []string
	for _, c := range p.Spec.Containers {
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == injector.CredentialsVolume }) {
			names = append(names, c.Name)
		}
	}
	return names
}

// standIn is another mutating webhook, for Pods with the labels. It returns once the API server
// calls it.
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
