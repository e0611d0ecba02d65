package webhook

// Tests of other projects' kinds with Pod templates. The tests' API server has them without a
// schema.

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// foreignKinds are objects with an annotation that none of their Pods receives. misplaced is a part
// of the message about it. right is the same object with the annotation in the right place.
var foreignKinds = map[string]struct{ resource, object, misplaced, right string }{
	"Rollout": {
		"rollouts.argoproj.io/v1alpha1",
		"{metadata: {ANNOTATED}, spec: {template: {spec: {containers: [{name: app, image: a}]}}}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.template.metadata.annotations",
		"{spec: {template: {metadata: {ANNOTATED}, spec: {containers: [{name: app, image: a}]}}}}",
	},
	"Workflow": {
		"workflows.argoproj.io/v1alpha1",
		"{metadata: {ANNOTATED}, spec: {templates: [{name: main, container: {image: a}}]}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.podMetadata.annotations",
		"{spec: {podMetadata: {ANNOTATED}, templates: [{name: main, container: {image: a}}]}}",
	},
	"CronWorkflow": {
		"cronworkflows.argoproj.io/v1alpha1",
		"{spec: {workflowMetadata: {ANNOTATED}, workflowSpec: {templates: [{name: main, container: {image: a}}]}}}",
		"move keyferry.dev/cluster from spec.workflowMetadata.annotations to spec.workflowSpec.podMetadata.annotations",
		"{spec: {workflowSpec: {templates: [{name: main, metadata: {ANNOTATED}, container: {image: a}}]}}}",
	},
	"JobSet": {
		"jobsets.jobset.x-k8s.io/v1alpha2",
		"{spec: {replicatedJobs: [{template: {metadata: {ANNOTATED}, spec: {template: {spec: {containers: [{name: app, image: a}]}}}}}]}}",
		"move keyferry.dev/cluster from spec.replicatedJobs[0].template.metadata.annotations to " +
			"spec.replicatedJobs[0].template.spec.template.metadata.annotations",
		"{spec: {replicatedJobs: [{template: {spec: {template: {metadata: {ANNOTATED}, spec: {containers: [{name: app, image: a}]}}}}}]}}",
	},
	"Service": {
		"services.serving.knative.dev/v1",
		"{metadata: {ANNOTATED}, spec: {template: {spec: {containers: [{name: user-container, image: a}]}}}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.template.metadata.annotations",
		"{spec: {template: {metadata: {ANNOTATED}, spec: {containers: [{name: user-container, image: a}]}}}}",
	},
	"SparkApplication": {
		"sparkapplications.sparkoperator.k8s.io/v1beta2",
		"{metadata: {ANNOTATED}, spec: {driver: {cores: 1}}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.driver.annotations or spec.executor.annotations",
		"{spec: {driver: {ANNOTATED}}}",
	},
}

func TestForeignKinds(t *testing.T) {
	c, warned := recordingClient(t)
	for kind, test := range foreignKinds {
		group, version := defineKind(t, kind, test.resource)
		object := func(t *testing.T, text string) *unstructured.Unstructured {
			t.Helper()
			o := &unstructured.Unstructured{}
			text = strings.ReplaceAll(text, "ANNOTATED", "annotations: {keyferry.dev/cluster: fleet/nowhere}")
			must(t, yaml.Unmarshal([]byte(text), &o.Object))
			o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
			o.SetNamespace("shop")
			o.SetName("web")
			return o
		}
		t.Run(kind, func(t *testing.T) {
			want := "Keyferry's annotations have no effect on a " + kind + " itself, only on its Pods: " + test.misplaced
			if err := c.Create(t.Context(), object(t, test.object), client.DryRunAll); err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("got  %v\nwant … %s", err, want)
			}
			_ = warned.take()
			right := object(t, test.right)
			must(t, c.Create(t.Context(), right))
			t.Cleanup(func() { must(t, api.client.Delete(context.Background(), right)) })
			hasTemplate := strings.Contains(test.right, "containers: [")
			if got := warned.take(); strings.Contains(got, "its Pods will be denied: ") != hasTemplate {
				t.Errorf("warnings: %q", got)
			}
			// Its controller updates the status.
			must(t, unstructured.SetNestedField(right.Object, "Running", "status", "phase"))
			must(t, c.Update(t.Context(), right))
			if got := warned.take(); got != "" {
				t.Errorf("warnings about an update of the status: %s", got)
			}
		})
	}
}

// defineKind adds a kind to the API server, and returns when the API server serves it.
func defineKind(t *testing.T, kind, resource string) (group, version string) {
	t.Helper()
	plural, groupVersion, _ := strings.Cut(resource, ".")
	group, version, _ = strings.Cut(groupVersion, "/")
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + "." + group, "annotations": map[string]any{
			"api-approved.kubernetes.io": "unapproved, a stand-in",
		}},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced",
			"names": map[string]any{"kind": kind, "plural": plural},
			"versions": []any{map[string]any{
				"name": version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	must(t, api.client.Create(t.Context(), crd))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), crd)) })
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind + "List"})
	if !eventually(func() bool { return api.client.List(context.Background(), list) == nil }) {
		t.Fatalf("the API server does not serve %s", resource)
	}
	return group, version
}
