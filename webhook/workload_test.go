package webhook

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

func template(annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: annotations},
		Spec:       corev1.PodSpec{ServiceAccountName: "web", Containers: []corev1.Container{{Name: "app", Image: "example.com/app:1"}}},
	}
}

func once(t corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	return t
}

func own(namespace string, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, GenerateName: "web-", Annotations: annotations}
}

func selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
}

func deployment(namespace string, annotations map[string]string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: own(namespace, annotations), Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template(nil)}}
}

// workloads returns an object of each kind, with annotations on the object and on its template.
func workloads(own metav1.ObjectMeta, onTemplate map[string]string) map[string]client.Object {
	return map[string]client.Object{
		"Deployment":            &appsv1.Deployment{ObjectMeta: own, Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template(onTemplate)}},
		"StatefulSet":           &appsv1.StatefulSet{ObjectMeta: own, Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template(onTemplate)}},
		"DaemonSet":             &appsv1.DaemonSet{ObjectMeta: own, Spec: appsv1.DaemonSetSpec{Selector: selector(), Template: template(onTemplate)}},
		"ReplicaSet":            &appsv1.ReplicaSet{ObjectMeta: own, Spec: appsv1.ReplicaSetSpec{Selector: selector(), Template: template(onTemplate)}},
		"ReplicationController": &corev1.ReplicationController{ObjectMeta: own, Spec: corev1.ReplicationControllerSpec{Template: new(template(onTemplate))}},
		"Job":                   &batchv1.Job{ObjectMeta: own, Spec: batchv1.JobSpec{Template: once(template(onTemplate))}},
		"CronJob": &batchv1.CronJob{ObjectMeta: own, Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: once(template(onTemplate))}},
		}},
	}
}

func templateOf(kind string) string {
	if kind == "CronJob" {
		return "spec.jobTemplate.spec.template.metadata.annotations"
	}
	return "spec.template.metadata.annotations"
}

func TestMisplacedAnnotationIsDenied(t *testing.T) {
	for kind, object := range workloads(own("shop", annotated("cluster", "fleet/tenant-1", "namespace", "team-a")), nil) {
		t.Run(kind, func(t *testing.T) {
			want := `admission webhook "workloads.keyferry.dev" denied the request: Keyferry's annotations have no effect on a ` + kind + ` itself, only on its Pods: ` +
				`move keyferry.dev/cluster from metadata.annotations to ` + templateOf(kind) + `; move keyferry.dev/namespace from metadata.annotations to ` + templateOf(kind)
			if err := api.client.Create(t.Context(), object, client.DryRunAll); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestMisplacedAnnotationOfJobTemplateIsDenied(t *testing.T) {
	cronJob, ok := workloads(own("shop", nil), nil)["CronJob"].(*batchv1.CronJob)
	if !ok {
		t.Fatal("no CronJob")
	}
	cronJob.Spec.JobTemplate.Annotations = annotated("cluster", "fleet/tenant-1")
	const want = `move keyferry.dev/cluster from spec.jobTemplate.metadata.annotations to spec.jobTemplate.spec.template.metadata.annotations`
	if err := api.client.Create(t.Context(), cronJob, client.DryRunAll); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v\nwant … %s", err, want)
	}
}

func TestAnnotationInBothPlacesIsAllowed(t *testing.T) {
	both := annotated("cluster", "fleet/tenant-1")
	for kind, object := range workloads(own("shop", both), both) {
		t.Run(kind, func(t *testing.T) { must(t, api.client.Create(t.Context(), object, client.DryRunAll)) })
	}
	d := deployment("shop", both)
	d.Spec.Template = template(annotated("cluster", "fleet/tenant-2"))
	if err := api.client.Create(t.Context(), d, client.DryRunAll); err == nil {
		t.Error("allowed with another value in the template")
	}
}

// TestControlledWorkloadIsLetThrough: the annotations of an object with a controller come from its
// owner, which was reviewed before.
func TestControlledWorkloadIsLetThrough(t *testing.T) {
	owned := own("shop", annotated("cluster", "fleet/tenant-1"))
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "1", Controller: new(true)}}
	c, warned := recordingClient(t)
	for kind, object := range workloads(owned, annotated("typo", "")) {
		t.Run(kind, func(t *testing.T) {
			must(t, c.Create(t.Context(), object, client.DryRunAll))
			if got := warned.take(); got != "" {
				t.Errorf("warnings: %s", got)
			}
		})
	}
}

func TestTemplateIsWarnedOf(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	c, warned := recordingClient(t)
	refused := map[string]struct {
		annotations map[string]string
		want        string
	}{
		"typo":     {annotated("clutser", "fleet/tenant-1"), "annotation keyferry.dev/clutser: is unknown: did you mean keyferry.dev/cluster?"},
		"no right": {annotated("cluster", "fleet/tenant-1"), "annotation keyferry.dev/cluster: ServiceAccount app/web may not use TargetCluster fleet/tenant-1: grant"},
	}
	for name, r := range refused {
		for kind, object := range workloads(own("app", nil), r.annotations) {
			t.Run(name+" "+kind, func(t *testing.T) {
				must(t, c.Create(t.Context(), object, client.DryRunAll))
				if got, want := warned.take(), "its Pods will be denied: "+templateOf(kind)+": "+r.want; !strings.HasPrefix(got, want) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
	grant(t, types.NamespacedName{Namespace: "app", Name: "web"}, "tenant-1")
	for kind, object := range workloads(own("app", nil), annotated("cluster", "fleet/tenant-1")) {
		t.Run("fine "+kind, func(t *testing.T) {
			must(t, c.Create(t.Context(), object, client.DryRunAll))
			if got := warned.take(); got != "" {
				t.Errorf("warnings: %s", got)
			}
		})
	}
}

// TestTemplateThatLosesItsQoSClassIsWarnedOf checks that users get the warning when they apply the
// workload.
func TestTemplateThatLosesItsQoSClassIsWarnedOf(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "app", Name: "web"}, "tenant-1")
	c, warned := recordingClient(t)
	d := deployment("app", nil)
	d.Spec.Template = template(annotated("cluster", "fleet/tenant-1"))
	amounts := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	d.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts, Limits: amounts}
	must(t, c.Create(t.Context(), d, client.DryRunAll))
	got := warned.take()
	for _, want := range []string{"container keyferry-refresher makes the Pod's QoS class Burstable", "set annotation keyferry.dev/refresher-resources to {"} {
		if !strings.Contains(got, want) {
			t.Errorf("the warnings lack %q: %s", want, got)
		}
	}
}

// TestTemplateThatExceedsThePodsResourcesIsWarnedOf checks that users get the warning when they
// apply the workload, and not only in an Event of its ReplicaSet.
func TestTemplateThatExceedsThePodsResourcesIsWarnedOf(t *testing.T) {
	targetCluster(t, "tenant-1", ready())
	grant(t, types.NamespacedName{Namespace: "app", Name: "web"}, "tenant-1")
	c, warned := recordingClient(t)
	const exceeded = "annotation keyferry.dev/refresher-resources: the sidecar requests 600m of cpu, so all containers request 600m, " +
		"but spec.resources.requests of the Pod is 500m: lower the sidecar's request, or raise spec.resources.requests"
	for named, want := range map[string]string{``: "", `{"requests":{"cpu":"500m"}}`: "", `{"requests":{"cpu":"600m"}}`: exceeded} {
		if !testenv.Has(testenv.PodLevelResources) {
			want = "" // the API server drops the field
		}
		d := deployment("app", nil)
		d.Spec.Template = template(annotated("cluster", "fleet/tenant-1"))
		if named != "" {
			d.Spec.Template.Annotations[injector.AnnotationRefresherResources] = named
		}
		d.Spec.Template.Spec.Resources = &corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}, Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")},
		}
		must(t, c.Create(t.Context(), d, client.DryRunAll))
		if got := warned.take(); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("with %q: warnings %q, want %q", named, got, want)
		}
	}
}

// TestUpdates checks that existing objects can be updated: by finalizers, controllers, and users
// who fix them.
func TestUpdates(t *testing.T) {
	c, warned := recordingClient(t)
	d := deployment("keyferry-system", annotated("cluster", "fleet/tenant-1")) // not seen at its creation
	d.Spec.Template = template(annotated("typo", ""))
	d.Name = "from-before"
	must(t, c.Create(t.Context(), d))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), d)) })

	was := d.DeepCopy()
	review := func(change func(*appsv1.Deployment)) (answer, error) {
		is := was.DeepCopy()
		change(is)
		return reviewUpdate(t, is, was)
	}
	if given, err := review(func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} }); err != nil || len(given.warnings) > 0 {
		t.Errorf("a change of something else: %v, %v", given.warnings, err)
	}
	if _, err := review(func(d *appsv1.Deployment) { d.Annotations[injector.AnnotationCluster] = "fleet/tenant-2" }); err == nil {
		t.Error("a change of the misplaced annotation is allowed")
	}
	if _, err := review(func(d *appsv1.Deployment) { d.Annotations[injector.AnnotationNamespace] = "team-a" }); err == nil {
		t.Error("another misplaced annotation is allowed")
	}
	if given, err := review(func(d *appsv1.Deployment) { d.Spec.Template.Labels["a"] = "b" }); err != nil || len(given.warnings) != 1 {
		t.Errorf("a change of the template: %v, %v", given.warnings, err)
	}
	now := metav1.Now()
	if _, err := review(func(d *appsv1.Deployment) {
		d.DeletionTimestamp, d.Annotations[injector.AnnotationNamespace] = &now, "team-a"
	}); err != nil {
		t.Errorf("a change while it is deleted: %v", err)
	}
	if got := warned.take(); got != "" {
		t.Errorf("warnings: %s", got)
	}
}
