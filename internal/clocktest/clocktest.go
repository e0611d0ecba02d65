// Package clocktest provides a clock that can be set and that can be suspended, like the clock of a
// machine. Then the wall and monotonic readings of a time.Time differ, which package time does not
// let tests do.
package clocktest

import (
	"sync"
	"time"
	"unsafe"
)

// Clock is a clock that tests advance. It may be used concurrently.
type Clock struct {
	start time.Time

	mu     sync.Mutex
	passed time.Duration
	set    time.Duration
}

// New returns a Clock with the current time.
func New() *Clock { return &Clock{start: time.Now()} }

// Now returns the clock's time, with both readings, like time.Now.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return behind(c.start.Add(c.passed+c.set), c.set)
}

// Pass advances both readings by d.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed += d
}

// Set moves the wall clock forward by d, or back if d is negative. The monotonic clock does not
// change. The result is the same if a machine was suspended for d.
func (c *Clock) Set(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set += d
}

// behind returns t with its monotonic reading set back by d.
func behind(t time.Time, d time.Duration) time.Time {
	readings := (*struct { // the layout of package time; a test checks it
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t)) // #nosec G103 -- for tests only
	readings.ext -= int64(d)
	return t
}
