package issuer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/providers"
)

const (
	// How often it is looked for what can be forgotten.
	sweepEvery = time.Minute
	// What nobody asked for in this time is forgotten, however long it would be of use: its
	// TargetCluster or Secret may have become another.
	unusedAge = 24 * time.Hour
)

// memo asks each question once for all who have it at the same time, and keeps the answer for as
// long as that says.
type memo[K comparable, V any] struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[K]*entry[V]
	swept   time.Time
}

// answer is a value, or an error, or both.
type answer[V any] struct {
	value V
	err   error
	// until is when the question is asked again. Zero: next time.
	until time.Time
	// expires is when the answer is no longer of any use, not even to the one that is asked again, and
	// is forgotten.
	expires time.Time
	// failures is the number of calls in a row, up to this one, that brought nothing newer.
	failures int
	// asked is when the call for this answer began.
	asked time.Time
}

// aboutToExpire reports whether the client's present credential, or the one in this answer, is in
// the last two minutes of its lifetime.
func (a answer[V]) aboutToExpire(now time.Time, req providers.Request) bool {
	return expiry.Urgent(now, req.Expires) || a.err == nil && expiry.Urgent(now, a.expires)
}

type entry[V any] struct {
	last   answer[V]
	asking *asking[V] // nil if nobody is
	used   time.Time
}

type asking[V any] struct {
	done   chan struct{}
	answer answer[V] // valid when done is closed
}

func newMemo[K comparable, V any](now func() time.Time) *memo[K, V] {
	return &memo[K, V]{now: now, entries: map[K]*entry[V]{}, swept: now()}
}

// get returns the answer that is kept for key, or asks. ask is given the last answer, and a context
// that does not end with that of one who waits; it sees to its own end.
func (m *memo[K, V]) get(ctx context.Context, key K, ask func(context.Context, answer[V]) answer[V]) (V, error) {
	return m.getUrgent(ctx, key, func(answer[V]) bool { return false }, ask)
}

// getUrgent is get for a caller that cannot wait as long as the last answer says if that is urgent.
func (m *memo[K, V]) getUrgent(ctx context.Context, key K, urgent func(answer[V]) bool, ask func(context.Context, answer[V]) answer[V]) (V, error) {
	kept, pending := m.keptOrPending(ctx, key, urgent, ask)
	if pending == nil {
		return kept.value, kept.err
	}
	select {
	case <-pending.done:
		return pending.answer.value, pending.answer.err
	case <-ctx.Done():
		var none V
		return none, providers.Unavailable(0, fmt.Errorf("waiting for an answer: %w", ctx.Err()))
	}
}

func (m *memo[K, V]) keptOrPending(ctx context.Context, key K, urgent func(answer[V]) bool, ask func(context.Context, answer[V]) answer[V]) (answer[V], *asking[V]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	e := m.entries[key]
	if e == nil {
		e = &entry[V]{}
		m.entries[key] = e
	}
	e.used = now
	if e.asking == nil {
		if !expiry.Due(now, e.last.until) && (now.Sub(e.last.asked) < urgentBackoff || !urgent(e.last)) {
			return e.last, nil
		}
		e.asking = &asking[V]{done: make(chan struct{})}
		go m.finish(context.WithoutCancel(ctx), e, ask, e.last, e.asking)
	}
	return answer[V]{}, e.asking
}

func (m *memo[K, V]) finish(ctx context.Context, e *entry[V], ask func(context.Context, answer[V]) answer[V], last answer[V], a *asking[V]) {
	asked := m.now()
	a.answer = ask(ctx, last)
	a.answer.asked = asked
	m.mu.Lock()
	e.last, e.asking = a.answer, nil
	m.mu.Unlock()
	close(a.done)
}

// renew has the question asked again at a time that depends on the answer that is kept, if there is
// one and it is to. After a failure that has a time of its own.
func (m *memo[K, V]) renew(key K, when func(*V) (at time.Time, ok bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if e == nil || e.asking != nil || e.last.err != nil || e.last.failures > 0 {
		return
	}
	if at, ok := when(&e.last.value); ok {
		e.last.until = earlier(e.last.until, at)
	}
}

// retry has the question asked again at once if the last call failed, and stale says of its value
// that it was made otherwise.
func (m *memo[K, V]) retry(key K, stale func(V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[key]; e != nil && e.asking == nil && e.last.failures > 0 && stale(e.last.value) {
		e.last.until = time.Time{}
	}
}

// sweep forgets what is of no use. The caller holds mu.
func (m *memo[K, V]) sweep(now time.Time) {
	if now.Sub(m.swept) < sweepEvery {
		return
	}
	m.swept = now
	for key, e := range m.entries {
		if e.asking == nil && (expiry.Due(now, e.last.expires) || now.Sub(e.used) > unusedAge) {
			delete(m.entries, key)
		}
	}
}
