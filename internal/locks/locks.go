// Package locks decides which Locks and ClusterLocks deny a Pod or a CredentialRequest the use of a
// target.
package locks

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
)

// Access is the use of targets by a workload.
type Access struct {
	// ServiceAccount is the ServiceAccount of the Pod or the CredentialRequest.
	ServiceAccount types.NamespacedName
	// Pod is the name of the Pod, in the namespace of the ServiceAccount. It is empty for a
	// CredentialRequest, and for a Pod that has no name yet.
	Pod string
	// Objects are the TargetClusters and ClusterProfiles that the workload uses.
	Objects []use.Object
}

// String names the workload, for messages.
func (a Access) String() string {
	if a.Pod != "" {
		return fmt.Sprintf("Pod %s/%s (ServiceAccount %s)", a.ServiceAccount.Namespace, a.Pod, a.ServiceAccount.Name)
	}
	return "ServiceAccount " + a.ServiceAccount.String()
}

// Find returns a lock that denies an access now, or nil. If it returns an error, callers must deny
// the access.
type Find func(ctx context.Context, access Access) (*Lock, error)

// Lock is a Lock or a ClusterLock.
type Lock struct {
	Kind string
	// The namespace is empty for a ClusterLock.
	types.NamespacedName
	Subject v1alpha1.ClusterLockSubject
	v1alpha1.LockTerms
}

// Of returns the Lock of an object.
func Of(l *v1alpha1.Lock) Lock {
	return Lock{
		Kind:           "Lock",
		NamespacedName: client.ObjectKeyFromObject(l),
		Subject:        v1alpha1.ClusterLockSubject{Type: l.Spec.Subject.Type, Namespace: l.Namespace, Name: l.Spec.Subject.Name},
		LockTerms:      l.Spec.LockTerms,
	}
}

// OfCluster returns the Lock of a ClusterLock.
func OfCluster(l *v1alpha1.ClusterLock) Lock {
	return Lock{Kind: "ClusterLock", NamespacedName: client.ObjectKeyFromObject(l), Subject: l.Spec.Subject, LockTerms: l.Spec.LockTerms}
}

// List reads all Locks and ClusterLocks.
func List(ctx context.Context, reader client.Reader) ([]Lock, error) {
	var locks v1alpha1.LockList
	if err := reader.List(ctx, &locks); err != nil {
		return nil, fmt.Errorf("reading Locks: %w", err)
	}
	var clusterLocks v1alpha1.ClusterLockList
	if err := reader.List(ctx, &clusterLocks); err != nil {
		return nil, fmt.Errorf("reading ClusterLocks: %w", err)
	}
	all := make([]Lock, 0, len(locks.Items)+len(clusterLocks.Items))
	for i := range clusterLocks.Items {
		all = append(all, OfCluster(&clusterLocks.Items[i]))
	}
	for i := range locks.Items {
		all = append(all, Of(&locks.Items[i]))
	}
	return all, nil
}

// NewFind returns a Find that reads the locks from a reader, usually a cache.
func NewFind(reader client.Reader, now func() time.Time) Find {
	return func(ctx context.Context, access Access) (*Lock, error) {
		all, err := List(ctx, reader)
		if err != nil {
			return nil, err
		}
		return Denying(all, access, now()), nil
	}
}

// Denying returns the lock that denies an access for the longest time; nil if there is none.
func Denying(all []Lock, access Access, now time.Time) *Lock {
	var found *Lock
	for i := range all {
		if lock := &all[i]; lock.InEffect(now) && lock.Concerns(access) && (found == nil || lock.compare(found) > 0) {
			found = lock
		}
	}
	return found
}

// InEffect reports whether the lock has not expired.
func (l *Lock) InEffect(now time.Time) bool {
	return l.ExpirationTimestamp == nil || now.Before(l.ExpirationTimestamp.Time)
}

// Concerns reports whether the subject of the lock is the workload, or one of the objects that it
// uses.
func (l *Lock) Concerns(access Access) bool {
	switch subject, account := l.Subject, access.ServiceAccount; subject.Type {
	case v1alpha1.LockPod:
		return subject.Namespace == account.Namespace && subject.Name == access.Pod
	case v1alpha1.LockServiceAccount:
		return subject.Namespace == account.Namespace && subject.Name == account.Name
	case v1alpha1.LockTargetCluster, v1alpha1.LockClusterProfile:
		return slices.ContainsFunc(access.Objects, func(o use.Object) bool {
			return o.Kind == string(subject.Type) && o.Namespace == subject.Namespace && o.Name == subject.Name
		})
	case v1alpha1.LockEverything:
		return subject.Namespace == "" || subject.Namespace == account.Namespace ||
			slices.ContainsFunc(access.Objects, func(o use.Object) bool { return o.Namespace == subject.Namespace })
	}
	return true // a subject of a later version: deny rather than ignore the lock
}

// compare orders locks by expiry and then by name, so that all replicas name the same lock.
func (l *Lock) compare(other *Lock) int {
	expiry := func(l *Lock) int64 {
		if l.ExpirationTimestamp == nil {
			return 1<<63 - 1
		}
		return l.ExpirationTimestamp.Unix()
	}
	return cmp.Or(cmp.Compare(expiry(l), expiry(other)), cmp.Compare(other.String(), l.String()))
}

// String returns kind and name, for messages.
func (l *Lock) String() string {
	if l.Namespace == "" {
		return l.Kind + " " + l.Name
	}
	return l.Kind + " " + l.NamespacedName.String()
}

// SubjectName returns what is locked, for people.
func (l *Lock) SubjectName() string {
	subject := l.Subject
	switch {
	case subject.Type == v1alpha1.LockEverything && subject.Namespace == "":
		return "the cluster"
	case subject.Type == v1alpha1.LockEverything:
		return "namespace " + subject.Namespace
	}
	return fmt.Sprintf("%s %s/%s", subject.Type, subject.Namespace, subject.Name)
}

// Denial returns the message for users if the lock denies an access: the subject, the lock, its
// reason and the fix.
func (l *Lock) Denial() string {
	until, fix := "", "wait until a user who may delete it does: "
	if l.ExpirationTimestamp != nil {
		until = " until " + l.ExpirationTimestamp.UTC().Format(time.RFC3339)
		fix = "wait until then, or until a user who may delete it does: "
	}
	return fmt.Sprintf("%s is locked by %s%s: %s: %s%s", l.SubjectName(), l, until, l.Reason, fix, l.DeleteCommand())
}

// DeleteCommand returns the command that deletes the lock.
func (l *Lock) DeleteCommand() string {
	if l.Namespace == "" {
		return "kubectl delete clusterlocks.keyferry.dev " + l.Name
	}
	return "kubectl delete locks.keyferry.dev " + l.Name + " -n " + l.Namespace
}
