package serving

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudgetOfAnAddress(t *testing.T) {
	b := NewBudget(100, 40)
	hold := take(t, b, "a", 40)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Take(ctx, "a", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("beyond its part: %v", err)
	}
	take(t, b, "b", 40)()
	hold()
	take(t, b, "a", 40)()
	if _, err := b.Take(t.Context(), "a", 41); !errors.Is(err, errTooLarge) {
		t.Errorf("more than its part at once: %v", err)
	}
	if b.used != 0 || len(b.shares) != 0 || len(b.waiting) != 0 {
		t.Errorf("kept: %d bytes, %v, %d waiting", b.used, b.shares, len(b.waiting))
	}
}

// Addresses that take all they get, and wait for more, delay a newcomer until the first of them
// gives something back.
func TestBudgetGoesToTheAddressServedLongestAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100, 50)
		first := take(t, b, "a", 50)
		take(t, b, "b", 50)
		for range 10 {
			go func() { _, _ = b.Take(t.Context(), "a", 50) }()
		}
		synctest.Wait()
		var at time.Time
		go func() {
			if _, err := b.Take(t.Context(), "api server", 50); err == nil {
				at = time.Now()
			}
		}()
		synctest.Wait()
		begun := time.Now()
		<-time.After(time.Second)
		first()
		synctest.Wait()
		if got := at.Sub(begun); got != time.Second {
			t.Errorf("served after %s", got)
		}
	})
}

// An address that ends its requests, and sends new ones, is not a newcomer.
func TestBudgetRemembersAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100, 50)
		take(t, b, "api server", 10)
		first, second := take(t, b, "a", 45), take(t, b, "b", 45)
		served := false
		go func() {
			_, err := b.Take(t.Context(), "api server", 40)
			served = err == nil
		}()
		synctest.Wait()
		go func() { _, _ = b.Take(t.Context(), "newcomer", 45) }()
		synctest.Wait()
		first()
		go func() { _, _ = b.Take(t.Context(), "a", 45) }()
		synctest.Wait()
		second()
		synctest.Wait()
		if !served {
			t.Error("an address was served twice, while another one waited")
		}
	})
}

func TestBudgetIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100, 40)
		for i := range 200 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(10*time.Second))
				defer cancel()
				release, err := b.Take(ctx, strconv.Itoa(i%5), rand.Int64N(41))
				if err != nil {
					return
				}
				<-time.After(rand.N(time.Second))
				release()
			}()
		}
		for range 20 {
			<-time.After(time.Second)
			b.mu.Lock()
			if b.used > 100 {
				t.Errorf("%d bytes are held", b.used)
			}
			for address, its := range b.shares {
				if its.held > 40 {
					t.Errorf("address %s holds %d bytes", address, its.held)
				}
			}
			b.mu.Unlock()
		}
		if b.used != 0 || len(b.shares) != 0 || len(b.waiting) != 0 {
			t.Errorf("kept: %d bytes, %v, %d waiting", b.used, b.shares, len(b.waiting))
		}
	})
}

func take(t *testing.T, b *Budget, address string, bytes int64) (release func()) {
	t.Helper()
	release, err := b.Take(t.Context(), address, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return release
}
