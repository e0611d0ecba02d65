package exec

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// Plugins of a namespace hang, of as many targets as there may be; one of another namespace runs at
// once.
func TestHangingPluginsHoldUpNoOtherNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(16, 8, 4)
		for i := range 64 {
			go func() {
				if release, err := s.take(t.Context(), "hostile", strconv.Itoa(i%16)); err == nil {
					<-t.Context().Done()
					release()
				}
			}()
		}
		synctest.Wait()
		if got := s.running["hostile/"]; got != 8 {
			t.Errorf("%d plugins of one namespace run", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		release, err := s.take(ctx, "fleet", "tenant-1")
		if err != nil || time.Since(begun) != 0 {
			t.Fatalf("another namespace waited for %s: %v", time.Since(begun), err)
		}
		release()
	})
}

// Plugins of a target hang; those of another one in the namespace run at once.
func TestHangingPluginsHoldUpNoOtherTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(16, 8, 4)
		for range 64 {
			go func() {
				if release, err := s.take(t.Context(), "fleet", "down"); err == nil {
					<-t.Context().Done()
					release()
				}
			}()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		release, err := s.take(ctx, "fleet", "tenant-1")
		if err != nil || time.Since(begun) != 0 {
			t.Fatalf("another target waited for %s: %v", time.Since(begun), err)
		}
		release()
	})
}

func TestSlotIsFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(1, 1, 1)
		release, err := s.take(t.Context(), "fleet", "tenant-1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.take(ctx, "shop", "tenant-2"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("more than one in all: %v", err)
		}
		time.AfterFunc(time.Second, release)
		begun := time.Now()
		next, err := s.take(t.Context(), "shop", "tenant-2")
		if err != nil || time.Since(begun) != time.Second {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		next()
		release() // twice frees one
		if len(s.running) != 0 {
			t.Errorf("kept: %v", s.running)
		}
	})
}
