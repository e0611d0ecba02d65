package exec

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/providers"
)

// hang runs a plugin for each of some targets. Each one hangs until its timeout.
func hang(t *testing.T, s *Slots, namespace string, targets int) {
	t.Helper()
	for i := range targets {
		go func() { _ = s.Do(t.Context(), namespace, "down-"+strconv.Itoa(i), takes(timeout)) }()
	}
	synctest.Wait()
}

// takes returns a plugin that needs some time.
func takes(duration time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(duration):
			return nil
		case <-ctx.Done():
			return fmt.Errorf("plugin: %w", context.Cause(ctx))
		}
	}
}

// waits returns how long a plugin of a target waits for its slot.
func waits(t *testing.T, s *Slots, namespace, target string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begun := time.Now()
	if err := s.Do(ctx, namespace, target, takes(0)); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

// TestHangingPluginsHoldUpNoOtherNamespace: plugins of all targets of a namespace hang.
func TestHangingPluginsHoldUpNoOtherNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		hang(t, s, "hostile", 64)
		if got := waits(t, s, "fleet", "tenant-1"); got != 0 {
			t.Errorf("another namespace waited for %s", got)
		}
	})
}

// TestHangingPluginsHoldUpNoOtherTarget: many plugins of one target hang.
func TestHangingPluginsHoldUpNoOtherTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		for range 64 {
			hang(t, s, "fleet", 1)
		}
		if got := waits(t, s, "fleet", "tenant-1"); got != 0 {
			t.Errorf("another target waited for %s", got)
		}
	})
}

// TestFirstHangHoldsUpNobodyForLong: plugins hang that never did before, and so many that they take
// all slots. Others wait for a second at most, also a target of the same namespace.
func TestFirstHangHoldsUpNobodyForLong(t *testing.T) {
	for _, namespace := range []string{"hostile-1", "fleet"} {
		t.Run(namespace, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewSlots()
				waits(t, s, namespace, "tenant-1")
				hang(t, s, "hostile-1", 64)
				hang(t, s, "hostile-2", 64)
				for range 20 {
					if got := waits(t, s, namespace, "tenant-1"); got > time.Second {
						t.Errorf("it waited for %s", got)
					}
					<-time.After(300 * time.Millisecond)
				}
			})
		})
	}
}

// TestManyNamespacesHoldUpNobodyForLong: in many namespaces, plugins hang that never did before.
func TestManyNamespacesHoldUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		waits(t, s, "fleet", "tenant-1")
		for i := range 64 {
			hang(t, s, "hostile-"+strconv.Itoa(i), 4)
		}
		for range 20 {
			if got := waits(t, s, "fleet", "tenant-1"); got > time.Second {
				t.Errorf("it waited for %s", got)
			}
			<-time.After(300 * time.Millisecond)
		}
	})
}

// TestTargetsThatHangHaveTheirOwnSlots: once it is known which plugins hang, others do not wait at
// all, neither new ones nor those of the same namespace.
func TestTargetsThatHangHaveTheirOwnSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		for _, namespace := range []string{"fleet", "hostile"} {
			hang(t, s, namespace, 8)
		}
		<-time.After(5 * time.Minute)
		for _, namespace := range []string{"fleet", "hostile"} {
			hang(t, s, namespace, 8)
		}
		for _, namespace := range []string{"fleet", "hostile", "shop"} {
			if got := waits(t, s, namespace, "new"); got != 0 {
				t.Errorf("%s waited for %s", namespace, got)
			}
		}
		s.mu.Lock()
		if running := len(s.hanging.running); running != hangingSlots || len(s.prompt.running)+len(s.slow.running) != 0 {
			t.Errorf("%d plugins hang in their slots, %d and %d in others", running, len(s.prompt.running), len(s.slow.running))
		}
		s.mu.Unlock()
		<-time.After(5 * time.Minute)
		if got := waits(t, s, "hostile", "down-0"); got != 0 {
			t.Errorf("a plugin waited for %s although no other runs", got)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.past["hostile/down-0"].lane != &s.prompt {
			t.Error("a target that no longer hangs has not left the slots of those that do")
		}
	})
}

// TestStoppedPluginRunsAgain: a plugin that needs some seconds gives its slot to others, and
// succeeds nevertheless.
func TestStoppedPluginRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		for _, namespace := range []string{"a", "b", "c", "d"} {
			hang(t, s, namespace, 8)
		}
		runs := 0
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := s.Do(ctx, "fleet", "tenant-1", func(ctx context.Context) error {
			runs++
			return takes(3 * time.Second)(ctx)
		})
		if err != nil || runs != 2 {
			t.Errorf("%d runs: %v", runs, err)
		}
	})
}

// TestNothingIsStoppedForNobody: a plugin that needs some seconds has them if no other plugin waits
// for its slot.
func TestNothingIsStoppedForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		hang(t, s, "a", 4)
		hang(t, s, "b", 4)
		<-time.After(1500 * time.Millisecond) // they have moved
		runs := 0
		err := s.Do(t.Context(), "fleet", "tenant-1", func(ctx context.Context) error {
			runs++
			return takes(3 * time.Second)(ctx)
		})
		if err != nil || runs != 1 {
			t.Errorf("%d runs: %v", runs, err)
		}
	})
}

// TestSlowPluginMoves: a plugin that needs some seconds leaves its slot to others while it runs.
func TestSlowPluginMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		var runs atomic.Int32
		for i := range promptSlots / 2 {
			go func() {
				_ = s.Do(t.Context(), "fleet", strconv.Itoa(i), func(ctx context.Context) error {
					runs.Add(1)
					return takes(3 * time.Second)(ctx)
				})
			}()
		}
		synctest.Wait()
		if got := waits(t, s, "fleet", "tenant-1"); got != time.Second {
			t.Errorf("another one waited for %s", got)
		}
		<-time.After(10 * time.Second)
		if got := runs.Load(); got != promptSlots/2 {
			t.Errorf("%d plugins run %d times", promptSlots/2, got)
		}
	})
}

// TestSlotsAreFreeAgain: nothing remains of plugins that ended, that were stopped, or whose request
// ended while they waited.
func TestSlotsAreFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots()
		hang(t, s, "a", 8)
		hang(t, s, "b", 8)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err := s.Do(ctx, "c", "tenant-1", takes(0))
		if !errors.Is(err, providers.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a slot: %v", err)
		}
		<-time.After(5 * time.Minute)
		s.mu.Lock()
		for _, l := range []*lane{&s.prompt, &s.slow, &s.hanging} {
			if len(l.running)+len(l.waiting) != 0 {
				t.Errorf("%d run, %d wait", len(l.running), len(l.waiting))
			}
		}
		s.past["a/down-0"] = past{&s.hanging, time.Now().Add(-remembered - 1)}
		s.mu.Unlock()
		waits(t, s, "c", "tenant-1")
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.past["a/down-0"]; ok {
			t.Error("a target is remembered forever")
		}
	})
}
