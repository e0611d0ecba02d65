// Package permission describes how a ServiceAccount is allowed to use one TargetCluster: the RBAC
// objects, and the command that makes them.
package permission

import (
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Verb is the RBAC verb that a Pod's ServiceAccount needs on the object that describes another
// cluster.
const Verb = "use"

// TargetClusters returns the resource of TargetClusters, as RBAC names it.
func TargetClusters() schema.GroupResource {
	return schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "targetclusters"}
}

// GrantCommand returns the shell command that allows a ServiceAccount to use one TargetCluster or
// ClusterProfile.
func GrantCommand(resource schema.GroupResource, object, account types.NamespacedName) string {
	if resource.Group == v1alpha1.GroupVersion.Group {
		return fmt.Sprintf("keyferry grant %s %s", object, account)
	}
	return fmt.Sprintf("kubectl create role use-%s -n %s --verb=%s --resource=%s --resource-name=%s && "+
		"kubectl create rolebinding use-%s-%s-%s -n %s --role=use-%s --serviceaccount=%s:%s",
		object.Name, object.Namespace, Verb, resource, object.Name,
		object.Name, account.Namespace, account.Name, object.Namespace, object.Name, account.Namespace, account.Name)
}

// RoleName returns the name of the Role that allows the use of a TargetCluster, in the
// TargetCluster's namespace. RBAC allows colons in names, which no other name in it contains, so
// the names of two TargetClusters never collide.
func RoleName(target types.NamespacedName) string { return "keyferry:use:" + target.Name }

// Role returns the Role that allows the use of one TargetCluster.
func Role(target types.NamespacedName) *rbacv1.Role {
	return &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
		ObjectMeta: metav1.ObjectMeta{Namespace: target.Namespace, Name: RoleName(target)},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{TargetClusters().Group}, Resources: []string{TargetClusters().Resource},
			ResourceNames: []string{target.Name}, Verbs: []string{Verb},
		}},
	}
}

// Binding returns the RoleBinding that gives the Role to one ServiceAccount. Each ServiceAccount
// has its own, so that two administrators, or two directories of a Git repository, never write the
// same object.
func Binding(target, account types.NamespacedName) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Namespace: target.Namespace, Name: RoleName(target) + ":" + account.Namespace + ":" + account.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: RoleName(target)},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}
}
