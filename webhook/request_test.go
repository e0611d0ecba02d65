package webhook

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

// credentialRequest creates a CredentialRequest in namespace app for ServiceAccount web and a
// TargetCluster in namespace fleet, with the conditions that the controller would set.
func credentialRequest(t *testing.T, name, target string, form v1alpha1.CredentialType, conditions ...metav1.Condition) {
	t.Helper()
	request := &v1alpha1.CredentialRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name},
		Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster:      v1alpha1.ObjectReference{Namespace: "fleet", Name: target},
			ServiceAccountName: "web",
			Type:               form,
			Secret:             v1alpha1.CredentialSecret{Name: name + "-secret"},
		},
	}
	must(t, api.client.Create(t.Context(), request))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), request)) })
	for _, c := range conditions {
		meta.SetStatusCondition(&request.Status.Conditions, c)
	}
	if len(conditions) > 0 {
		request.Status.ObservedGeneration = request.Generation
		must(t, api.client.Status().Update(t.Context(), request))
	}
}

func TestCredentialRequest(t *testing.T) {
	account := types.NamespacedName{Namespace: "app", Name: "web"}
	tc := targetCluster(t, "kept", ready())
	tc.Spec.DefaultNamespace = "team-a"
	must(t, api.client.Update(t.Context(), tc))
	grant(t, account, "kept")
	grant(t, account, "missing")
	targetCluster(t, "forbidden", ready())

	issued := metav1.Condition{Type: v1alpha1.ConditionIssued, Status: metav1.ConditionTrue, Reason: "Issued"}
	written := metav1.Condition{Type: v1alpha1.ConditionSecretWritten, Status: metav1.ConditionTrue, Reason: "Written"}
	not := func(kind, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	}
	credentialRequest(t, "fine", "kept", v1alpha1.CredentialTokenFile, issued, written)
	credentialRequest(t, "new", "kept", v1alpha1.CredentialTokenFile)
	credentialRequest(t, "waiting", "kept", v1alpha1.CredentialTokenFile, issued, not(v1alpha1.ConditionSecretWritten, "NamespaceNotServed", "add it"))
	credentialRequest(t, "stale", "kept", v1alpha1.CredentialTokenFile, not(v1alpha1.ConditionIssued, "Unavailable", "i/o timeout"), written)
	credentialRequest(t, "path", "kept", v1alpha1.CredentialTokenFile, not(v1alpha1.ConditionIssued, "NotExpressible", "the server has a path"), written)
	credentialRequest(t, "source", "kept", v1alpha1.CredentialTokenFile, not(v1alpha1.ConditionIssued, "NotSupported", "it is made in the Pod"))
	credentialRequest(t, "kubeconfig", "kept", v1alpha1.CredentialKubeconfig, issued, written)
	credentialRequest(t, "argocd", "kept", v1alpha1.CredentialArgoCD, issued, written)
	credentialRequest(t, "forbidden", "forbidden", v1alpha1.CredentialKubeconfig, not(v1alpha1.ConditionIssued, "NotExpressible", "not for everybody"))
	credentialRequest(t, "targetless", "missing", v1alpha1.CredentialTokenFile)

	for name, test := range map[string]struct {
		as, warning, denial string
		more                []string
	}{
		"fine":       {},
		"stale":      {},
		"new":        {warning: "annotation keyferry.dev/credential-request: Secret new-secret of CredentialRequest app/new is not written yet; the Pod's containers start when the Secret exists: the controller has not reconciled the CredentialRequest yet"},
		"waiting":    {warning: "start when the Secret exists: NamespaceNotServed: add it"},
		"path":       {denial: "CredentialRequest app/path has no usable Secret: NotExpressible: the server has a path: fix this problem, or use TargetCluster fleet/kept with annotation keyferry.dev/cluster"},
		"source":     {denial: "CredentialRequest app/source has no usable Secret: NotSupported: it is made in the Pod"},
		"kubeconfig": {denial: "CredentialRequest app/kubeconfig has type kubeconfig, which is for programs that read a kubeconfig: mount its Secret in the Pod yourself, but in-cluster clients need type tokenFile"},
		"argocd":     {denial: "CredentialRequest app/argocd has type argocd, which is for Argo CD"},
		"other":      {denial: "there is no CredentialRequest app/other: create it, or correct the annotation"},
		"targetless": {denial: "CredentialRequest app/targetless refers to TargetCluster fleet/missing, which does not exist: create it"},
		// Nothing of what the conditions say.
		"forbidden":      {denial: `ServiceAccount app/web may not use TargetCluster fleet/forbidden: grant the verb "use"`},
		"fine, by other": {as: "default", denial: "CredentialRequest app/fine is for ServiceAccount web, and the Pod runs as default: set the Pod's spec.serviceAccountName to web"},
		"fine, by proxy": {more: []string{"delivery", "proxy"}, denial: "delivery: proxy is not possible together with keyferry.dev/credential-request"},
	} {
		t.Run(name, func(t *testing.T) {
			request, _, _ := strings.Cut(name, ",")
			as := "web"
			if test.as != "" {
				as = test.as
			}
			p := running(as, pod("app", annotated(append(test.more, "credential-request", request)...)))
			if test.denial != "" {
				if denial := createDenied(t, p); !strings.HasPrefix(denial.Message, deniedBy+"annotation keyferry.dev/") || !strings.Contains(denial.Message, test.denial) {
					t.Errorf("got  %s\nwant %s", denial.Message, test.denial)
				}
				return
			}
			c, warned := recordingClient(t)
			must(t, c.Create(t.Context(), p, client.DryRunAll))
			if got := warned.take(); !strings.Contains(got, test.warning) || test.warning == "" && got != "" {
				t.Errorf("warned of %q, want %q", got, test.warning)
			}
			if from := p.Spec.Containers[0].Env[0].ValueFrom; from == nil || from.SecretKeyRef == nil || from.SecretKeyRef.Name != request+"-secret" {
				t.Errorf("the host is %+v", p.Spec.Containers[0].Env[0])
			}
			if len(p.Spec.InitContainers) > 0 || p.Annotations[injector.AnnotationNamespace] != "team-a" {
				t.Errorf("init containers %v, annotations %v", p.Spec.InitContainers, p.Annotations)
			}
		})
	}
}
