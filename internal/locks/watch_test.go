package locks

import (
	"context"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// noLocks is a cache that holds no locks.
type noLocks struct{ client.Reader }

func (noLocks) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// server answers all lists with an error, or with one ClusterLock.
type server struct {
	client.Reader
	err error
}

func (s *server) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	if clusterLocks, ok := list.(*v1alpha1.ClusterLockList); ok && s.err == nil {
		l := v1alpha1.ClusterLock{}
		l.Spec.Subject.Type = v1alpha1.LockEverything
		clusterLocks.Items = []v1alpha1.ClusterLock{l}
	}
	return s.err
}

// TestRefusedWatch: a cache that may not watch locks any more does not hide new locks.
func TestRefusedWatch(t *testing.T) {
	t.Parallel()
	clock := now
	w := NewWatch(func() time.Time { return clock })
	forbidden := apierrors.NewForbidden(schema.GroupResource{Group: "keyferry.dev", Resource: "locks"}, "", errors.New("no permission"))
	reflector := cache.NewReflector(&cache.ListWatch{}, &v1alpha1.Lock{}, cache.NewStore(cache.MetaNamespaceKeyFunc), 0)
	live := &server{}
	find := w.Find(noLocks{}, live)
	check := func(when string, denied bool, failed error) {
		t.Helper()
		lock, err := find(t.Context(), access())
		if denied != (lock != nil) || !errors.Is(err, failed) {
			t.Errorf("%s: denied %t, error %v", when, lock != nil, err)
		}
	}

	check("the cache is current", false, nil)
	w.WatchError(t.Context(), reflector, errors.New("connection refused"))
	check("the API server is not available", false, nil)
	w.WatchError(t.Context(), reflector, forbidden)
	check("the watch is refused, and lists are not", true, nil)
	live.err = forbidden
	check("lists are refused, too", false, forbidden)
	clock = clock.Add(distrustTime)
	check("no refusal for some time", false, nil)
}
