package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestRefusals: what cannot work is refused when it is created, in words that tell the fix.
func TestRefusals(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "allowed")
	suite.management.mustApply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: allowed, namespace: `+ns+`}}`, nil)

	target := "fleet/" + tn.Target
	tests := []struct {
		name, serviceAccount string
		annotations          map[string]string
		want                 []string
	}{
		{"no right to use it", "default", map[string]string{"keyferry.dev/cluster": target}, []string{"use", "targetclusters", ns, "default", tn.Target}},
		{"unknown TargetCluster", "allowed", map[string]string{"keyferry.dev/cluster": "fleet/no-such"}, []string{"keyferry.dev/cluster", "fleet/no-such"}},
		{"misspelt annotation", "allowed", map[string]string{"keyferry.dev/clutser": target}, []string{"keyferry.dev/clutser", "keyferry.dev/cluster"}},
		{"malformed value", "allowed", map[string]string{"keyferry.dev/cluster": "fleet/tenant/1"}, []string{"keyferry.dev/cluster", "fleet/tenant/1", "[namespace/]name"}},
		{"unknown container", "allowed", map[string]string{"keyferry.dev/cluster": target, "keyferry.dev/containers": "app"}, []string{"keyferry.dev/containers", "app"}},
		{"unknown delivery", "allowed", map[string]string{"keyferry.dev/cluster": target, "keyferry.dev/delivery": "fast"}, []string{"keyferry.dev/delivery", "fast", "direct"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "refused", Namespace: ns, Annotations: test.annotations},
				Spec:       corev1.PodSpec{ServiceAccountName: test.serviceAccount, Containers: []corev1.Container{{Name: "client", Image: suite.clientImage}}},
			}
			err := suite.management.Create(t.Context(), pod)
			if err == nil {
				t.Fatal("the Pod was created")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the message lacks %q: %v", want, err)
				}
			}
		})
	}

	t.Run("annotation on the Deployment instead of its template", func(t *testing.T) {
		t.Parallel()
		err := suite.management.apply(t.Context(), `
apiVersion: apps/v1
kind: Deployment
metadata: {name: misplaced, namespace: {{.NS}}, annotations: {keyferry.dev/cluster: fleet/{{.Target}}}}
spec:
  selector: {matchLabels: {app: misplaced}}
  template:
    metadata: {labels: {app: misplaced}}
    spec: {containers: [{name: client, image: {{.Image}}}]}
`, map[string]any{"NS": ns, "Target": tn.Target, "Image": suite.clientImage})
		if err == nil || !strings.Contains(err.Error(), "spec.template.metadata.annotations") {
			t.Errorf("got %v, want a refusal that says where the annotation belongs", err)
		}
	})
}

// TestWithdrawnRight: without `use`, renewal is refused and audited, and the credential that is
// there is left to end.
func TestWithdrawnRight(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	binding := tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	tn.works(t, ns, pod.Name, "client")

	if err := suite.management.Delete(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Minute, "the broker audits a refusal with 403", func() error {
		log, err := auditLog(t.Context())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(log, func(e audited) bool {
			return e.PodUID == pod.UID && e.TargetCluster == fleet+"/"+tn.Target && e.Outcome == "refused" && e.Code == http.StatusForbidden
		}) {
			return errors.New("there is no such line")
		}
		return nil
	})
	// The target goes on honouring the last token, which it issued for ten minutes: it is only no
	// longer renewed.
	before := tn.works(t, ns, pod.Name, "client")
	eventually(t, time.Minute, "the client goes on with the token that it has", func() error {
		all, err := reports(t.Context(), ns, pod.Name, "client")
		if err != nil {
			return err
		}
		if last := all[len(all)-1]; last.Requests < before.Requests+20 {
			return fmt.Errorf("%d requests", last.Requests)
		}
		return nil
	})
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d failures after the right was withdrawn (%v)", n, err)
	}
}

// TestDescribeTellsWhy: a Pod whose credential cannot be had says so where people look.
func TestDescribeTellsWhy(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	if err := suite.target.clientset.CoreV1().ServiceAccounts(tn.Namespace).Delete(t.Context(), "tenant", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	tn.deploy(t, ns, "")
	eventually(t, 3*time.Minute, "kubectl describe pod names the missing ServiceAccount", func() error {
		out := suite.management.kubectl(t, "describe", "pods", "-n", ns)
		if _, message, ok := strings.Cut(out, "Message:"); !ok || !strings.Contains(message, tn.Namespace) || !strings.Contains(message, "not found") {
			return fmt.Errorf("it says\n%s", out)
		}
		return nil
	})
	pods, err := suite.management.clientset.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range pods.Items[0].Status.ContainerStatuses {
		if status.RestartCount > 0 || status.State.Running != nil {
			t.Errorf("the application's container %s has started without a credential", status.Name)
		}
	}
	if out := suite.keyferry(t, 1, "check", pods.Items[0].Name, "-n", ns); !strings.Contains(out, "✗") || !strings.Contains(out, tn.Namespace) {
		t.Errorf("keyferry check does not say what is wrong:\n%s", out)
	}
}

// TestWebhookCannotReadSecrets asks the API server itself.
func TestWebhookCannotReadSecrets(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"get", "list", "watch"} {
		for _, namespace := range []string{fleet, suite.release, ""} {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:               "system:serviceaccount:" + suite.release + ":keyferry-webhook",
				Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + suite.release, "system:authenticated"},
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: "secrets", Namespace: namespace},
			}}
			if err := suite.management.Create(t.Context(), review); err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed {
				t.Errorf("the webhook may %s Secrets in namespace %q", verb, namespace)
			}
		}
	}
}

// audited is what the tests read of a line of the broker's audit log.
type audited struct {
	Logger        string    `json:"logger"`
	Outcome       string    `json:"outcome"`
	Code          int       `json:"code"`
	Namespace     string    `json:"namespace"`
	PodUID        types.UID `json:"podUID"`
	TargetCluster string    `json:"targetCluster"`
	CredentialID  string    `json:"credentialID"`
}

// auditLog reads what the brokers that run now have audited.
func auditLog(ctx context.Context) ([]audited, error) {
	pods := &corev1.PodList{}
	if err := suite.management.List(ctx, pods, client.InNamespace(suite.release), client.MatchingLabels{"app.kubernetes.io/component": "broker"}); err != nil {
		return nil, err
	}
	var all []audited
	for _, pod := range pods.Items {
		out, err := suite.management.clientset.CoreV1().Pods(suite.release).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(out) {
			var entry audited
			if err := json.Unmarshal(line, &entry); err != nil {
				return nil, fmt.Errorf("the broker logs %q: %w", line, err)
			}
			if entry.Logger == "audit" {
				all = append(all, entry)
			}
		}
	}
	return all, nil
}

// issuedTo returns the ids of the credentials that a Pod was issued.
func issuedTo(ctx context.Context, pod types.UID) ([]string, error) {
	log, err := auditLog(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range log {
		if entry.PodUID == pod && entry.Outcome == "issued" {
			ids = append(ids, entry.CredentialID)
		}
	}
	return ids, nil
}
