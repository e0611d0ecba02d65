package onboard

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
)

// rbacKinds are the kinds of objects in a target that give rights, in the order in which they are
// deleted.
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

// checkCluster fails if the TargetCluster exists and target has no object that was made for it:
// then it is registered for another cluster.
func checkCluster(ctx context.Context, management, target client.Client, name types.NamespacedName, owner string) error {
	err := management.Get(ctx, name, &v1alpha1.TargetCluster{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return in(inManagement, fmt.Errorf("reading TargetCluster %s: %w", name, err))
	}
	objects, err := inventory(ctx, target, owner, allKinds()...)
	if err != nil {
		return in(inTarget, err)
	}
	if len(objects) == 0 {
		return in(inTarget, fmt.Errorf("this cluster has no objects for TargetCluster %s: "+
			"select the target with --context or --kubeconfig. If the target does not exist any more, "+
			"remove the TargetCluster first: keyferry target remove %s", name, name))
	}
	return nil
}
