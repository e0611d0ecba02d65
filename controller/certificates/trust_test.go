package certificates

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
)

// TestTrustIsRestored: whatever users with all rights in a namespace do to its ConfigMap.
func TestTrustIsRestored(t *testing.T) {
	w := newWorld(t)
	w.run()
	yes := true
	for _, test := range []struct {
		name   string
		change func(*corev1.ConfigMap)
	}{
		{"edited and immutable", func(cm *corev1.ConfigMap) { cm.Immutable, cm.Data = &yes, map[string]string{caKey: "evil"} }},
		{"immutable", func(cm *corev1.ConfigMap) { cm.Immutable = &yes }},
		{"immutable, with a finalizer", func(cm *corev1.ConfigMap) { cm.Immutable, cm.Finalizers = &yes, []string{"example.com/kept"} }},
		{"binary data", func(cm *corev1.ConfigMap) { cm.BinaryData = map[string][]byte{"more": {0}} }},
		{"edited, with another manager", func(cm *corev1.ConfigMap) {
			cm.Data, cm.Labels = map[string]string{caKey: "evil"}, map[string]string{"app.kubernetes.io/managed-by": "evil"}
		}},
	} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
		w.create(namespace)
		w.eventually("a new namespace", w.trusted(namespace.Name))
		cm := w.trustOf(namespace.Name)
		test.change(cm)
		if err := w.client.Update(t.Context(), cm, client.FieldOwner("evil")); err != nil {
			t.Fatal(err)
		}
		w.eventually(test.name, func(ctx context.Context) bool {
			w.wantKept(test.name)
			return w.trusted(namespace.Name)(ctx) && !isImmutable(w.trustOf(namespace.Name))
		})
	}
	t.Run("deleted, and created by another manager", func(*testing.T) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
		w.create(namespace)
		w.eventually("a new namespace", w.trusted(namespace.Name))
		w.replaceTrust(namespace.Name, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: injector.TrustConfigMap},
			Data:       map[string]string{caKey: "evil"}, Immutable: &yes,
		})
		w.eventually("it is restored", w.trusted(namespace.Name))
	})
	t.Run("deleted, and kept by a finalizer", func(t *testing.T) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
		w.create(namespace)
		w.eventually("a new namespace", w.trusted(namespace.Name))
		cm := w.trustOf(namespace.Name)
		cm.Finalizers = []string{"example.com/kept"}
		if err := w.client.Update(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
		if err := w.client.Delete(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
		w.eventually("it is another one", func(ctx context.Context) bool {
			return w.trusted(namespace.Name)(ctx) && w.trustOf(namespace.Name).UID != cm.UID
		})
	})
}

// trustOf returns the ConfigMap of a namespace, empty if it is gone.
func (w *world) trustOf(namespace string) *corev1.ConfigMap {
	w.t.Helper()
	cm := &corev1.ConfigMap{}
	err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: namespace, Name: injector.TrustConfigMap}, cm)
	if client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
	return cm
}

// wantKept ends the test if the controller has reported a ConfigMap that it cannot restore.
func (w *world) wantKept(what string) {
	w.t.Helper()
	for len(w.events.Events) > 0 {
		if event := <-w.events.Events; strings.HasPrefix(event, "Warning NotKept ") {
			w.t.Fatalf("%s: %s", what, event)
		}
	}
}

// replaceTrust deletes the ConfigMap of a namespace and creates another one, before the controller
// does.
func (w *world) replaceTrust(namespace string, other *corev1.ConfigMap) {
	w.t.Helper()
	w.eventually("created by another manager", func(ctx context.Context) bool {
		_ = w.client.Delete(ctx, w.trustOf(namespace))
		return w.client.Create(ctx, other.DeepCopy()) == nil
	})
}

// TestTrustCannotBeImmutable: the policy denies it to all users, so that no kubelet stops watching
// the ConfigMap.
func TestTrustCannotBeImmutable(t *testing.T) {
	w := newWorld(t)
	yes, no := true, false
	old := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
	w.create(old)
	before := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: old.Name, Name: "keyferry-trust", Finalizers: []string{"example.com/kept"}},
		Immutable:  &yes,
	}
	w.create(before)
	text := must[[]byte](t)(os.ReadFile("../../config/default/configmap-policy.yaml"))
	first, second, _ := bytes.Cut(text, []byte("\n---\n"))
	p, b := new(admissionv1.ValidatingAdmissionPolicy), new(admissionv1.ValidatingAdmissionPolicyBinding)
	for object, text := range map[client.Object][]byte{p: first, b: second} {
		if err := yaml.UnmarshalStrict(text, object); err != nil {
			t.Fatal(err)
		}
		if object == client.Object(p) { // another rule, which shows when the policy acts
			p.Spec.Validations = append(p.Spec.Validations, admissionv1.Validation{Expression: "!('test' in object.metadata.?labels.orValue({}))", Message: "the policy acts"})
		}
		w.create(object)
	}
	w.eventually("the policy acts", func(ctx context.Context) bool {
		err := w.client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "keyferry-trust", Labels: map[string]string{"test": ""}},
		}, client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "the policy acts")
	})
	try := func(ctx context.Context, name string, immutable *bool) error {
		return w.client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Immutable: immutable,
		}, client.DryRunAll)
	}
	denied := func(err error, name string) bool {
		return err != nil && strings.Contains(err.Error(), "ConfigMap "+name+" must not be immutable")
	}
	for _, name := range []string{"keyferry-trust", "keyferry-federation"} {
		if err := try(t.Context(), name, &yes); !denied(err, name) {
			t.Errorf("an immutable %s: %v", name, err)
		}
	}
	for name, immutable := range map[string]*bool{"other": &yes, "keyferry-trust": nil, "keyferry-federation": &no} {
		if err := try(t.Context(), name, immutable); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "keyferry-trust"}}
	w.create(cm)
	cm.Immutable = &yes
	if err := w.client.Update(t.Context(), cm, client.DryRunAll); !denied(err, "keyferry-trust") {
		t.Errorf("update: %v", err)
	}
	before.Finalizers = nil
	if err := w.client.Update(t.Context(), before); err != nil {
		t.Errorf("the finalizers of a ConfigMap that was immutable before the policy: %v", err)
	}
}

// TestTrustThatIsDenied: a quota or policy of a namespace denies the ConfigMap. An Event there
// names the reason, a metric counts the namespace, and the ConfigMap is written once it is allowed.
func TestTrustThatIsDenied(t *testing.T) {
	w := newWorld(t)
	w.trust.Publish([]byte("bundle"))
	for name, test := range map[string]struct {
		deny  func(namespace string) client.Object
		cause string
	}{
		"quota":  {w.denyByQuota, "exceeded quota: none"},
		"policy": {w.denyByPolicy, "no ConfigMaps here"},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
			w.create(namespace)
			denier := test.deny(namespace.Name)
			request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(namespace)}
			w.eventually("it is denied", func(ctx context.Context) bool {
				_, err := w.trust.Reconcile(ctx, request)
				if err == nil { // the API server does not know the quota or policy yet
					_ = w.client.Delete(ctx, w.trustOf(namespace.Name))
				}
				return err != nil
			})
			if got := <-w.events.Events; !strings.HasPrefix(got, "Warning NotKept ") || !strings.Contains(got, test.cause) ||
				!strings.Contains(got, "do not start without this ConfigMap: allow the ConfigMap in the quota or policy") {
				t.Errorf("got Event %q", got)
			}
			if got := testutil.ToFloat64(w.trust.blocked.gauge); got != 1 {
				t.Errorf("the metric is %v", got)
			}
			if err := w.client.Delete(t.Context(), denier); err != nil {
				t.Fatal(err)
			}
			w.eventually("it is written", func(ctx context.Context) bool {
				_, err := w.trust.Reconcile(ctx, request)
				for len(w.events.Events) > 0 {
					<-w.events.Events
				}
				return err == nil
			})
			if w.trustOf(namespace.Name).Data[caKey] != "bundle" || testutil.ToFloat64(w.trust.blocked.gauge) != 0 {
				t.Errorf("the ConfigMap is %v", w.trustOf(namespace.Name).Data)
			}
		})
	}
}

func (w *world) denyByQuota(namespace string) client.Object {
	w.t.Helper()
	hard := corev1.ResourceList{"count/configmaps": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	w.create(quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: hard} // its controller does not run
	if err := w.client.Status().Update(w.t.Context(), quota); err != nil {
		w.t.Fatal(err)
	}
	return quota
}

// denyByPolicy returns the binding of a policy.
func (w *world) denyByPolicy(namespace string) client.Object {
	w.t.Helper()
	w.create(&admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}}}},
			Validations: []admissionv1.Validation{{Expression: "object.metadata.namespace != '" + namespace + "'", Message: "no ConfigMaps here"}},
		},
	})
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: namespace, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	w.create(binding)
	return binding
}
