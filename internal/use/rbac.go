package use

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RoleName returns the name of the Role that allows the use of an Object, in the Object's
// namespace. RBAC allows colons in names, which no other name in it contains, so the names of two
// Objects never collide.
func RoleName(o Object) string {
	if o.IsClusterProfile() {
		return "keyferry:use:clusterprofile:" + o.Name
	}
	return "keyferry:use:" + o.Name
}

// Role returns the Role that allows the use of one Object.
func Role(o Object) *rbacv1.Role {
	return &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: RoleName(o)},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{o.Resource.Group}, Resources: []string{o.Resource.Resource},
			ResourceNames: []string{o.Name}, Verbs: []string{Verb},
		}},
	}
}

// Binding returns the RoleBinding that gives the Role to one ServiceAccount. Each ServiceAccount
// has its own, so that two administrators, or two directories of a Git repository, never write the
// same object.
func Binding(account types.NamespacedName, o Object) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: RoleName(o) + ":" + account.Namespace + ":" + account.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: RoleName(o)},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}
}
