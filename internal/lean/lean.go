// Package lean keeps caches of Kubernetes objects small.
package lean

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Metadata is the transform of a cache. It removes of an object's metadata what people and other
// programs put there for themselves, which is often more than the rest: labels, annotations, owners
// and managed fields.
//
// What comes from such a cache must not be written by Update, which would remove them from the
// object itself; a patch or an apply does not.
func Metadata(object any) (any, error) {
	o, ok := object.(metav1.Object)
	if !ok {
		return object, nil // a cache's own note on what is gone
	}
	o.SetLabels(nil)
	o.SetAnnotations(nil)
	o.SetOwnerReferences(nil)
	o.SetManagedFields(nil)
	return object, nil
}

// MetadataAndLabels is like Metadata, and leaves labels.
func MetadataAndLabels(object any) (any, error) {
	o, ok := object.(metav1.Object)
	if !ok {
		return object, nil
	}
	labels := o.GetLabels()
	defer o.SetLabels(labels)
	return Metadata(object)
}
