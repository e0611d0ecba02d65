package webhook

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

// TestSubjectTokensOfSeveralClusters checks that there is a token for the audience of each target's
// provider, at the path where its refresher reads it.
func TestSubjectTokensOfSeveralClusters(t *testing.T) {
	account := types.NamespacedName{Namespace: "app", Name: "web"}
	for _, cluster := range []struct {
		name, audience string
		access         v1alpha1.Access
	}{
		{"on-eks", "sts.amazonaws.com", onEKS()},
		{"on-aks", "api://AzureADTokenExchange", v1alpha1.Access{Type: v1alpha1.AccessAKS, AKS: &v1alpha1.AKSAccess{
			Identity: v1alpha1.IdentityWorkload, ClientID: "00000000-0000-0000-0000-000000000001", TenantID: "00000000-0000-0000-0000-000000000002",
		}}},
		{"no-exchange", "", v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}}},
	} {
		status := ready()
		status.SubjectTokenAudience = cluster.audience
		targetCluster(t, cluster.name, status, func(spec *v1alpha1.TargetClusterSpec) {
			spec.Access, spec.Endpoint = cluster.access, &v1alpha1.Endpoint{Server: status.Endpoint}
		})
		grant(t, account, cluster.name)
	}
	p := running("web", pod("app", annotated("cluster", "fleet/on-eks", "clusters", "fleet/no-exchange,fleet/on-aks")))
	must(t, api.client.Create(t.Context(), p, client.DryRunAll))
	got := map[string]string{}
	for _, volume := range p.Spec.Volumes {
		if volume.Name != injector.IdentityVolume {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if token := source.ServiceAccountToken; token != nil {
				got[token.Path] = token.Audience
			}
		}
	}
	want := map[string]string{"token": "keyferry", "subject-token": "sts.amazonaws.com", "subject-tokens/fleet/on-aks": "api://AzureADTokenExchange"}
	if !maps.Equal(got, want) {
		t.Errorf("the tokens are for %v, want %v", got, want)
	}
}

// TestSeveralClusters checks that further clusters are checked like the first one, and that each
// message names the cluster that it is about.
func TestSeveralClusters(t *testing.T) {
	account := types.NamespacedName{Namespace: "app", Name: "web"}
	targetCluster(t, "first", ready())
	second := targetCluster(t, "second", ready())
	second.Spec.DefaultNamespace = "team-a"
	must(t, api.client.Update(t.Context(), second))
	second.Status.ObservedGeneration = second.Generation
	must(t, api.client.Status().Update(t.Context(), second))
	targetCluster(t, "down", ready(metav1.Condition{Type: v1alpha1.ConditionReachable, Status: metav1.ConditionFalse, Reason: "Timeout", Message: "i/o timeout"}))
	targetCluster(t, "unresolved", ready(metav1.Condition{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionFalse, Reason: "SecretNotFound", Message: "no Secret"}))
	targetCluster(t, "forbidden", ready())
	for _, name := range []string{"first", "second", "down", "unresolved", "missing"} {
		grant(t, account, name)
	}
	execCluster(t, "with-plugin", "pods", v1alpha1.RunInPod, "")
	grant(t, account, "with-plugin")

	for name, test := range map[string]struct {
		annotations map[string]string
		args        string // of the sidecar, in the end
		warning     string
		denial      string
	}{
		"with a first": {
			annotations: annotated("cluster", "fleet/first", "clusters", "fleet/second"),
			args:        "--cluster=fleet/second@127.0.0.1:16444/team-a",
		},
		"without": {
			annotations: annotated("clusters", "fleet/second, fleet/first", "set-kubeconfig", "true"),
			args:        "--cluster=fleet/second@127.0.0.1:16444/team-a --cluster=fleet/first@127.0.0.1:16445/default",
		},
		"one does not answer": {
			annotations: annotated("clusters", "fleet/first,fleet/down"),
			args:        "--cluster=fleet/down@127.0.0.1:16445/default",
			warning:     "annotation keyferry.dev/clusters: TargetCluster fleet/down does not answer now; requests in its context fail until it answers: i/o timeout",
		},
		"one is not resolved": {
			annotations: annotated("cluster", "fleet/first", "clusters", "fleet/second,fleet/unresolved"),
			denial:      "annotation keyferry.dev/clusters: TargetCluster fleet/unresolved is not resolved: SecretNotFound: no Secret",
		},
		"one is not granted": {
			annotations: annotated("cluster", "fleet/first", "clusters", "fleet/second,fleet/forbidden"),
			denial:      `annotation keyferry.dev/clusters: ServiceAccount app/web may not use TargetCluster fleet/forbidden: grant the verb "use"`,
		},
		"one is not there": {
			annotations: annotated("clusters", "fleet/missing"),
			denial:      "annotation keyferry.dev/clusters: there is no TargetCluster fleet/missing: create it",
		},
		"one has a plugin": {
			annotations: annotated("clusters", "fleet/with-plugin"),
			denial:      "annotation keyferry.dev/clusters: TargetCluster fleet/with-plugin runs a plugin in the Pod",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := running("web", pod("app", test.annotations))
			if test.denial != "" {
				if denial := createDenied(t, p); !strings.HasPrefix(denial.Message, deniedBy+test.denial) {
					t.Errorf("got  %s\nwant %s%s", denial.Message, deniedBy, test.denial)
				}
				return
			}
			c, warned := recordingClient(t)
			must(t, c.Create(t.Context(), p, client.DryRunAll))
			if got := strings.Join(refresherOf(t, p).Args, " "); !strings.HasSuffix(got, test.args) {
				t.Errorf("the sidecar's arguments are %s", got)
			}
			if got := warned.take(); !strings.Contains(got, test.warning) || test.warning == "" && got != "" {
				t.Errorf("warned of %q, want %q", got, test.warning)
			}
			env := p.Spec.Containers[0].Env
			_, inCluster := test.annotations[injector.AnnotationCluster]
			if kubeconfig := (corev1.EnvVar{Name: "KUBECONFIG", Value: injector.Kubeconfig}); test.annotations[injector.AnnotationSetKubeconfig] != "" {
				if len(env) != 1 || env[0] != kubeconfig {
					t.Errorf("the environment is %v", env)
				}
			} else if inCluster != (len(env) > 0) {
				t.Errorf("the environment is %v", env)
			}
		})
	}
}
