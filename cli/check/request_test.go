package check

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

func TestCredentialRequest(t *testing.T) {
	for name, test := range map[string]struct {
		ready metav1.ConditionStatus
		want  Verdict
		texts []string
	}{
		"fine":      {metav1.ConditionTrue, Fine, []string{"the Pod uses Secret tenant-1 of CredentialRequest", "/web"}},
		"not ready": {metav1.ConditionFalse, Wrong, []string{"NamespaceNotServed: not served", "kubectl describe credentialrequest web"}},
		"new":       {"", Unknown, []string{"has not been reconciled yet"}},
		"missing":   {"Missing", Wrong, []string{"there is no CredentialRequest web"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.inject(map[string]string{injector.AnnotationCredentialRequest: "web"}, injector.Target{Secret: "tenant-1", Namespace: "default"})
			request := &v1alpha1.CredentialRequest{
				ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: "web"},
				Spec: v1alpha1.CredentialRequestSpec{
					TargetCluster:      v1alpha1.ObjectReference{Namespace: w.pod.Namespace, Name: "tenant-1"},
					ServiceAccountName: "web", Type: v1alpha1.CredentialTokenFile, Secret: v1alpha1.CredentialSecret{Name: "tenant-1"},
				},
			}
			if test.ready != "Missing" {
				w.create(request)
			}
			if test.ready == metav1.ConditionTrue || test.ready == metav1.ConditionFalse {
				request.Status.ObservedGeneration = request.Generation
				request.Status.Conditions = []metav1.Condition{{
					Type: v1alpha1.ConditionReady, Status: test.ready, Reason: "NamespaceNotServed", Message: "not served", LastTransitionTime: metav1.Now(),
				}}
				if err := w.client.Status().Update(t.Context(), request); err != nil {
					t.Fatal(err)
				}
			}
			w.create(w.pod)
			r := Pod(t.Context(), w.client, w.exec, client.ObjectKeyFromObject(w.pod))
			w.want(r, test.want, "request", test.want, test.texts...)
		})
	}
}
