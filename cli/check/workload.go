package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Workload does as Pod for the newest Pod of a workload that has been read, such as a Deployment:
// one that has not ended, where there is.
func Workload(ctx context.Context, c client.Client, run Exec, workload *unstructured.Unstructured) Report {
	pods, err := podsOf(ctx, c, workload)
	if err == nil && len(pods) > 0 {
		return Pod(ctx, c, run, client.ObjectKeyFromObject(newest(pods)))
	}
	what := fmt.Sprintf("%s %s/%s", workload.GetKind(), workload.GetNamespace(), workload.GetName())
	report := Report{Workload: what}
	switch why := replicaFailure(workload); {
	case err != nil:
		report.unknown("pod", "name one of its Pods", "cannot find the Pods of %s: %v", what, err)
	case why != "":
		report.wrong("pod", "", "%s has no Pods: %s", what, why)
	default:
		report.wrong("pod", fmt.Sprintf("if the Pods cannot be created, the reason is in the Events: kubectl get events -n %s --field-selector reason=FailedCreate", workload.GetNamespace()),
			"%s has no Pods", what)
	}
	report.Result = report.sum()
	return report
}

// podsOf are the Pods that a workload selects.
func podsOf(ctx context.Context, c client.Client, workload *unstructured.Unstructured) ([]corev1.Pod, error) {
	labels, found, err := unstructured.NestedMap(workload.Object, "spec", "selector")
	if err != nil || !found {
		return nil, errors.New("it has no spec.selector")
	}
	var parsed metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(labels, &parsed); err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(&parsed)
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	err = c.List(ctx, &list, client.InNamespace(workload.GetNamespace()), client.MatchingLabelsSelector{Selector: selector})
	return list.Items, err
}

// replicaFailure is why Deployments and ReplicaSets have no Pods; what refused them is in it, such
// as the webhook.
func replicaFailure(workload *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(workload.Object, "status", "conditions") // of other kinds it may be anything
	for _, condition := range conditions {
		if c, ok := condition.(map[string]any); ok && c["type"] == "ReplicaFailure" && c["status"] == "True" {
			message, _ := c["message"].(string)
			return strings.TrimSpace(message)
		}
	}
	return ""
}

// newest is the newest Pod of those that have not ended, or else of all. There is one.
func newest(pods []corev1.Pod) *corev1.Pod {
	if running := slices.DeleteFunc(slices.Clone(pods), ended); len(running) > 0 {
		pods = running
	}
	pod := slices.MaxFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return &pod
}

func ended(pod corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
