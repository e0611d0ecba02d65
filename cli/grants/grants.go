// Package grants lists who may use a TargetCluster or ClusterProfile, by the RBAC objects that the
// user may read. Other authorizers of the API server, such as webhooks, may allow more.
package grants

import (
	"cmp"
	"context"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/use"
)

// Grant allows ServiceAccounts to use an Object.
type Grant struct {
	// Namespace and Name are those of the ServiceAccount. Without a name, the Grant is for all
	// ServiceAccounts of the namespace; without both, for all ServiceAccounts.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Binding is the object that grants it, such as "RoleBinding fleet/web".
	Binding string `json:"binding"`
	// Role is what Binding refers to, such as "ClusterRole keyferry-user".
	Role string `json:"role"`
}

// String returns the ServiceAccounts, for people.
func (g Grant) String() string {
	switch {
	case g.Name != "":
		return g.Namespace + "/" + g.Name
	case g.Namespace != "":
		return "all ServiceAccounts of namespace " + g.Namespace
	}
	return "all ServiceAccounts"
}

// Covers reports whether the Grant is for a ServiceAccount.
func (g Grant) Covers(account types.NamespacedName) bool {
	return (g.Namespace == "" || g.Namespace == account.Namespace) && (g.Name == "" || g.Name == account.Name)
}

// Answer reports whether a ServiceAccount may use an Object.
type Answer string

// The Answers. No and Unknown differ in whether all RBAC objects could be read.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Rules are the RBAC objects of a cluster.
type Rules struct {
	roles    map[string][]rbacv1.PolicyRule // by "Role NAMESPACE/NAME" or "ClusterRole NAME"
	bindings []binding
	// Incomplete are sentences about what could not be read.
	Incomplete []string
}

type binding struct {
	name      string // for people
	namespace string // in which it grants; empty for all
	role      string
	subjects  []rbacv1.Subject
}

// Read reads the RBAC objects, as far as the user may.
func Read(ctx context.Context, reader client.Reader) (*Rules, error) {
	r := &Rules{roles: map[string][]rbacv1.PolicyRule{}}
	roles, clusterRoles := &rbacv1.RoleList{}, &rbacv1.ClusterRoleList{}
	bindings, clusterBindings := &rbacv1.RoleBindingList{}, &rbacv1.ClusterRoleBindingList{}
	for _, list := range []client.ObjectList{roles, clusterRoles, bindings, clusterBindings} {
		if err := reader.List(ctx, list); apierrors.IsForbidden(err) {
			r.Incomplete = append(r.Incomplete, err.Error())
		} else if err != nil {
			return nil, err
		}
	}
	for i := range roles.Items {
		r.roles["Role "+roles.Items[i].Namespace+"/"+roles.Items[i].Name] = roles.Items[i].Rules
	}
	for i := range clusterRoles.Items {
		r.roles["ClusterRole "+clusterRoles.Items[i].Name] = clusterRoles.Items[i].Rules
	}
	for i := range bindings.Items {
		b := &bindings.Items[i]
		role := b.RoleRef.Kind + " " + b.RoleRef.Name
		if b.RoleRef.Kind == "Role" {
			role = "Role " + b.Namespace + "/" + b.RoleRef.Name
		}
		r.bindings = append(r.bindings, binding{"RoleBinding " + b.Namespace + "/" + b.Name, b.Namespace, role, b.Subjects})
	}
	for i := range clusterBindings.Items {
		b := &clusterBindings.Items[i]
		r.bindings = append(r.bindings, binding{"ClusterRoleBinding " + b.Name, "", "ClusterRole " + b.RoleRef.Name, b.Subjects})
	}
	return r, nil
}

// For returns the Grants for one Object, sorted. Users and groups that no Pod can act as are left
// out.
func (r *Rules) For(o use.Object) []Grant {
	var found []Grant
	for _, b := range r.bindings {
		if b.namespace != "" && b.namespace != o.Namespace || !slices.ContainsFunc(r.roles[b.role], func(rule rbacv1.PolicyRule) bool { return allows(rule, o) }) {
			continue
		}
		for _, s := range b.subjects {
			if grant, ok := accounts(s); ok {
				grant.Binding, grant.Role = b.name, b.role
				found = append(found, grant)
			}
		}
	}
	slices.SortFunc(found, func(a, b Grant) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Binding, b.Binding))
	})
	return slices.Compact(found)
}

// May reports whether a ServiceAccount may use all of some Objects.
func (r *Rules) May(account types.NamespacedName, objects ...use.Object) Answer {
	for _, o := range objects {
		if !slices.ContainsFunc(r.For(o), func(g Grant) bool { return g.Covers(account) }) {
			if len(r.Incomplete) > 0 {
				return Unknown
			}
			return No
		}
	}
	return Yes
}

// allows reports whether a rule allows the use of an Object.
func allows(rule rbacv1.PolicyRule, o use.Object) bool {
	has := func(list []string, value string) bool {
		return slices.Contains(list, value) || slices.Contains(list, "*")
	}
	return has(rule.Verbs, use.Verb) && has(rule.APIGroups, o.Resource.Group) && has(rule.Resources, o.Resource.Resource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, o.Name))
}

// accounts returns the ServiceAccounts that a subject stands for.
func accounts(s rbacv1.Subject) (Grant, bool) {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		return Grant{Namespace: s.Namespace, Name: s.Name}, s.Namespace != ""
	case rbacv1.UserKind:
		namespace, name, err := serviceaccount.SplitUsername(s.Name)
		return Grant{Namespace: namespace, Name: name}, err == nil
	case rbacv1.GroupKind:
		if namespace, ok := strings.CutPrefix(s.Name, serviceaccount.ServiceAccountGroupPrefix); ok {
			return Grant{Namespace: namespace}, namespace != ""
		}
		return Grant{}, s.Name == serviceaccount.AllServiceAccountsGroup || s.Name == user.AllAuthenticated
	}
	return Grant{}, false
}
