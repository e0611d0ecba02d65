package lean

import (
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

func TestMetadata(t *testing.T) {
	whole := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fleet", Name: "tenant-1", UID: "1", ResourceVersion: "2", Generation: 3, Finalizers: []string{"example.com/keep"},
		},
		Spec:   v1alpha1.TargetClusterSpec{DefaultNamespace: "team-a"},
		Status: v1alpha1.TargetClusterStatus{Endpoint: "https://192.0.2.1"},
	}
	want := whole.DeepCopy()
	whole.Labels = map[string]string{"app.kubernetes.io/managed-by": "Helm"}
	whole.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
	whole.OwnerReferences = []metav1.OwnerReference{{Name: "owner"}}
	whole.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	gone := cache.DeletedFinalStateUnknown{Key: "fleet/tenant-1"}
	for object, want := range map[any]any{whole: want, gone: gone} {
		if got, err := Metadata(object); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %+v, want %+v", err, got, want)
		}
	}
}
