package credentials

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/convert"
	"github.com/keyferry/keyferry/injector"
)

// TestConvertedRequestsAreServed: what `keyferry convert` prints is applied as it is, and brings
// the Secret that NVIDIA DPF's request did, next to the Secret that DPF has for its cluster.
func TestConvertedRequestsAreServed(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: "dpu-1-admin-kubeconfig"},
		Data:       map[string][]byte{"admin.conf": adminOf(t, there, there.Host)},
	})
	text, _, err := convert.Convert([]convert.Input{{Name: "request", Text: fmt.Appendf(nil, `
apiVersion: svc.dpu.nvidia.com/v1alpha1
kind: DPUServiceCredentialRequest
metadata: {name: metrics, namespace: %s}
spec:
  serviceAccount: {name: metrics, namespace: %s}
  targetCluster: {name: dpu-1, namespace: %s}
  duration: 20m
  type: tokenFile
  secret: {name: dpu-1-metrics}
  metadata: {labels: {app: metrics}}
`, w.ns, w.target.namespace, w.fleet)}}, "default")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
			t.Fatal(err)
		}
		w.create(object)
	}

	request := &v1alpha1.CredentialRequest{}
	if err := w.client.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "metrics"}, request); err != nil {
		t.Fatal(err)
	}
	w.eventually("the Secret", func() bool {
		w.now = w.now.Add(lastBackoff) // the authorizer hears of the Role by a watch of its own
		w.reconcile(request)
		return isReady(request.Status.Conditions)
	})
	secret := w.secret(request)
	if keys := slices.Sorted(maps.Keys(secret.Data)); !slices.Equal(keys, []string{"KUBERNETES_CA_DATA", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "TOKEN_FILE"}) || secret.Labels["app"] != "metrics" {
		t.Errorf("keys %q, labels %v", keys, secret.Labels)
	}
	user, ok := w.target.knows(t, string(secret.Data[injector.TokenFileToken]))
	if want := "system:serviceaccount:" + w.target.namespace + ":metrics"; !ok || user != want {
		t.Errorf("the token is %q's, want %s", user, want)
	}
}
