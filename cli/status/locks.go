package status

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/locks"
)

// readLocks reads the Locks of the namespaces in scope, and all ClusterLocks.
func (s *survey) readLocks(ctx context.Context) ([]locks.Lock, error) {
	var all []locks.Lock
	err := s.readScoped("Locks", func(namespace string) error {
		return each(ctx, s, namespace, func() *v1alpha1.LockList { return &v1alpha1.LockList{} }, func(list *v1alpha1.LockList) {
			for i := range list.Items {
				all = append(all, locks.Of(&list.Items[i]))
			}
		})
	})
	if err != nil && !meta.IsNoMatchError(err) { // a release without locks is installed
		return nil, err
	}
	err = each(ctx, s, "", func() *v1alpha1.ClusterLockList { return &v1alpha1.ClusterLockList{} }, func(list *v1alpha1.ClusterLockList) {
		for i := range list.Items {
			all = append(all, locks.OfCluster(&list.Items[i]))
		}
	})
	switch {
	case apierrors.IsForbidden(err):
		s.note("ClusterLocks are left out: %v", err)
	case err != nil && !meta.IsNoMatchError(err):
		return nil, err
	}
	return all, nil
}

// applyLocks marks a target, and those of its users, that a lock denies credentials.
func (t *Target) applyLocks(all []locks.Lock, now time.Time) {
	access := locks.Access{Objects: t.objects}
	if lock := locks.Denying(all, access, now); lock != nil && len(t.objects) > 0 {
		t.Ready, t.Reason, t.Message = metav1.ConditionFalse, v1alpha1.ReasonLocked, lock.Denial()
	}
	for i := range t.Users {
		u := &t.Users[i]
		access.ServiceAccount = types.NamespacedName{Namespace: u.Namespace, Name: u.ServiceAccount}
		access.Pod = ""
		if u.Kind == KindPod {
			access.Pod = u.Name
		}
		if lock := locks.Denying(all, access, now); lock != nil {
			u.State, u.Message = v1alpha1.ReasonLocked, lock.Denial()
		}
	}
}
