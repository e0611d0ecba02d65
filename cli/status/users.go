package status

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

// requestUser is what is told of a CredentialRequest.
func requestUser(request *v1alpha1.CredentialRequest) User {
	status := request.Status
	user := User{
		Kind: KindCredentialRequest, Namespace: request.Namespace, Name: request.Name, ServiceAccount: request.Spec.ServiceAccountName,
		State: StateReady, Ends: status.ExpirationTimestamp, Renews: status.RenewAt,
	}
	if ready, reason, message := Readiness(status.Conditions, status.ObservedGeneration < request.Generation); ready != metav1.ConditionTrue {
		user.State, user.Message = reason, message
	}
	return user
}

// podUser is what is told of a Pod, and what it uses: nothing if it has not been injected, or has
// ended.
func podUser(pod *corev1.Pod, requests map[types.NamespacedName]*v1alpha1.CredentialRequest, parse func(recorded string) *injector.Status) (User, []target) {
	recorded, injected := pod.Annotations[injector.AnnotationStatus]
	if !injected || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return User{}, nil
	}
	status := parse(recorded)
	if status == nil {
		return User{}, nil // keyferry check tells
	}
	user := User{
		Kind: KindPod, Namespace: pod.Namespace, Name: pod.Name,
		ServiceAccount: cmp.Or(pod.Spec.ServiceAccountName, "default"), State: string(cmp.Or(pod.Status.Phase, corev1.PodPending)),
		Workload: workload(pod), Delivery: status.Delivery,
	}
	if status.HasSidecar() {
		user.State, user.Message = sidecar(pod)
	} else if pod.Status.Phase == corev1.PodRunning {
		user.State = StateReady
	}
	var targets []target
	for _, name := range status.Clusters {
		targets = append(targets, target{KindTargetCluster, parsed(name)})
	}
	if status.ClusterProfile != "" {
		targets = append(targets, target{KindClusterProfile, parsed(status.ClusterProfile)})
	}
	if status.CredentialRequest != "" {
		name := types.NamespacedName{Namespace: pod.Namespace, Name: status.CredentialRequest}
		user.Request = name.Name
		request := requests[name]
		if request == nil {
			return user, append(targets, target{KindCredentialRequest, name})
		}
		user.Ends, user.Renews = request.Status.ExpirationTimestamp, request.Status.RenewAt
		targets = append(targets, target{KindTargetCluster, types.NamespacedName(request.Spec.TargetCluster)})
	}
	return user, targets
}

// newParser returns a function that parses the status that the webhook recorded in a Pod. The
// function returns nil for text that is no status. The Pods of a workload have the same text, which
// the function parses once.
func newParser() func(recorded string) *injector.Status {
	parsed := map[string]*injector.Status{}
	return func(recorded string) *injector.Status {
		status, known := parsed[recorded]
		if !known {
			status = &injector.Status{}
			if json.Unmarshal([]byte(recorded), status) != nil {
				status = nil
			}
			parsed[recorded] = status
		}
		return status
	}
}

// workload returns what a Pod belongs to. It reads the Pod only: the name of a ReplicaSet of a
// Deployment ends with the hash in the Pod's label.
func workload(pod *corev1.Pod) string {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return ""
	}
	hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" && owner.Kind == "ReplicaSet" {
		return "Deployment " + name
	}
	return owner.Kind + " " + owner.Name
}

// parsed reads namespace/name as the webhook has written it.
func parsed(text string) types.NamespacedName {
	namespace, name, _ := strings.Cut(text, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// sidecar is the state of a Pod by its sidecar, which has started once it has a credential.
func sidecar(pod *corev1.Pod) (state, message string) {
	i := slices.IndexFunc(pod.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == injector.RefresherContainer })
	if i < 0 {
		return string(corev1.PodPending), ""
	}
	status := pod.Status.InitContainerStatuses[i]
	last := ""
	if t := cmp.Or(status.State.Terminated, status.LastTerminationState.Terminated); t != nil {
		last = strings.TrimSpace(t.Message)
	}
	switch {
	case status.State.Running != nil && status.Started != nil && *status.Started:
		return StateReady, ""
	case status.State.Running != nil:
		return "Starting", last
	case status.State.Waiting != nil:
		return cmp.Or(status.State.Waiting.Reason, "Waiting"), cmp.Or(last, status.State.Waiting.Message)
	}
	return "Ended", last
}
