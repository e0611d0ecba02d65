package locks

import (
	"context"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// distrustTime is longer than a cache waits before it watches again: up to a minute.
const distrustTime = 2 * time.Minute

// Watch finds locks in a cache. A cache that loses the permission to watch keeps what it read last,
// and would miss new locks. Therefore Watch reads from the API server, until the cache may watch
// again; as long as the API server refuses, Find returns an error.
type Watch struct {
	now func() time.Time
	// distrustedUntil is when the cache is used again, in nanoseconds since 1970. Zero means that no
	// watch was refused.
	distrustedUntil atomic.Int64
}

// NewWatch returns a Watch, which needs to be told of the errors of the cache.
func NewWatch(now func() time.Time) *Watch {
	return &Watch{now: now}
}

// WatchError is the DefaultWatchErrorHandler of the cache.
func (w *Watch) WatchError(ctx context.Context, r *cache.Reflector, err error) {
	if apierrors.IsForbidden(err) {
		w.distrustedUntil.Store(w.now().Add(distrustTime).UnixNano())
	}
	cache.DefaultWatchErrorHandler(ctx, r, err)
}

// Find returns a Find. cached is the client of the cache, and live reads from the API server.
func (w *Watch) Find(cached, live client.Reader) Find {
	fromCache, fromServer := NewFind(cached, w.now), NewFind(live, w.now)
	return func(ctx context.Context, access Access) (*Lock, error) {
		if w.now().UnixNano() < w.distrustedUntil.Load() {
			return fromServer(ctx, access)
		}
		return fromCache(ctx, access)
	}
}
