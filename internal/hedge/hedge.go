// Package hedge repeats a call that hangs: a call that was sent before its peer came back may never
// be answered, while one that is sent now is.
package hedge

import (
	"context"
	"time"
)

// Do calls try, and calls it again each interval while the earlier calls have not returned. It
// returns the first result without an error or, once all calls have failed, the last error. The
// context of the calls ends when Do returns; each call has to return when its context ends.
func Do[T any](ctx context.Context, interval time.Duration, try func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	results := make(chan result)
	returned := make(chan struct{})
	defer close(returned)
	call := func() {
		value, err := try(ctx)
		select {
		case results <- result{value, err}:
		case <-returned:
		}
	}
	next := time.NewTicker(interval)
	defer next.Stop()
	go call()
	for pending := 1; ; {
		select {
		case r := <-results:
			if pending--; r.err == nil || pending == 0 {
				return r.value, r.err
			}
		case <-next.C:
			pending++
			go call()
		}
	}
}
