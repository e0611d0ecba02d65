package onboard

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/managed"
)

// rbacKinds are the kinds of objects in a target that give rights, in the order in which they are deleted.
func rbacKinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{
		rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"),
		rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
		rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
		rbacv1.SchemeGroupVersion.WithKind("Role"),
	}
}

// allKinds are the kinds of all objects in a target that are made for one TargetCluster.
func allKinds() []schema.GroupVersionKind {
	return append(rbacKinds(), corev1.SchemeGroupVersion.WithKind("ServiceAccount"), corev1.SchemeGroupVersion.WithKind("Secret"))
}

// inventory returns the objects of these kinds that were made for one TargetCluster.
func inventory(ctx context.Context, target client.Client, owner string, kinds ...schema.GroupVersionKind) ([]client.Object, error) {
	var found []client.Object
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		options := []client.ListOption{client.MatchingLabels{managed.Label: managed.Value}}
		if kind == corev1.SchemeGroupVersion.WithKind("Secret") {
			options = append(options, client.InNamespace(AccessNamespace))
		}
		if err := target.List(ctx, list, options...); err != nil {
			return nil, fmt.Errorf("reading objects of kind %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			if managed.Is(&list.Items[i], owner) {
				found = append(found, &list.Items[i])
			}
		}
	}
	return found, nil
}
