// Package use decides who may use a TargetCluster or a ClusterProfile: which objects a
// ServiceAccount needs the verb use on, how to check it with this cluster's API server, what to
// tell users without access, and which RBAC objects grant it.
package use

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Verb is the RBAC verb that a Pod's ServiceAccount needs on each Object of its target.
const Verb = "use"

// Object is a TargetCluster or a ClusterProfile. It need not exist.
type Object struct {
	Kind     string
	Resource schema.GroupVersionResource
	types.NamespacedName
}

// TargetCluster returns the Object of a TargetCluster.
func TargetCluster(name types.NamespacedName) Object {
	return Object{"TargetCluster", v1alpha1.GroupVersion.WithResource("targetclusters"), name}
}

// ClusterProfile returns the Object of a ClusterProfile.
func ClusterProfile(name types.NamespacedName) Object {
	return Object{inventory.ClusterProfileKind, inventory.GroupVersion.WithResource("clusterprofiles"), name}
}

// Of returns the Objects that users of a TargetCluster need the verb use on: the TargetCluster, and
// the ClusterProfile that it names.
func Of(cluster *v1alpha1.TargetCluster) []Object {
	objects := []Object{TargetCluster(client.ObjectKeyFromObject(cluster))}
	if profile := cluster.Spec.ClusterProfile; profile != nil {
		objects = append(objects, ClusterProfile(types.NamespacedName(*profile)))
	}
	return objects
}

// IsClusterProfile reports whether the Object is a ClusterProfile.
func (o Object) IsClusterProfile() bool { return o.Kind == inventory.ClusterProfileKind }

// String returns kind and name, for messages.
func (o Object) String() string { return o.Kind + " " + o.NamespacedName.String() }

// ServiceAccount returns a ServiceAccount as a user of the API server. The UID may be empty.
func ServiceAccount(account types.NamespacedName, uid string) user.Info {
	return &user.DefaultInfo{
		Name:   serviceaccount.MakeUsername(account.Namespace, account.Name),
		UID:    uid,
		Groups: append(serviceaccount.MakeGroupNames(account.Namespace), user.AllAuthenticated),
	}
}

// Attributes returns the attributes for an authorizer that checks whether a ServiceAccount may use
// an Object. uid is the UID of the ServiceAccount; it may be empty. Nothing else is part of the
// check, so the result is the same for all Pods of a ServiceAccount, and for `kubectl auth can-i
// --as`.
func Attributes(account types.NamespacedName, uid string, o Object) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User:            ServiceAccount(account, uid),
		Verb:            Verb,
		APIGroup:        o.Resource.Group,
		APIVersion:      o.Resource.Version,
		Resource:        o.Resource.Resource,
		Namespace:       o.Namespace,
		Name:            o.Name,
		ResourceRequest: true,
	}
}

// Review returns the spec of a SubjectAccessReview for the same check.
func Review(account types.NamespacedName, uid string, o Object) authorizationv1.SubjectAccessReviewSpec {
	a := Attributes(account, uid, o)
	return authorizationv1.SubjectAccessReviewSpec{
		User:   a.User.GetName(),
		UID:    a.User.GetUID(),
		Groups: a.User.GetGroups(),
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: a.Verb, Group: a.APIGroup, Version: a.APIVersion, Resource: a.Resource, Namespace: a.Namespace, Name: a.Name,
		},
	}
}

// Allowed checks with the API server, without a cache, whether a ServiceAccount may use an Object.
func Allowed(ctx context.Context, reviews client.Writer, account types.NamespacedName, uid string, o Object) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: Review(account, uid, o)}
	if err := reviews.Create(ctx, review); err != nil {
		return false, fmt.Errorf("checking whether ServiceAccount %s may use %s: %w", account, o, err)
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}

// Denial returns the message for users if a ServiceAccount may not use an Object, with the fix.
func Denial(account types.NamespacedName, o Object) string {
	return fmt.Sprintf("%s: grant the verb %q on %s %q in namespace %s: %s (check with: %s)",
		Finding(account, o), Verb, o.Resource.GroupResource(), o.Name, o.Namespace, GrantCommand(account, o), CheckCommand(account, o))
}

// Finding returns the beginning of Denial, without the fix.
func Finding(account types.NamespacedName, o Object) string {
	return fmt.Sprintf("ServiceAccount %s may not use %s", account, o)
}

// GrantCommand returns the command that allows a ServiceAccount to use this one Object.
func GrantCommand(account types.NamespacedName, o Object) string {
	flag := ""
	if o.IsClusterProfile() {
		flag = "--cluster-profile "
	}
	return fmt.Sprintf("keyferry grant %s%s %s", flag, o.NamespacedName, account)
}

// CheckCommand returns the command that checks whether a ServiceAccount may use an Object.
func CheckCommand(account types.NamespacedName, o Object) string {
	resource := o.Resource.Resource
	if o.IsClusterProfile() { // other groups have the resource, too
		resource = o.Resource.GroupResource().String()
	}
	return fmt.Sprintf("kubectl auth can-i %s %s/%s -n %s --as %s",
		Verb, resource, o.Name, o.Namespace, serviceaccount.MakeUsername(account.Namespace, account.Name))
}
