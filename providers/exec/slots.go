package exec

import (
	"context"
	"sync"
)

// Slots limits how many plugins run at the same time: in all, of one namespace, and of one target.
// So plugins that hang delay others of their target first, and then of their namespace, but none of
// another namespace as long as few namespaces have such plugins.
type Slots struct {
	total, perNamespace, perTarget int

	mu      sync.Mutex
	running map[string]int // by namespace, by namespace/name, and in all
	freed   chan struct{}  // closed when a plugin ends
}

// NewSlots returns Slots of which none is taken.
func NewSlots(total, perNamespace, perTarget int) *Slots {
	return &Slots{total: total, perNamespace: perNamespace, perTarget: perTarget, running: map[string]int{}, freed: make(chan struct{})}
}

// take waits until a plugin of a target may run, or ctx ends. The caller calls release once the
// plugin has ended.
func (s *Slots) take(ctx context.Context, namespace, target string) (release func(), err error) {
	limits := map[string]int{"": s.total, namespace + "/": s.perNamespace, namespace + "/" + target: s.perTarget}
	for {
		s.mu.Lock()
		if s.free(limits) {
			s.add(limits, 1)
			s.mu.Unlock()
			return sync.OnceFunc(func() { s.end(limits) }), nil
		}
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Slots) free(limits map[string]int) bool {
	for name, limit := range limits {
		if s.running[name] >= limit {
			return false
		}
	}
	return true
}

func (s *Slots) add(limits map[string]int, n int) {
	for name := range limits {
		if s.running[name] += n; s.running[name] == 0 {
			delete(s.running, name)
		}
	}
}

func (s *Slots) end(limits map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(limits, -1)
	close(s.freed)
	s.freed = make(chan struct{})
}
