package secretaccess

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/testenv"
)

// TestReaderReadsWhatTheBrokerMay: the client may read all Secrets, and the broker those of one
// namespace, and a single one of another.
func TestReaderReadsWhatTheBrokerMay(t *testing.T) {
	c := testenv.NewClient(t, server)
	broker := types.NamespacedName{Namespace: "keyferry-of-reader", Name: "broker"}
	selected, single := "selected", "single"
	for _, namespace := range []string{selected, single} {
		must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
		named := metav1.ObjectMeta{Namespace: namespace, Name: "access"}
		must(t, c.Create(t.Context(), &corev1.Secret{ObjectMeta: named}))
		rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}
		if namespace == single {
			rule.ResourceNames = []string{"access"}
		}
		must(t, c.Create(t.Context(), &rbacv1.Role{ObjectMeta: named, Rules: []rbacv1.PolicyRule{rule}}))
		must(t, c.Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: named, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: named.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: broker.Namespace, Name: broker.Name}},
		}))
	}
	clients, err := kubernetes.NewForConfig(server)
	must(t, err)
	reader, err := NewReader(c, clients.AuthorizationV1(), broker)
	must(t, err)
	get := func(namespace, name string) error {
		return reader.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &corev1.Secret{})
	}
	must(t, get(selected, "access"))
	if err := get(selected, "missing"); !apierrors.IsNotFound(err) {
		t.Errorf("a Secret that does not exist: %v", err)
	}
	for _, name := range []string{"access", "missing"} {
		if err := get(single, name); !apierrors.IsForbidden(err) {
			t.Errorf("the Secret %s of a namespace that is not selected: %v", name, err)
		}
	}
	must(t, reader.Get(t.Context(), client.ObjectKey{Name: single}, &corev1.Namespace{})) // is no Secret
}
