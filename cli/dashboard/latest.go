package dashboard

import (
	"context"
	"sync"
	"time"

	"github.com/keyferry/keyferry/cli/dashboard/mirror"
)

// pause is the least time between two snapshots, and snapshots may take half of the time at most: a
// cluster that starts changes all the time.
const pause = 20 * time.Millisecond

// refresh is the time after which a snapshot is built without a change: locks expire.
const refresh = 30 * time.Second

// latest has the newest snapshot, which all pages share.
type latest struct {
	mirror *mirror.Mirror

	mu       sync.Mutex
	snapshot *snapshot
	err      error
	changed  chan struct{}
}

func newLatest(m *mirror.Mirror) *latest {
	return &latest{mirror: m, changed: make(chan struct{})}
}

// run builds a snapshot when everything was listed, after each change, and every 30 s, until ctx
// ends.
func (l *latest) run(ctx context.Context) {
	_ = l.mirror.Listed(ctx) // an error is also in the States, which pages show
	for ctx.Err() == nil {
		next := l.mirror.Changed()
		begin := time.Now()
		s, err := build(ctx, l.mirror, l.mirror.States(), begin)
		l.set(s, err)
		select {
		case <-time.After(max(pause, time.Since(begin))):
		case <-ctx.Done():
			return
		}
		select {
		case <-next:
		case <-time.After(refresh):
		case <-ctx.Done():
			return
		}
	}
}

func (l *latest) set(s *snapshot, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.snapshot, l.err = s, err
	close(l.changed)
	l.changed = make(chan struct{})
}

// get returns the newest snapshot, or why there is none, and a channel that is closed when that
// changes. Both results are nil before the first snapshot.
func (l *latest) get() (changed <-chan struct{}, s *snapshot, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed, l.snapshot, l.err
}
