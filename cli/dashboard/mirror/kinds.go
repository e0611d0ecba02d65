package mirror

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/events"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

// definition says how to read a kind.
type definition struct {
	// plural is for people.
	plural  string
	object  client.Object
	newList func() client.ObjectList
	// trim removes from an object what no page shows. It returns nil for an object that no page shows.
	trim func(client.Object) client.Object
	// global kinds have no namespaces.
	global bool
}

// kinds are all that the dashboard reads. There is no Secret among them.
func kinds() []definition {
	return []definition{
		{plural: "TargetClusters", object: &v1alpha1.TargetCluster{}, newList: func() client.ObjectList { return &v1alpha1.TargetClusterList{} }, trim: trimManagedFields},
		{plural: "CredentialRequests", object: &v1alpha1.CredentialRequest{}, newList: func() client.ObjectList { return &v1alpha1.CredentialRequestList{} }, trim: trimManagedFields},
		{plural: "Locks", object: &v1alpha1.Lock{}, newList: func() client.ObjectList { return &v1alpha1.LockList{} }, trim: trimManagedFields},
		{plural: "ClusterLocks", object: &v1alpha1.ClusterLock{}, newList: func() client.ObjectList { return &v1alpha1.ClusterLockList{} }, trim: trimManagedFields, global: true},
		{plural: "Pods", object: &corev1.Pod{}, newList: func() client.ObjectList { return &corev1.PodList{} }, trim: trimPod},
		{plural: "Events", object: &eventsv1.Event{}, newList: func() client.ObjectList { return &eventsv1.EventList{} }, trim: trimEvent},
		{plural: "Roles", object: &rbacv1.Role{}, newList: func() client.ObjectList { return &rbacv1.RoleList{} }, trim: trimRole},
		{plural: "RoleBindings", object: &rbacv1.RoleBinding{}, newList: func() client.ObjectList { return &rbacv1.RoleBindingList{} }, trim: trimManagedFields},
		{plural: "ClusterRoles", object: &rbacv1.ClusterRole{}, newList: func() client.ObjectList { return &rbacv1.ClusterRoleList{} }, trim: trimRole, global: true},
		{plural: "ClusterRoleBindings", object: &rbacv1.ClusterRoleBinding{}, newList: func() client.ObjectList { return &rbacv1.ClusterRoleBindingList{} }, trim: trimManagedFields, global: true},
	}
}

const (
	annotationLastApplied = corev1.LastAppliedConfigAnnotation
	labelTemplateHash     = "pod-template-hash"
)

func trimManagedFields(o client.Object) client.Object {
	o.SetManagedFields(nil)
	if annotations := o.GetAnnotations(); annotations[annotationLastApplied] != "" {
		delete(annotations, annotationLastApplied)
	}
	return o
}

// trimPod keeps of an injected Pod only what package status reads, a fiftieth of a usual Pod.
func trimPod(o client.Object) client.Object {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return nil
	}
	status, isInjected := pod.Annotations[injector.AnnotationStatus]
	if !isInjected {
		return nil
	}
	trimmed := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			Annotations: map[string]string{injector.AnnotationStatus: status},
		},
		Spec:   corev1.PodSpec{ServiceAccountName: pod.Spec.ServiceAccountName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if hash := pod.Labels[labelTemplateHash]; hash != "" {
		trimmed.Labels = map[string]string{labelTemplateHash: hash}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		trimmed.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if s.Name == injector.RefresherContainer {
			trimmed.Status.InitContainerStatuses = []corev1.ContainerStatus{{
				Name: s.Name, State: s.State, LastTerminationState: s.LastTerminationState, Started: s.Started,
			}}
		}
	}
	return trimmed
}

func trimEvent(o client.Object) client.Object {
	if event, ok := o.(*eventsv1.Event); !ok || !events.IsOurs(event) {
		return nil
	}
	return trimManagedFields(o)
}

// trimRole keeps only the rules that may allow the use of a target.
func trimRole(o client.Object) client.Object {
	unrelated := func(r rbacv1.PolicyRule) bool {
		return !slices.Contains(r.Verbs, use.Verb) && !slices.Contains(r.Verbs, rbacv1.VerbAll)
	}
	var left int
	switch role := o.(type) {
	case *rbacv1.Role:
		role.Rules = slices.DeleteFunc(role.Rules, unrelated)
		left = len(role.Rules)
	case *rbacv1.ClusterRole:
		role.Rules = slices.DeleteFunc(role.Rules, unrelated)
		left = len(role.Rules)
	}
	if left == 0 {
		return nil
	}
	return trimManagedFields(o)
}
