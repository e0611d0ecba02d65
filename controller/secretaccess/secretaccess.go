// Package secretaccess allows Keyferry to read the Secrets of namespaces with certain labels.
package secretaccess

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// The names of the chart's objects. An admission policy allows the controller to create no
// RoleBinding but this, and only in namespaces with the labels. The ClusterRole owns the
// RoleBindings: if the operator removes it, with the chart value or the release, they are deleted.
const (
	ClusterRole = "keyferry-secret-access"
	RoleBinding = "keyferry-secret-access-by-label"
)

// fieldOwner is the name under which this package writes.
const fieldOwner = client.FieldOwner("keyferry-controller")

// Config is what Bindings need; all of it is required.
type Config struct {
	// Client reads the labels of namespaces, and RoleBindings with the name RoleBinding.
	Client client.Client
	// Live reads the ClusterRole, of which no cache is needed.
	Live client.Reader
	// Labels are those that a namespace must have.
	Labels map[string]string
	// Namespace is Keyferry's own: Secrets there are never read for TargetClusters.
	Namespace string
	// ServiceAccounts of Namespace may read the Secrets.
	ServiceAccounts []string
}

// Bindings keeps a RoleBinding in each namespace that has the labels, and in no other.
type Bindings struct{ cfg Config }

// New returns Bindings.
func New(cfg Config) (*Bindings, error) {
	if cfg.Client == nil || cfg.Live == nil || len(cfg.Labels) == 0 || cfg.Namespace == "" || len(cfg.ServiceAccounts) == 0 {
		return nil, errors.New("secretaccess: Client, Live, Labels, Namespace and ServiceAccounts are required")
	}
	return &Bindings{cfg}, nil
}

// SetupWithManager makes b watch the metadata of namespaces, and its own RoleBindings.
func (b *Bindings) SetupWithManager(mgr ctrl.Manager) error {
	toNamespace := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetNamespace()}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("secretaccess").
		For(&corev1.Namespace{}, builder.OnlyMetadata).
		Watches(&rbacv1.RoleBinding{}, toNamespace).
		Complete(b)
}

// Reconcile creates or deletes the RoleBinding of one namespace. A RoleBinding that a user changed
// is deleted; its deletion leads to a new one.
func (b *Bindings) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	selected, err := b.selected(ctx, req.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	binding := &rbacv1.RoleBinding{}
	err = b.cfg.Client.Get(ctx, types.NamespacedName{Namespace: req.Name, Name: RoleBinding}, binding)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("reading RoleBinding %s/%s: %w", req.Name, RoleBinding, err)
	}
	exists := err == nil
	if !exists && !selected {
		return reconcile.Result{}, nil
	}
	wanted, err := b.binding(ctx, req.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	switch {
	case selected && !exists:
		err = b.cfg.Client.Create(ctx, wanted, fieldOwner)
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			err = nil // the cache is late
		}
	case exists && (!selected || binding.RoleRef != wanted.RoleRef || !slices.Equal(binding.Subjects, wanted.Subjects) ||
		!slices.Equal(binding.OwnerReferences, wanted.OwnerReferences)):
		err = client.IgnoreNotFound(b.cfg.Client.Delete(ctx, binding, client.Preconditions{UID: &binding.UID}))
	default:
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("writing RoleBinding %s/%s: %w", req.Name, RoleBinding, err)
	}
	if exists {
		ctrl.LoggerFrom(ctx).Info("access to Secrets of the namespace revoked", "namespace", req.Name)
	} else {
		ctrl.LoggerFrom(ctx).Info("access to Secrets of the namespace granted", "namespace", req.Name)
	}
	return reconcile.Result{}, nil
}

// selected reports whether a namespace has the labels.
func (b *Bindings) selected(ctx context.Context, name string) (bool, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	err := b.cfg.Client.Get(ctx, types.NamespacedName{Name: name}, namespace)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading namespace %s: %w", name, err)
	}
	return err == nil && name != b.cfg.Namespace && namespace.DeletionTimestamp.IsZero() &&
		labels.SelectorFromSet(b.cfg.Labels).Matches(labels.Set(namespace.Labels)), nil
}

// binding returns the RoleBinding as it must be in a namespace.
func (b *Bindings) binding(ctx context.Context, namespace string) (*rbacv1.RoleBinding, error) {
	role := &rbacv1.ClusterRole{}
	if err := b.cfg.Live.Get(ctx, types.NamespacedName{Name: ClusterRole}, role); err != nil {
		return nil, fmt.Errorf("reading ClusterRole %s: %w", ClusterRole, err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      RoleBinding,
			Labels:    map[string]string{"app.kubernetes.io/managed-by": "keyferry-controller"},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole", Name: role.Name, UID: role.UID},
			},
		},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: ClusterRole},
	}
	for _, account := range b.cfg.ServiceAccounts {
		binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: b.cfg.Namespace, Name: account})
	}
	return binding, nil
}
