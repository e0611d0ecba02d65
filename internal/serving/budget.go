package serving

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Budget bounds the bytes of bodies that are held at the same time, in all and for each address.
// What does not fit waits. When bytes are given back, they go to the waiting address that was
// served longest ago: a client that takes all it gets delays itself, not the others.
type Budget struct {
	total, each int64

	mu      sync.Mutex
	used    int64
	served  uint64            // claims, so far
	shares  map[string]*share // of addresses that hold bytes or wait
	waiting []*claim          // the oldest first
}

// share is what one address has.
type share struct {
	held   int64
	claims int    // that hold or wait
	served uint64 // when its last claim was: Budget.served of then
}

// claim holds bytes, or waits for them.
type claim struct {
	address string
	bytes   int64
	granted chan struct{}
}

// NewBudget returns a Budget of total bytes, of which one address has no more than each.
func NewBudget(total, each int64) *Budget {
	return &Budget{total: total, each: min(total, each), shares: map[string]*share{}}
}

// errTooLarge reports a body that no address may have.
var errTooLarge = errors.New("the body is larger than one address may send")

// Take waits until an address may hold that many bytes more, or ctx ends. The caller calls release
// once it no longer holds them.
func (b *Budget) Take(ctx context.Context, address string, bytes int64) (release func(), err error) {
	if bytes > b.each {
		return nil, errTooLarge
	}
	c := &claim{address: address, bytes: bytes, granted: make(chan struct{})}
	b.mu.Lock()
	if b.shares[address] == nil {
		b.shares[address] = &share{}
	}
	b.shares[address].claims++
	b.waiting = append(b.waiting, c)
	b.grant()
	b.mu.Unlock()
	release = sync.OnceFunc(func() { b.release(c) })
	select {
	case <-c.granted:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, fmt.Errorf("waiting for bodies that others send: %w", ctx.Err())
	}
}

// Held returns how many bytes an address holds.
func (b *Budget) Held(address string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if its := b.shares[address]; its != nil {
		return its.held
	}
	return 0
}

// grant gives what is left to those that wait. The caller has locked b.mu.
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
		close(c.granted)
	}
}

// release gives back what a claim was granted, or ends its waiting.
func (b *Budget) release(c *claim) {
	b.mu.Lock()
	defer b.mu.Unlock()
	its := b.shares[c.address]
	if i := slices.Index(b.waiting, c); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	} else {
		b.used -= c.bytes
		its.held -= c.bytes
	}
	if its.claims--; its.claims == 0 {
		delete(b.shares, c.address)
	}
	b.grant()
}
