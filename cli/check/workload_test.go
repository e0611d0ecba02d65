package check

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestWorkload(t *testing.T) {
	w := newWorld(t)
	ns, labels := w.pod.Namespace, map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}
	w.create(deployment)
	w.want(w.workload(appsv1.SchemeGroupVersion.WithKind("Deployment"), "web"), Wrong, "pod", Wrong, "Deployment "+ns+"/web has no Pods", "reason=FailedCreate")

	deployment.Status.Conditions = []appsv1.DeploymentCondition{{
		Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
		Message: `admission webhook "pods.keyferry.dev" denied the request: ServiceAccount app/web may not use it`,
	}}
	if err := w.client.Status().Update(t.Context(), deployment); err != nil {
		t.Fatal(err)
	}
	w.want(w.workload(appsv1.SchemeGroupVersion.WithKind("Deployment"), "web"), Wrong, "pod", Wrong, "has no Pods: admission webhook", "may not use it")

	ended := w.pod.DeepCopy()
	ended.Name, ended.Labels = "web-9", labels
	w.create(ended)
	ended.Status.Phase = corev1.PodFailed
	if err := w.client.Status().Update(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	w.pod.Labels = labels
	w.create(w.pod)
	if report := w.workload(appsv1.SchemeGroupVersion.WithKind("Deployment"), "web"); report.Pod != ns+"/web-1" || report.TargetCluster != ns+"/tenant-1" {
		t.Errorf("report %+v, want one of Pod web-1, which has not ended", report)
	}
}

func TestWorkloadThatSelectsNothing(t *testing.T) {
	w := newWorld(t)
	job := batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "app", Image: "app"}},
	}}}
	w.create(&batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: "nightly"},
		Spec:       batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: job}},
	})
	w.want(w.workload(batchv1.SchemeGroupVersion.WithKind("CronJob"), "nightly"), Unknown, "pod", Unknown, "no spec.selector", "name one of its Pods")
}

func (w *world) workload(kind schema.GroupVersionKind, name string) Report {
	w.t.Helper()
	workload := &unstructured.Unstructured{}
	workload.SetGroupVersionKind(kind)
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.pod.Namespace, Name: name}, workload); err != nil {
		w.t.Fatal(err)
	}
	return Workload(w.t.Context(), w.client, w.exec, workload)
}
