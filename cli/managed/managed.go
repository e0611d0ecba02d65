// Package managed writes and deletes the objects that the command makes in a cluster. It leaves all
// others alone: an object is the command's own if it has the label app.kubernetes.io/managed-by:
// keyferry, and the same owner.
package managed

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// Label marks the command's objects.
	Label = "app.kubernetes.io/managed-by"
	// Value is the value of Label.
	Value = "keyferry"
	// OwnerAnnotation names the TargetCluster that an object in a target is for. Objects in the
	// management cluster have none.
	OwnerAnnotation = "keyferry.dev/target-cluster"

	fieldOwner = client.FieldOwner("keyferry-cli")
)

// Outcome is what became of an object, in kubectl's words.
type Outcome string

// The outcomes.
const (
	Created   Outcome = "created"
	Changed   Outcome = "configured"
	Unchanged Outcome = "unchanged"
	Deleted   Outcome = "deleted"
	// Absent is the outcome of deleting an object that does not exist.
	Absent Outcome = "not found"
)

// ErrForeign is wrapped by errors about an object that exists and is not the command's own.
var ErrForeign = errors.New("was not made by keyferry")

// Mark gives an object the label, and returns it as the API server receives it: without fields that
// are not set.
func Mark(object client.Object) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	marked := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	labels := marked.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[Label] = Value
	marked.SetLabels(labels)
	return marked, nil
}

// Is reports whether an object is the command's own, for that owner.
func Is(object metav1.Object, owner string) bool {
	return object.GetLabels()[Label] == Value && object.GetAnnotations()[OwnerAnnotation] == owner
}

// Name names an object for messages.
func Name(object client.Object) string {
	return object.GetObjectKind().GroupVersionKind().Kind + " " + path(object)
}

func path(object client.Object) string {
	if object.GetNamespace() == "" {
		return object.GetName()
	}
	return object.GetNamespace() + "/" + object.GetName()
}

// Apply creates an object with its kind set, or changes those fields of its own that differ. Fields
// that somebody else has set stay. Its error wraps ErrForeign if the object exists and is not the
// command's own.
func Apply(ctx context.Context, c client.Client, object client.Object) (Outcome, error) {
	wanted, err := Mark(object)
	if err != nil {
		return "", err
	}
	live, err := read(ctx, c, wanted)
	if err != nil {
		return "", err
	}
	if live != nil {
		// The API server refuses the change if the object has been replaced in between.
		wanted.SetUID(live.GetUID())
	}
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(wanted), fieldOwner, client.ForceOwnership); err != nil {
		return "", fmt.Errorf("writing %s: %w", Name(wanted), err)
	}
	switch {
	case live == nil:
		return Created, nil
	case wanted.GetResourceVersion() == live.GetResourceVersion():
		return Unchanged, nil
	default:
		return Changed, nil
	}
}

// CreateMissing creates an object that does not exist, and leaves any other as it is.
func CreateMissing(ctx context.Context, c client.Client, object client.Object) (Outcome, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
	switch err := c.Get(ctx, client.ObjectKeyFromObject(object), live); {
	case err == nil:
		return Unchanged, nil
	case !apierrors.IsNotFound(err):
		return "", fmt.Errorf("reading %s: %w", Name(object), err)
	}
	return Apply(ctx, c, object)
}

// Check returns an error that wraps ErrForeign if Apply would refuse the object.
func Check(ctx context.Context, c client.Client, object client.Object) error {
	wanted, err := Mark(object)
	if err != nil {
		return err
	}
	_, err = read(ctx, c, wanted)
	return err
}

// Delete deletes an object, of which it reads kind, name and owner.
func Delete(ctx context.Context, c client.Client, object client.Object) (Outcome, error) {
	wanted, err := Mark(object)
	if err != nil {
		return "", err
	}
	live, err := read(ctx, c, wanted)
	switch {
	case err != nil:
		return "", err
	case live == nil:
		return Absent, nil
	}
	uid := live.GetUID()
	err = c.Delete(ctx, live, client.Preconditions{UID: &uid})
	if client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("deleting %s: %w", Name(wanted), err)
	}
	return Deleted, nil
}

// read returns the live object; nil if it does not exist.
func read(ctx context.Context, c client.Client, wanted *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(wanted.GroupVersionKind())
	switch err := c.Get(ctx, client.ObjectKeyFromObject(wanted), live); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", Name(wanted), err)
	}
	owner := wanted.GetAnnotations()[OwnerAnnotation]
	switch {
	case Is(live, owner):
		return live, nil
	case live.GetLabels()[Label] == Value:
		return nil, fmt.Errorf("%s exists for another TargetCluster (annotation %s: %q): choose another name, or remove the existing object", Name(wanted), OwnerAnnotation, live.GetAnnotations()[OwnerAnnotation])
	default:
		return nil, fmt.Errorf("%s exists and %w (the label %s: %s is missing): delete the existing object, or choose another name", Name(wanted), ErrForeign, Label, Value)
	}
}
