package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestGuard: somebody deletes the webhook configuration. Annotated Pods are denied, instead of
// working on the local cluster, until it is there again.
func TestGuard(t *testing.T) {
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	eventually(t, time.Minute, "a Pod is admitted", func() error { return tn.createPod(t.Context(), ns) })

	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Name: "keyferry-webhook"}, configuration); err != nil {
		t.Fatal(err)
	}
	if err := suite.management.Delete(t.Context(), configuration.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		configuration.ResourceVersion, configuration.UID = "", ""
		if err := suite.management.Create(context.Background(), configuration); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "a Pod is admitted again", func() error { return tn.createPod(context.Background(), ns) })
	})
	tn.guarded(t, ns)
}

// guarded: the policy denies the tenant's Pods, once the API server calls no webhook for them.
func (tn tenant) guarded(t *testing.T, namespace string) {
	t.Helper()
	eventually(t, time.Minute, "the policy keyferry-guard denies a Pod", func() error {
		err := tn.createPod(t.Context(), namespace)
		if err == nil {
			return errors.New("a Pod is admitted")
		}
		if !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'keyferry-guard'") || !strings.Contains(err.Error(), "Keyferry has not injected the Pod") {
			return err
		}
		return nil
	})
}
