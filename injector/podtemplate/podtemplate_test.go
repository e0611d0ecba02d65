package podtemplate_test

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/injector/podtemplate"
)

const annotation = "annotations: {keyferry.dev/cluster: fleet/tenant-1}"

func TestRead(t *testing.T) {
	t.Parallel()
	const containers = "spec: {containers: [{name: app}]}"
	for name, test := range map[string]struct {
		object string
		// templates are the paths of their annotations; misplaced is "from > to"; copied are paths.
		templates, misplaced, copied []string
	}{
		"Pod": {
			object:    "{kind: Pod, metadata: {" + annotation + "}, " + containers + "}",
			templates: []string{"metadata.annotations"},
		},
		"Deployment": {
			object:    "{kind: Deployment, metadata: {" + annotation + "}, spec: {template: {" + containers + "}}}",
			templates: []string{"spec.template.metadata.annotations"},
			misplaced: []string{"metadata.annotations > spec.template.metadata.annotations"},
		},
		"Deployment, in both places": {
			object:    "{kind: Deployment, metadata: {" + annotation + "}, spec: {template: {metadata: {" + annotation + "}, " + containers + "}}}",
			templates: []string{"spec.template.metadata.annotations"},
		},
		"Deployment, with another value in the template": {
			object: "{kind: Deployment, metadata: {" + annotation + "}, spec: {template: {metadata: {annotations: {keyferry.dev/cluster: a}}, " +
				containers + "}}}",
			templates: []string{"spec.template.metadata.annotations"},
			misplaced: []string{"metadata.annotations > spec.template.metadata.annotations"},
		},
		"CronJob": {
			object: "{kind: CronJob, metadata: {" + annotation + "}, spec: {jobTemplate: {metadata: {" + annotation + "}, spec: {template: {" +
				containers + "}}}}}",
			templates: []string{"spec.jobTemplate.spec.template.metadata.annotations"},
			misplaced: []string{
				"metadata.annotations > spec.jobTemplate.spec.template.metadata.annotations",
				"spec.jobTemplate.metadata.annotations > spec.jobTemplate.spec.template.metadata.annotations",
			},
		},
		"JobSet": {
			object: "{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet, spec: {replicatedJobs: [{template: {spec: {template: {" + containers +
				"}}}}, {template: {metadata: {" + annotation + "}, spec: {template: {" + containers + "}}}}]}}",
			templates: []string{
				"spec.replicatedJobs[0].template.spec.template.metadata.annotations",
				"spec.replicatedJobs[1].template.spec.template.metadata.annotations",
			},
			misplaced: []string{
				"spec.replicatedJobs[1].template.metadata.annotations > spec.replicatedJobs[1].template.spec.template.metadata.annotations",
			},
		},
		"JobSet that is annotated everywhere but in one template": {
			object: "{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet, metadata: {" + annotation + "}, spec: {replicatedJobs: [" +
				"{template: {spec: {template: {metadata: {" + annotation + "}, " + containers + "}}}}, {template: {spec: {template: {" + containers + "}}}}]}}",
			templates: []string{
				"spec.replicatedJobs[0].template.spec.template.metadata.annotations",
				"spec.replicatedJobs[1].template.spec.template.metadata.annotations",
			},
			misplaced: []string{"metadata.annotations > spec.replicatedJobs[1].template.spec.template.metadata.annotations"},
		},
		"Rollout of a Deployment": {
			object:    "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {" + annotation + "}, spec: {workloadRef: {name: web}}}",
			misplaced: []string{"metadata.annotations > the Pod template of the object that spec.workloadRef names"},
		},
		"Service of Knative, whose template is a revision": {
			object: "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {" + annotation +
				"}, spec: {template: {spec: {containers: [{image: a}]}}}}",
			templates: []string{"spec.template.metadata.annotations"},
			misplaced: []string{"metadata.annotations > spec.template.metadata.annotations"},
		},
		"Workflow": {
			object:    "{apiVersion: argoproj.io/v1alpha1, kind: Workflow, metadata: {" + annotation + "}, spec: {templates: [{container: {image: a}}]}}",
			misplaced: []string{"metadata.annotations > spec.podMetadata.annotations"},
		},
		"Workflow with annotated Pods": {
			object: "{apiVersion: argoproj.io/v1alpha1, kind: Workflow, metadata: {" + annotation + "}, spec: {podMetadata: {" + annotation + "}}}",
			copied: []string{"spec.podMetadata.annotations"},
		},
		"Workflow with an annotated template": {
			object: "{apiVersion: argoproj.io/v1alpha1, kind: Workflow, spec: {templates: [{metadata: {" + annotation + "}}]}}",
			copied: []string{"spec.templates[0].metadata.annotations"},
		},
		"Deployment, with an upper-case letter and the Kelvin sign": {
			object: "{kind: Deployment, metadata: {annotations: {Keyferry.dev/cluster: a, \"\u212Aeyferry.dev/cluster\": a, \u212Bkeyferry.dev/cluster: a}}, " +
				"spec: {template: {" + containers + "}}}",
			templates: []string{"spec.template.metadata.annotations"},
			misplaced: []string{
				"metadata.annotations > spec.template.metadata.annotations",
				"metadata.annotations > spec.template.metadata.annotations",
			},
		},
		"DeploymentRuntimeConfig of Crossplane": {
			object: "{apiVersion: pkg.crossplane.io/v1beta1, kind: DeploymentRuntimeConfig, metadata: {" + annotation + "}, spec: {" +
				"serviceAccountTemplate: {metadata: {" + annotation + "}}, deploymentTemplate: {metadata: {" + annotation + "}, spec: {template: {}}}}}",
			misplaced: []string{
				"metadata.annotations > spec.deploymentTemplate.spec.template.metadata.annotations",
				"spec.deploymentTemplate.metadata.annotations > spec.deploymentTemplate.spec.template.metadata.annotations",
				"spec.serviceAccountTemplate.metadata.annotations > spec.deploymentTemplate.spec.template.metadata.annotations",
			},
		},
		"DeploymentRuntimeConfig of Crossplane, right": {
			object: "{apiVersion: pkg.crossplane.io/v1beta1, kind: DeploymentRuntimeConfig, spec: {deploymentTemplate: {spec: {template: {metadata: {" +
				annotation + "}}}}}}",
			copied: []string{"spec.deploymentTemplate.spec.template.metadata.annotations"},
		},
		"DeploymentRuntimeConfig of Crossplane, right, with a container": {
			object: "{apiVersion: pkg.crossplane.io/v1beta1, kind: DeploymentRuntimeConfig, metadata: {" + annotation + "}, spec: {deploymentTemplate: " +
				"{spec: {template: {metadata: {" + annotation + "}, " + containers + "}}}}}",
			templates: []string{"spec.deploymentTemplate.spec.template.metadata.annotations"},
		},
		"CronWorkflow": {
			object:    "{apiVersion: argoproj.io/v1alpha1, kind: CronWorkflow, spec: {workflowMetadata: {" + annotation + "}}}",
			misplaced: []string{"spec.workflowMetadata.annotations > spec.workflowSpec.podMetadata.annotations"},
		},
		"SparkApplication": {
			object:    "{apiVersion: sparkoperator.k8s.io/v1beta2, kind: SparkApplication, metadata: {" + annotation + "}, spec: {driver: {cores: 1}}}",
			misplaced: []string{"metadata.annotations > spec.driver.annotations or spec.executor.annotations"},
		},
		"SparkApplication with an annotated driver": {
			object: "{apiVersion: sparkoperator.k8s.io/v1beta2, kind: SparkApplication, spec: {driver: {" + annotation + "}}}",
			copied: []string{"spec.driver.annotations"},
		},
		"PipelineRun of Tekton, which copies its annotations": {
			object: "{apiVersion: tekton.dev/v1, kind: PipelineRun, metadata: {" + annotation + "}, spec: {pipelineSpec: {tasks: [{name: a}]}}}",
		},
		"of values and types that nobody expects": {
			object: "{annotations: {keyferry.dev/cluster: a}, metadata: [1, null], spec: {containers: {}, template: {spec: a, metadata: {annotations: [a]}}}}",
		},
		"deeper than any known kind": {
			object: strings.Repeat("{a: ", 30) + "{" + containers + "}" + strings.Repeat("}", 30),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := yaml.YAMLToJSON([]byte(test.object))
			if err != nil {
				t.Fatal(err)
			}
			checked, err := jsonview.Check(raw)
			if err != nil {
				t.Fatal(err)
			}
			object := podtemplate.Read(checked)
			var templates, misplaced, copied []string
			for _, template := range object.Templates {
				templates = append(templates, template.Annotations())
			}
			for _, m := range object.Misplaced() {
				misplaced = append(misplaced, m.From+" > "+m.To)
			}
			if !slices.Equal(templates, test.templates) {
				t.Errorf("the templates are %q, want %q", templates, test.templates)
			}
			for _, c := range object.Copied() {
				copied = append(copied, c.From)
			}
			if !slices.Equal(copied, test.copied) {
				t.Errorf("copied are %q, want %q", copied, test.copied)
			}
			slices.Sort(misplaced)
			if !slices.Equal(misplaced, test.misplaced) {
				t.Errorf("misplaced are %q, want %q", misplaced, test.misplaced)
			}
		})
	}
}
