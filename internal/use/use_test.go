package use

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

var web = types.NamespacedName{Namespace: "app", Name: "web"}

func TestDenial(t *testing.T) {
	for want, object := range map[string]Object{
		`ServiceAccount app/web may not use TargetCluster fleet/tenant-1: grant the verb "use" on targetclusters.keyferry.dev "tenant-1" in namespace fleet: ` +
			`keyferry grant fleet/tenant-1 app/web (check with: kubectl auth can-i use targetclusters/tenant-1 -n fleet --as system:serviceaccount:app:web)`: TargetCluster(
			types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}),
		`ServiceAccount app/web may not use ClusterProfile fleet/paris: grant the verb "use" on clusterprofiles.multicluster.x-k8s.io "paris" in namespace fleet: ` +
			`keyferry grant --cluster-profile fleet/paris app/web (check with: kubectl auth can-i use clusterprofiles.multicluster.x-k8s.io/paris -n fleet --as system:serviceaccount:app:web)`: ClusterProfile(
			types.NamespacedName{Namespace: "fleet", Name: "paris"}),
	} {
		if got := Denial(web, object); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestOf(t *testing.T) {
	cluster := &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-1"}}
	if got := Of(cluster); len(got) != 1 || got[0].String() != "TargetCluster fleet/tenant-1" {
		t.Errorf("got %v", got)
	}
	cluster.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: "inventory", Name: "paris"}
	if got := Of(cluster); len(got) != 2 || got[1].String() != "ClusterProfile inventory/paris" {
		t.Errorf("got %v", got)
	}
}

// No object has the Role of another, whatever their names are.
func TestRoleNames(t *testing.T) {
	seen := map[string]Object{}
	for _, name := range []string{"a", "clusterprofile", "clusterprofile.a"} {
		for _, object := range []Object{TargetCluster(types.NamespacedName{Name: name}), ClusterProfile(types.NamespacedName{Name: name})} {
			if other, ok := seen[RoleName(object)]; ok {
				t.Errorf("%s and %s have the same Role %s", object, other, RoleName(object))
			}
			seen[RoleName(object)] = object
		}
	}
}
