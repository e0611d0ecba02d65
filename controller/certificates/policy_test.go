package certificates

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// policy is the one that the controller is under, as config/default has it.
func policy(t *testing.T) (*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) {
	t.Helper()
	text := must[[]byte](t)(os.ReadFile("../../config/default/controller-policy.yaml"))
	first, second, _ := bytes.Cut(text, []byte("\n---\n"))
	p, b := new(admissionv1.ValidatingAdmissionPolicy), new(admissionv1.ValidatingAdmissionPolicyBinding)
	if err := yaml.UnmarshalStrict(first, p); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(second, b); err != nil {
		t.Fatal(err)
	}
	return p, b
}

// TestControllerChangesOnlyTheBundle: a compromised controller cannot make a webhook configuration
// send objects elsewhere, or more of them.
func TestControllerChangesOnlyTheBundle(t *testing.T) {
	w := newWorld(t)
	p, b := policy(t)
	w.create(p)
	w.create(b)
	account := rest.CopyConfig(server)
	// With all rights, so that nothing but the policy denies it anything.
	account.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:keyferry-system:keyferry-controller", Groups: []string{"system:masters"}}
	controller := must[client.Client](t)(client.New(account, client.Options{Scheme: scheme.Scheme}))

	change := func(ctx context.Context, how func(*admissionv1.MutatingWebhookConfiguration)) error {
		cfg := new(admissionv1.MutatingWebhookConfiguration)
		if err := w.client.Get(ctx, client.ObjectKey{Name: w.namespace}, cfg); err != nil {
			return err
		}
		before := cfg.DeepCopy()
		how(cfg)
		return controller.Patch(ctx, cfg, client.MergeFrom(before), client.DryRunAll)
	}
	denied := func(err error) bool { return err != nil && strings.Contains(err.Error(), "may change only caBundle") }
	label := func(cfg *admissionv1.MutatingWebhookConfiguration) { cfg.Labels = map[string]string{"a": "b"} }
	w.eventually("the policy acts", func(ctx context.Context) bool { return denied(change(ctx, label)) })

	ignore, exact, no := admissionv1.Ignore, admissionv1.Exact, admissionv1.IfNeededReinvocationPolicy
	class, seconds, url := admissionv1.SideEffectClassNoneOnDryRun, int32(3), "https://evil.example.com"
	all := admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{"*"},
		Rule:       admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}},
	}
	for field, how := range map[string]func(*admissionv1.MutatingWebhook){
		"clientConfig.url":     func(h *admissionv1.MutatingWebhook) { h.ClientConfig.URL, h.ClientConfig.Service = &url, nil },
		"clientConfig.service": func(h *admissionv1.MutatingWebhook) { h.ClientConfig.Service.Name = "evil" },
		"rules":                func(h *admissionv1.MutatingWebhook) { h.Rules = append(h.Rules, all) },
		"failurePolicy":        func(h *admissionv1.MutatingWebhook) { h.FailurePolicy = &ignore },
		"matchPolicy":          func(h *admissionv1.MutatingWebhook) { h.MatchPolicy = &exact },
		"namespaceSelector": func(h *admissionv1.MutatingWebhook) {
			h.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		},
		"objectSelector": func(h *admissionv1.MutatingWebhook) {
			h.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		},
		"sideEffects":             func(h *admissionv1.MutatingWebhook) { h.SideEffects = &class },
		"timeoutSeconds":          func(h *admissionv1.MutatingWebhook) { h.TimeoutSeconds = &seconds },
		"admissionReviewVersions": func(h *admissionv1.MutatingWebhook) { h.AdmissionReviewVersions = []string{"v1", "v2"} },
		"reinvocationPolicy":      func(h *admissionv1.MutatingWebhook) { h.ReinvocationPolicy = &no },
		"matchConditions": func(h *admissionv1.MutatingWebhook) {
			h.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "true"}}
		},
		"name": func(h *admissionv1.MutatingWebhook) { h.Name = "third.keyferry.dev" },
	} {
		if err := change(t.Context(), func(cfg *admissionv1.MutatingWebhookConfiguration) { how(&cfg.Webhooks[1]) }); !denied(err) {
			t.Errorf("webhooks[1].%s: %v", field, err)
		}
	}
	for name, how := range map[string]func(*admissionv1.MutatingWebhookConfiguration){
		"one webhook less": func(cfg *admissionv1.MutatingWebhookConfiguration) { cfg.Webhooks = cfg.Webhooks[:1] },
		"annotations": func(cfg *admissionv1.MutatingWebhookConfiguration) {
			cfg.Annotations = map[string]string{"cert-manager.io/inject-ca-from": "evil/evil"}
		},
		"ownerReferences": func(cfg *admissionv1.MutatingWebhookConfiguration) {
			cfg.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Namespace", Name: "evil", UID: "u"}}
		},
		"finalizers": func(cfg *admissionv1.MutatingWebhookConfiguration) { cfg.Finalizers = []string{"example.com/evil"} },
	} {
		if err := change(t.Context(), how); !denied(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := controller.Create(t.Context(), mutating("another"), client.DryRunAll); !denied(err) {
		t.Errorf("another configuration: %v", err)
	}
	other := validating(w.namespace)
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: w.namespace}, other); err != nil {
		t.Fatal(err)
	}
	before := other.DeepCopy()
	other.Webhooks[0].Rules = append(other.Webhooks[0].Rules, all)
	if err := controller.Patch(t.Context(), other, client.MergeFrom(before), client.DryRunAll); !denied(err) {
		t.Errorf("rules of a ValidatingWebhookConfiguration: %v", err)
	}

	// What it is there for, as it does it, and what others may do.
	w.publisher.Client = controller
	w.reconcile()
	cfg := new(admissionv1.MutatingWebhookConfiguration)
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: w.namespace}, cfg); err != nil {
		t.Fatal(err)
	}
	if len(cfg.Webhooks[1].ClientConfig.CABundle) == 0 {
		t.Error("the controller has not written caBundle")
	}
	cfg.Labels = map[string]string{"a": "b"}
	if err := w.client.Update(t.Context(), cfg); err != nil {
		t.Errorf("another user: %v", err)
	}
}

// TestPolicyListsAllFields fails when Kubernetes adds a field to webhook configurations that the
// policy does not compare.
func TestPolicyListsAllFields(t *testing.T) {
	p, _ := policy(t)
	listed := map[string][]string{}
	for _, v := range p.Spec.Variables {
		for _, match := range regexp.MustCompile(`([a-z.]+)\.\?([a-zA-Z]+)(?:\.\?([a-zA-Z]+))?`).FindAllStringSubmatch(v.Expression, -1) {
			on, field := match[1], match[2]
			if match[3] != "" && match[3] != "orValue" {
				on, field = on+"."+field, match[3]
			}
			listed[on] = append(listed[on], field)
		}
	}
	// The API server itself writes these, or refuses to change them.
	server := []string{"selfLink", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"}
	for _, test := range []struct {
		typ   any
		on    string
		apart []string
	}{
		{admissionv1.MutatingWebhookConfiguration{}, "o", []string{"", "metadata"}},
		{admissionv1.ValidatingWebhookConfiguration{}, "o", []string{"", "metadata"}},
		{metav1.ObjectMeta{}, "o.metadata", server},
		{admissionv1.MutatingWebhook{}, "w", []string{"clientConfig"}},
		{admissionv1.ValidatingWebhook{}, "w", []string{"clientConfig"}},
		{admissionv1.WebhookClientConfig{}, "w.clientConfig", []string{"caBundle"}},
	} {
		for field := range reflect.TypeOf(test.typ).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !slices.Contains(test.apart, name) && !slices.Contains(listed[test.on], name) {
				t.Errorf("%T has the field %s, which the policy keyferry-controller does not compare", test.typ, name)
			}
		}
	}
}
