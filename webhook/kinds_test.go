package webhook

// Tests of other projects' kinds with Pod templates. The tests' API server has them without a
// schema.

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
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
	"ClusterAnalysisTemplate": {
		"clusteranalysistemplates.argoproj.io/v1alpha1",
		"{spec: {metrics: [{provider: {job: {metadata: {ANNOTATED}, spec: {template: {spec: {containers: [{name: app, image: a}]}}}}}}]}}",
		"move keyferry.dev/cluster from spec.metrics[0].provider.job.metadata.annotations to " +
			"spec.metrics[0].provider.job.spec.template.metadata.annotations",
		"{spec: {metrics: [{provider: {job: {spec: {template: {metadata: {ANNOTATED}, spec: {containers: [{name: app, image: a}]}}}}}}]}}",
	},
	"Workflow": {
		"workflows.argoproj.io/v1alpha1",
		"{metadata: {ANNOTATED}, spec: {templates: [{name: main, container: {image: a}}]}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.podMetadata.annotations",
		"{spec: {podMetadata: {ANNOTATED}, templates: [{name: main, container: {image: a}}]}}",
	},
	"WorkflowTemplate": {
		"workflowtemplates.argoproj.io/v1alpha1",
		"{spec: {workflowMetadata: {ANNOTATED}, templates: [{name: main, container: {image: a}}]}}",
		"move keyferry.dev/cluster from spec.workflowMetadata.annotations to spec.podMetadata.annotations",
		"{spec: {templates: [{name: main, dag: {tasks: [{name: a, inline: {metadata: {ANNOTATED}, container: {image: a}}}]}}]}}",
	},
	"ClusterWorkflowTemplate": {
		"clusterworkflowtemplates.argoproj.io/v1alpha1",
		"{metadata: {ANNOTATED}, spec: {templates: [{name: main, container: {image: a}}]}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.podMetadata.annotations",
		"{spec: {templates: [{name: main, metadata: {ANNOTATED}, container: {image: a}}]}}",
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
	"ScheduledSparkApplication": {
		"scheduledsparkapplications.sparkoperator.k8s.io/v1beta2",
		"{metadata: {ANNOTATED}, spec: {template: {driver: {cores: 1}}}}",
		"move keyferry.dev/cluster from metadata.annotations to spec.template.driver.annotations or spec.template.executor.annotations",
		"{spec: {template: {executor: {ANNOTATED}}}}",
	},
	"DeploymentRuntimeConfig": {
		"deploymentruntimeconfigs.pkg.crossplane.io/v1beta1",
		"{spec: {deploymentTemplate: {metadata: {ANNOTATED}, spec: {template: {}}}}}",
		"move keyferry.dev/cluster from spec.deploymentTemplate.metadata.annotations to spec.deploymentTemplate.spec.template.metadata.annotations",
		"{spec: {deploymentTemplate: {spec: {template: {metadata: {ANNOTATED}}}}}}",
	},
	// Of added.
	"RayCluster": {
		"rayclusters.ray.io/v1",
		"{spec: {workerGroupSpecs: [{metadata: {ANNOTATED}, template: {spec: {containers: [{name: app, image: a}]}}}]}}",
		"move keyferry.dev/cluster from spec.workerGroupSpecs[0].metadata.annotations to spec.workerGroupSpecs[0].template.metadata.annotations",
		"{spec: {workerGroupSpecs: [{template: {metadata: {ANNOTATED}, spec: {containers: [{name: app, image: a}]}}}]}}",
	},
	"ClusterTrainingRuntime": {
		"clustertrainingruntimes.trainer.kubeflow.org/v1alpha1",
		"{spec: {template: {spec: {replicatedJobs: [{template: {metadata: {ANNOTATED}, spec: {template: {spec: {containers: [{name: app, image: a}]}}}}}]}}}}",
		"move keyferry.dev/cluster from spec.template.spec.replicatedJobs[0].template.metadata.annotations to " +
			"spec.template.spec.replicatedJobs[0].template.spec.template.metadata.annotations",
		"{spec: {template: {spec: {replicatedJobs: [{template: {spec: {template: {metadata: {ANNOTATED}, spec: {containers: [{name: app, image: a}]}}}}}]}}}}",
	},
}

// added are kinds that the API server of the tests sends to the webhook, as if a user had added
// them to the chart value webhook.workloads. Tekton copies the annotations of its objects to Pods.
var added = []string{
	"rayclusters.ray.io", "clustertrainingruntimes.trainer.kubeflow.org", "taskruns.tekton.dev", "pipelineruns.tekton.dev", "podtemplates.",
}

// foreignObject returns an object of a kind; ANNOTATED in its text is replaced by an annotation.
func foreignObject(t *testing.T, kind, resource, text, annotation string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	text = strings.ReplaceAll(text, "ANNOTATED", "annotations: {"+annotation+"}")
	must(t, yaml.Unmarshal([]byte(text), &o.Object))
	_, groupVersion, _ := strings.Cut(resource, ".")
	group, version, _ := strings.Cut(groupVersion, "/")
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
	if isNamespaced(kind) {
		o.SetNamespace("shop")
	}
	o.SetName("web")
	return o
}

// isNamespaced reports whether objects of a foreign kind have a namespace.
func isNamespaced(kind string) bool {
	return !strings.HasPrefix(kind, "Cluster") && kind != "DeploymentRuntimeConfig"
}

func TestForeignKinds(t *testing.T) {
	c, warned := recordingClient(t)
	for kind, test := range foreignKinds {
		defineKind(t, kind, test.resource)
		object := func(t *testing.T, text, annotation string) *unstructured.Unstructured {
			t.Helper()
			return foreignObject(t, kind, test.resource, text, annotation)
		}
		t.Run(kind, func(t *testing.T) {
			for _, key := range []string{"keyferry.dev/cluster", "Keyferry.dev/cluster", "\u212Aeyferry.dev/cluster"} {
				want := "Keyferry's annotations have no effect on a " + kind + " itself, only on its Pods: " +
					strings.ReplaceAll(test.misplaced, "keyferry.dev/cluster", key)
				misplaced := object(t, test.object, `"`+key+`": fleet/nowhere`)
				if err := c.Create(t.Context(), misplaced, client.DryRunAll); err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("got  %v\nwant … %s", err, want)
				}
			}
			_ = warned.take()
			right := object(t, test.right, "keyferry.dev/cluster: fleet/nowhere")
			must(t, c.Create(t.Context(), right))
			t.Cleanup(func() { must(t, api.client.Delete(context.Background(), right)) })
			want := ""
			switch {
			case !strings.Contains(test.right, "containers: ["):
			case isNamespaced(kind):
				want = "its Pods will be denied: "
			default:
				want = "this object has no namespace, so Keyferry checks the cluster, and the permission to use it, only when Pods are created"
			}
			if got := warned.take(); (got != "") != (want != "") || !strings.Contains(got, want) {
				t.Errorf("warnings: %q, want %q", got, want)
			}
			// Its controller updates the status.
			must(t, unstructured.SetNestedField(right.Object, "Running", "status", "phase"))
			must(t, c.Update(t.Context(), right))
			if got := warned.take(); got != "" {
				t.Errorf("warnings about an update of the status: %s", got)
			}

			for _, wrong := range []string{"keyferry.dev/clutser: fleet/nowhere", "KEYFERRY.dev/cluster: fleet/nowhere", "keyferry.dev/delivery: proxi"} {
				o := object(t, test.right, wrong)
				o.SetName("wrong")
				must(t, c.Create(t.Context(), o, client.DryRunAll))
				key, _, _ := strings.Cut(wrong, ":")
				if got := warned.take(); !strings.Contains(got, "annotations: annotation "+key+": ") {
					t.Errorf("with %s: warnings: %q", wrong, got)
				}
			}
		})
	}
}

// TestTekton checks that the API server sends the webhook objects with annotations in any field.
// Tekton copies the annotations to Pods, so there is no warning.
func TestTekton(t *testing.T) {
	c, warned := recordingClient(t)
	for kind, test := range map[string]struct{ resource, object string }{
		"TaskRun":     {"taskruns.tekton.dev/v1", "{metadata: {ANNOTATED}, spec: {taskSpec: {steps: [{name: a, image: a}]}}}"},
		"PipelineRun": {"pipelineruns.tekton.dev/v1", "{spec: {pipelineSpec: {tasks: [{name: a, taskSpec: {metadata: {ANNOTATED}, steps: [{image: a}]}}]}}}"},
	} {
		defineKind(t, kind, test.resource)
		before := api.reviews.Load()
		must(t, c.Create(t.Context(), foreignObject(t, kind, test.resource, test.object, "keyferry.dev/cluster: fleet/nowhere"), client.DryRunAll))
		if got := warned.take(); got != "" {
			t.Errorf("%s: warnings: %s", kind, got)
		}
		if api.reviews.Load() == before {
			t.Errorf("the webhook did not review the %s", kind)
		}
	}
}

// TestPodTemplate: the template of a PodTemplate is not in spec.
func TestPodTemplate(t *testing.T) {
	c, warned := recordingClient(t)
	p := &corev1.PodTemplate{ObjectMeta: own("shop", nil), Template: template(annotated("clutser", "fleet/tenant-1"))}
	const want = "its Pods will be denied: template.metadata.annotations: annotation keyferry.dev/clutser: is unknown"
	must(t, c.Create(t.Context(), p))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), p)) })
	if got := warned.take(); !strings.HasPrefix(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	p.Template.Labels["changed"] = "true"
	must(t, c.Update(t.Context(), p))
	if got := warned.take(); !strings.HasPrefix(got, want) {
		t.Errorf("after a change: got  %s\nwant %s", got, want)
	}
}

// TestKnativeService checks that a usual Service gets no warning. Knative adds the container
// queue-proxy to its Pods, names the other container, and moves its probe.
func TestKnativeService(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "tenant-1")
	const resource = "services.serving.knative.dev/v1"
	defineKind(t, "Service", resource)
	c, warned := recordingClient(t)
	for _, more := range []string{"", ", keyferry.dev/exclude-containers: queue-proxy", ", keyferry.dev/delivery: proxy"} {
		must(t, c.Create(t.Context(), foreignObject(t, "Service", resource, `
spec:
  template:
    metadata: {ANNOTATED}
    spec:
      serviceAccountName: web
      containerConcurrency: 10
      containers:
      - image: example.com/hello:1
        ports: [{containerPort: 8080, name: http1}]
        readinessProbe: {httpGet: {path: /ready, port: 0}}
        livenessProbe: {tcpSocket: {port: 0}}
`, "keyferry.dev/cluster: fleet/tenant-1"+more), client.DryRunAll))
		if got := warned.take(); got != "" {
			t.Errorf("with %q: warnings: %s", more, got)
		}
	}
}

// defineKind adds a kind to the API server, and returns when the API server serves it.
func defineKind(t *testing.T, kind, resource string) {
	t.Helper()
	plural, groupVersion, _ := strings.Cut(resource, ".")
	group, version, _ := strings.Cut(groupVersion, "/")
	scope := "Cluster"
	if isNamespaced(kind) {
		scope = "Namespaced"
	}
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + "." + group, "annotations": map[string]any{
			"api-approved.kubernetes.io": "unapproved, a stand-in",
		}},
		"spec": map[string]any{
			"group": group, "scope": scope,
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
}
