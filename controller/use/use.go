// Package use asks the API server of this cluster who has the verb use, on behalf of the
// controllers.
package use

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/permission"
)

// Object is one that a ServiceAccount needs the verb use on.
type Object struct {
	Group, Resource string
	types.NamespacedName
}

// TargetCluster returns the Object of a TargetCluster, which need not exist.
func TargetCluster(name types.NamespacedName) Object {
	return Object{permission.TargetClusters().Group, permission.TargetClusters().Resource, name}
}

// Of returns all that users of a TargetCluster need the verb use on: the TargetCluster, and the
// ClusterProfile that it names.
func Of(cluster *v1alpha1.TargetCluster) []Object {
	objects := []Object{TargetCluster(client.ObjectKeyFromObject(cluster))}
	if p := cluster.Spec.ClusterProfile; p != nil {
		objects = append(objects, Object{inventory.GroupVersion.Group, "clusterprofiles", types.NamespacedName{Namespace: p.Namespace, Name: p.Name}})
	}
	return objects
}

// Allowed reports whether a ServiceAccount may use an object. The UID may be empty.
func Allowed(ctx context.Context, reviews client.Writer, account types.NamespacedName, uid string, object Object) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   serviceaccount.MakeUsername(account.Namespace, account.Name),
		UID:    uid,
		Groups: append(serviceaccount.MakeGroupNames(account.Namespace), user.AllAuthenticated),
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb:      permission.Verb,
			Group:     object.Group,
			Resource:  object.Resource,
			Namespace: object.Namespace,
			Name:      object.Name,
		},
	}}
	if err := reviews.Create(ctx, review); err != nil {
		return false, fmt.Errorf("having the access of ServiceAccount %s reviewed: %w", account, err)
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}
