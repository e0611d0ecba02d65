package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestTrustIsRestored: a user of a namespace cannot make its ConfigMap keyferry-trust immutable. If
// the policy is missing, the controller replaces the ConfigMap, and a Pod that starts after that
// has the right CA.
func TestTrustIsRestored(t *testing.T) {
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	trust := func() (*corev1.ConfigMap, error) {
		cm := &corev1.ConfigMap{}
		return cm, suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "keyferry-trust"}, cm)
	}
	var original *corev1.ConfigMap
	eventually(t, time.Minute, "the ConfigMap is there", func() (err error) { original, err = trust(); return err })
	spoil := func(options ...client.UpdateOption) error {
		cm, err := trust()
		if err != nil {
			return err
		}
		yes := true
		cm.Immutable, cm.Data = &yes, map[string]string{"ca.crt": "spoilt"}
		return suite.management.Update(t.Context(), cm, options...)
	}
	if err := spoil(client.DryRunAll); err == nil || !strings.Contains(err.Error(), "ConfigMap keyferry-trust must not be immutable") {
		t.Errorf("got %v", err)
	}

	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Name: "keyferry-configmaps"}, binding); err != nil {
		t.Fatal(err)
	}
	if err := suite.management.Delete(t.Context(), binding.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		binding.ResourceVersion, binding.UID = "", ""
		if err := suite.management.Create(context.Background(), binding); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, time.Minute, "the policy is off", func() error { return spoil() })
	eventually(t, time.Minute, "the ConfigMap is replaced", func() error {
		cm, err := trust()
		if err == nil && (cm.Immutable != nil || cm.Data["ca.crt"] != original.Data["ca.crt"]) {
			return errors.New("it is not what it was")
		}
		return err
	})
	tn.deploy(t, ns, "")
	tn.works(t, ns, runningPod(t, ns).Name, "client")
}
