// Package lean keeps caches of Kubernetes objects small.
package lean

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Metadata is the transform of a cache. It removes labels, annotations, owner references and
// managed fields from an object's metadata, because they are often larger than the rest.
//
// Do not write objects from such a cache with Update, which would remove these fields from the
// stored object. Patch and Apply are safe.
func Metadata(object any) (any, error) {
	o, ok := object.(metav1.Object)
	if !ok {
		return object, nil // such as the cache's tombstone of a deleted object
	}
	o.SetLabels(nil)
	o.SetAnnotations(nil)
	o.SetOwnerReferences(nil)
	o.SetManagedFields(nil)
	return object, nil
}

// MetadataAndLabels is like Metadata, but keeps labels.
func MetadataAndLabels(object any) (any, error) {
	o, ok := object.(metav1.Object)
	if !ok {
		return object, nil
	}
	labels := o.GetLabels()
	defer o.SetLabels(labels)
	return Metadata(object)
}
