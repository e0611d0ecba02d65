package v1alpha1_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

func TestLocks(t *testing.T) {
	const reason = ", reason: incident 7"
	for name, test := range map[string]struct {
		kind, spec string
		// problem is part of the API server's message; empty if it accepts the object.
		problem string
	}{
		"a Pod":                              {"Lock", "{subject: {type: Pod, name: web-0}" + reason + "}", ""},
		"a ServiceAccount, with an expiry":   {"Lock", "{subject: {type: ServiceAccount, name: web}" + reason + ", expirationTimestamp: '2036-01-02T15:00:00Z'}", ""},
		"a TargetCluster":                    {"Lock", "{subject: {type: TargetCluster, name: tenant-1}" + reason + "}", ""},
		"a ClusterProfile":                   {"Lock", "{subject: {type: ClusterProfile, name: paris}" + reason + "}", ""},
		"everything":                         {"Lock", "{subject: {type: Everything}" + reason + "}", ""},
		"a subject of another namespace":     {"Lock", "{subject: {type: Pod, name: web-0, namespace: app}" + reason + "}", `unknown field "spec.subject.namespace"`},
		"no name":                            {"Lock", "{subject: {type: Pod}" + reason + "}", "name is required, and must be empty when type is Everything"},
		"everything with a name":             {"Lock", "{subject: {type: Everything, name: web}" + reason + "}", "name is required, and must be empty when type is Everything"},
		"another type":                       {"Lock", "{subject: {type: Node, name: a}" + reason + "}", "spec.subject.type"},
		"no reason":                          {"Lock", "{subject: {type: Pod, name: web-0}}", "spec.reason"},
		"a reason of two lines":              {"Lock", `{subject: {type: Pod, name: web-0}, reason: "a\nb"}`, "spec.reason"},
		"a Pod of a namespace":               {"ClusterLock", "{subject: {type: Pod, namespace: app, name: web-0}" + reason + "}", ""},
		"a Pod of no namespace":              {"ClusterLock", "{subject: {type: Pod, name: web-0}" + reason + "}", "namespace is required, except when type is Everything"},
		"everything of a namespace":          {"ClusterLock", "{subject: {type: Everything, namespace: app}" + reason + "}", ""},
		"everything of the cluster":          {"ClusterLock", "{subject: {type: Everything}" + reason + "}", ""},
		"everything of the cluster, by name": {"ClusterLock", "{subject: {type: Everything, name: a}" + reason + "}", "name is required, and must be empty when type is Everything"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := map[string]any{}
			if err := yaml.Unmarshal([]byte(test.spec), &spec); err != nil {
				t.Fatal(err)
			}
			u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
			u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(test.kind))
			u.SetName("l")
			resource := locks
			if test.kind == "ClusterLock" {
				resource = clusterLocks
			}
			_, err := resource.Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
			switch {
			case test.problem == "" && err != nil:
				t.Error(err)
			case test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)):
				t.Errorf("got %v, want %q", err, test.problem)
			}
		})
	}
}
