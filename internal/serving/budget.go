package serving

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Budget limits the memory of the requests that are served at the same time, in all and for each
// address. Further requests wait. Released bytes go to the waiting address that was served the
// longest time ago: a client that sends many bodies delays itself, not the others.
type Budget struct {
	total, each int64

	mu      sync.Mutex
	used    int64
	served  uint64            // claims, so far
	shares  map[string]*share // by address; forgotten when nobody waits
	waiting []*claim          // oldest first
}

// share is the state of one address.
type share struct {
	held   int64
	claims int    // claims that hold bytes or wait
	served uint64 // Budget.served when its last claim was granted
}

// claim is a number of bytes that is held or waited for.
type claim struct {
	address string
	bytes   int64
	// granted is closed when the claim holds its bytes. It is nil if the claim did not have to wait.
	granted chan struct{}
	// holds and isReleased are guarded by the mutex of the Budget.
	holds, isReleased bool
}

// NewBudget returns a Budget of total bytes, of which one address can hold at most each.
func NewBudget(total, each int64) *Budget {
	return &Budget{total: total, each: min(total, each), shares: map[string]*share{}}
}

// Errors of Take and TryTake.
var (
	errTooLarge = errors.New("the request is larger than one address may send")
	errBusy     = errors.New("other requests use the memory")
)

// Take waits until the address may hold the given number of bytes, or ctx is done. The caller must
// call release when the bytes are no longer in memory.
func (b *Budget) Take(ctx context.Context, address string, bytes int64) (release func(), err error) {
	c, release, err := b.claim(address, bytes)
	if err != nil {
		return nil, err
	}
	if c.granted == nil {
		return release, nil
	}
	select {
	case <-c.granted:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, fmt.Errorf("waiting for the memory of other requests: %w", ctx.Err())
	}
}

// TryTake is Take without waiting. A request that holds bytes must not wait for more: several such
// requests could wait for each other.
func (b *Budget) TryTake(address string, bytes int64) (release func(), err error) {
	c, release, err := b.claim(address, bytes)
	if err != nil {
		return nil, err
	}
	if c.granted != nil {
		release()
		return nil, errBusy
	}
	return release, nil
}

// claim adds a claim, and grants it if the bytes are free.
func (b *Budget) claim(address string, bytes int64) (c *claim, release func(), err error) {
	if bytes > b.each {
		return nil, nil, errTooLarge
	}
	c = &claim{address: address, bytes: bytes}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shares[address] == nil {
		b.shares[address] = &share{}
	}
	b.shares[address].claims++
	b.waiting = append(b.waiting, c)
	b.grant()
	if !c.holds {
		c.granted = make(chan struct{})
	}
	return c, func() { b.release(c) }, nil
}

// Held returns the number of bytes that an address holds.
func (b *Budget) Held(address string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if its := b.shares[address]; its != nil {
		return its.held
	}
	return 0
}

// grant grants the free bytes to waiting claims. The caller must hold b.mu.
func (b *Budget) grant() {
	for {
		next := -1
		for i, c := range b.waiting {
			its := b.shares[c.address]
			if its.held+c.bytes <= b.each && (next < 0 || its.served < b.shares[b.waiting[next].address].served) {
				next = i
			}
		}
		if next < 0 || b.used+b.waiting[next].bytes > b.total {
			return
		}
		c := b.waiting[next]
		b.waiting = slices.Delete(b.waiting, next, next+1)
		b.used += c.bytes
		b.served++
		its := b.shares[c.address]
		its.held += c.bytes
		its.served = b.served
		c.holds = true
		if c.granted != nil {
			close(c.granted)
		}
	}
}

// release returns the bytes of a claim, or removes a waiting claim. Only the first call has an
// effect.
func (b *Budget) release(c *claim) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.isReleased {
		return
	}
	c.isReleased = true
	its := b.shares[c.address]
	if i := slices.Index(b.waiting, c); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	} else {
		b.used -= c.bytes
		its.held -= c.bytes
	}
	its.claims--
	b.grant()
	if len(b.waiting) == 0 {
		// While others wait, a client must not become a new one by ending its requests.
		maps.DeleteFunc(b.shares, func(_ string, s *share) bool { return s.claims == 0 })
	}
}
