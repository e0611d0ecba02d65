// Package clocktest has the clock of a machine that runs: it can be set, and stands still while the
// machine is suspended. Then the two readings of a time.Time come apart, which nothing in package
// time brings about.
package clocktest

import (
	"sync"
	"time"
	"unsafe"
)

// Clock is one that tests advance. It may be used concurrently.
type Clock struct {
	start time.Time

	mu     sync.Mutex
	passed time.Duration
	set    time.Duration
}

// New returns a Clock that shows the present.
func New() *Clock { return &Clock{start: time.Now()} }

// Now is a time.Now, with both readings.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return behind(c.start.Add(c.passed+c.set), c.set)
}

// Pass lets time pass.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed += d
}

// Set sets the wall clock forward, or back if d is negative; the monotonic one does not notice.
// That is also what both show when a machine goes on that was suspended for d.
func (c *Clock) Set(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set += d
}

// behind sets the monotonic reading of t back by d.
func behind(t time.Time, d time.Duration) time.Time {
	readings := (*struct { // as package time has them, which the test of this one looks after
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t)) // #nosec G103 -- for tests only
	readings.ext -= int64(d)
	return t
}
