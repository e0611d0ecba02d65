package certificates

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
)

// TestTrustIsRestored: whatever users with all rights in a namespace do to its ConfigMap.
func TestTrustIsRestored(t *testing.T) {
	w := newWorld(t)
	w.run()
	yes := true
	for name, change := range map[string]func(*corev1.ConfigMap){
		"immutable":                   func(cm *corev1.ConfigMap) { cm.Immutable = &yes },
		"edited and immutable":        func(cm *corev1.ConfigMap) { cm.Immutable, cm.Data = &yes, map[string]string{caKey: "evil"} },
		"immutable, with a finalizer": func(cm *corev1.ConfigMap) { cm.Immutable, cm.Finalizers = &yes, []string{"example.com/kept"} },
		"binary data":                 func(cm *corev1.ConfigMap) { cm.BinaryData = map[string][]byte{"more": {0}} },
		"edited, with another manager": func(cm *corev1.ConfigMap) {
			cm.Data, cm.Labels = map[string]string{caKey: "evil"}, map[string]string{"app.kubernetes.io/managed-by": "evil"}
		},
	} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
		w.create(namespace)
		w.eventually("a new namespace", w.trusted(namespace.Name))
		cm := w.trustOf(namespace.Name)
		change(cm)
		if err := w.client.Update(t.Context(), cm, client.FieldOwner("evil")); err != nil {
			t.Fatal(err)
		}
		w.eventually(name, func(ctx context.Context) bool {
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
		w.create(object)
	}
	try := func(ctx context.Context, name string, immutable *bool) error {
		return w.client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Immutable: immutable,
		}, client.DryRunAll)
	}
	denied := func(err error, name string) bool {
		return err != nil && strings.Contains(err.Error(), "ConfigMap "+name+" must not be immutable")
	}
	w.eventually("the policy acts", func(ctx context.Context) bool { return denied(try(ctx, "keyferry-trust", &yes), "keyferry-trust") })
	if err := try(t.Context(), "keyferry-federation", &yes); !denied(err, "keyferry-federation") {
		t.Error(err)
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
