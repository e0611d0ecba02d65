package hedge_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/internal/hedge"
)

var errDown = errors.New("down")

func TestDo(t *testing.T) {
	const interval = 3 * time.Second
	never := time.Hour
	for name, test := range map[string]struct {
		// takes and fails are of each call in turn; the last one repeats.
		takes []time.Duration
		fails []bool
		want  int // the call whose result is returned, from 0
		err   error
		after time.Duration
		calls int32
	}{
		"answers at once":                       {[]time.Duration{0}, []bool{false}, 0, nil, 0, 1},
		"fails at once":                         {[]time.Duration{0}, []bool{true}, 0, errDown, 0, 1},
		"slow, but first":                       {[]time.Duration{5 * time.Second, never}, []bool{false}, 0, nil, 5 * time.Second, 2},
		"hangs, and its peer comes back":        {[]time.Duration{never, never, 0}, []bool{false}, 2, nil, 6 * time.Second, 3},
		"a later call fails, the first answers": {[]time.Duration{5 * time.Second, 0}, []bool{false, true}, 0, nil, 5 * time.Second, 2},
		"the last to fail":                      {[]time.Duration{4 * time.Second, 500 * time.Millisecond}, []bool{true}, 0, errDown, 4 * time.Second, 2},
		"all hang until the end":                {[]time.Duration{never}, []bool{false}, 0, context.DeadlineExceeded, 10 * time.Second, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				var calls atomic.Int32
				start := time.Now()
				got, err := hedge.Do(ctx, interval, func(ctx context.Context) (int, error) {
					n := int(calls.Add(1)) - 1
					select {
					case <-ctx.Done():
						return n, ctx.Err()
					case <-time.After(test.takes[min(n, len(test.takes)-1)]):
					}
					if test.fails[min(n, len(test.fails)-1)] {
						return n, errDown
					}
					return n, nil
				})
				if !errors.Is(err, test.err) || err == nil && got != test.want {
					t.Errorf("got the result of call %d, %v; want %d, %v", got, err, test.want, test.err)
				}
				if took := time.Since(start); took != test.after || calls.Load() != test.calls {
					t.Errorf("took %v and %d calls, want %v and %d", took, calls.Load(), test.after, test.calls)
				}
			})
		})
	}
}
