package onboard

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/targetinfo"
	"github.com/keyferry/keyferry/internal/use"
)

// Remover removes what an Adder has made, and what was granted on the TargetCluster.
type Remover struct {
	// Name and Owner are those of the Request.
	Name  types.NamespacedName
	Owner string
	// Management acts as you do, and so does Target. Without Target its objects are left.
	Management client.Client
	Target     client.Client
	// Report prints a line of progress, and Warn a warning.
	Report, Warn func(format string, args ...any)
}

// Remove deletes the objects in the management cluster first, so that Keyferry stops issuing before
// its account is gone. Run again, it goes on where it failed.
func (r *Remover) Remove(ctx context.Context) error {
	meta := metav1.ObjectMeta{Namespace: r.Name.Namespace, Name: r.Name.Name}
	objects := []client.Object{&v1alpha1.TargetCluster{TypeMeta: typeMeta(v1alpha1.GroupVersion.String(), "TargetCluster"), ObjectMeta: meta}}
	tc := &v1alpha1.TargetCluster{}
	if err := client.IgnoreNotFound(r.Management.Get(ctx, r.Name, tc)); err != nil {
		return in(inManagement, fmt.Errorf("reading TargetCluster %s: %w", r.Name, err))
	}
	if tc.Name == "" || tc.Spec.Access.Type == v1alpha1.AccessKubeconfig { // a key of a cloud is yours
		objects = append(objects, &corev1.Secret{TypeMeta: typeMeta(corev1.SchemeGroupVersion.String(), "Secret"), ObjectMeta: meta})
	}
	grants, err := r.grants(ctx)
	if err != nil {
		return in(inManagement, err)
	}
	objects = append(objects, grants...)
	for _, object := range objects {
		if err := managed.Check(ctx, r.Management, object); err != nil {
			return in(inManagement, err)
		}
	}
	if r.Target != nil {
		if err := checkCluster(ctx, r.Management, r.Target, r.Name, r.Owner); err != nil {
			return err
		}
	}
	if err := r.delete(ctx, inManagement, r.Management, objects...); err != nil {
		return err
	}
	if r.Target == nil {
		r.Warn("the objects in the target were not removed: run the command again, and select the target with --context or --kubeconfig")
		return nil
	}
	made, err := inventory(ctx, r.Target, r.Owner, allKinds()...)
	if err != nil {
		return in(inTarget, err)
	}
	return r.delete(ctx, inTarget, r.Target, made...)
}

// grants are what allows the use of the TargetCluster. A later TargetCluster of the same name must
// not inherit it.
func (r *Remover) grants(ctx context.Context) ([]client.Object, error) {
	bindings, err := targetinfo.Bindings(ctx, r.Management, r.Name)
	if err != nil {
		return nil, err
	}
	var grants []client.Object
	for i := range bindings {
		bindings[i].TypeMeta = typeMeta(rbacv1.SchemeGroupVersion.String(), "RoleBinding")
		grants = append(grants, &bindings[i])
	}
	return append(grants, use.Role(use.TargetCluster(r.Name))), nil
}

func (r *Remover) delete(ctx context.Context, where string, cluster client.Client, objects ...client.Object) error {
	for _, object := range objects {
		outcome, err := managed.Delete(ctx, cluster, object)
		if err != nil {
			return in(where, err)
		}
		if outcome == managed.Deleted {
			r.Report("%s: %s %s", where, managed.Name(object), outcome)
		}
	}
	return nil
}
