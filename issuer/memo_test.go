package issuer

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/providers"
)

func TestMemoAsksOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo[string, int](time.Now)
		var asked atomic.Int32
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				got, err := m.get(t.Context(), "a", func(context.Context, answer[int]) answer[int] {
					<-time.After(time.Second)
					return answer[int]{value: int(asked.Add(1)), until: time.Now().Add(time.Minute)}
				})
				if got != 1 || err != nil {
					t.Errorf("got %d, %v", got, err)
				}
			})
		}
		all.Wait()
		if asked.Load() != 1 {
			t.Errorf("asked %d times", asked.Load())
		}
	})
}

func TestMemoKeysAreIndependent(t *testing.T) {
	m := newMemo[string, string](time.Now)
	for _, key := range []string{"a", "b"} {
		got, err := m.get(t.Context(), key, func(context.Context, answer[string]) answer[string] {
			return answer[string]{value: key, until: time.Now().Add(time.Hour)}
		})
		if got != key || err != nil {
			t.Errorf("got %q, %v for %q", got, err, key)
		}
	}
}

func TestMemoOutlivesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo[string, int](time.Now)
		ask := func(ctx context.Context, _ answer[int]) answer[int] {
			<-time.After(time.Minute)
			return answer[int]{value: 1, err: ctx.Err(), until: time.Now().Add(time.Hour)}
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := m.get(impatient, "a", ask); !errors.Is(err, providers.ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("waited %v for %v, want ErrUnavailable after 1s", time.Since(start), err)
		}
		if got, err := m.get(t.Context(), "a", ask); got != 1 || err != nil || time.Since(start) != time.Minute {
			t.Errorf("got %d, %v after %v, want what was asked for by the one who left", got, err, time.Since(start))
		}
	})
}

func TestMemoAsksAnewWithTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo[string, int](time.Now)
		ask := func(_ context.Context, last answer[int]) answer[int] {
			return answer[int]{value: last.value + 1, until: time.Now().Add(time.Minute), expires: time.Now().Add(time.Hour)}
		}
		for _, step := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {59 * time.Second, 1}, {time.Second, 2}, {30 * time.Second, 2}, {time.Minute, 3}} {
			<-time.After(step.after)
			if got, _ := m.get(t.Context(), "a", ask); got != step.want {
				t.Errorf("got %d, want %d", got, step.want)
			}
		}
	})
}

func TestMemoAsksAnewAfterASuspension(t *testing.T) {
	clock := clocktest.New()
	m := newMemo[string, int](clock.Now)
	get := func() int {
		got, _ := m.get(t.Context(), "a", func(_ context.Context, last answer[int]) answer[int] {
			now := clock.Now()
			return answer[int]{value: last.value + 1, until: now.Add(48 * time.Minute), expires: now.Add(time.Hour)}
		})
		return got
	}
	for _, step := range []struct {
		suspended time.Duration
		want      int
	}{{0, 1}, {0, 1}, {time.Hour, 2}, {0, 2}} {
		clock.Set(step.suspended)
		if got := get(); got != step.want {
			t.Errorf("suspended for %v: got %d, want %d", step.suspended, got, step.want)
		}
	}
}

func TestMemoForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo[string, int](time.Now)
		get := func(key string, life time.Duration) {
			_, _ = m.get(t.Context(), key, func(context.Context, answer[int]) answer[int] {
				return answer[int]{until: time.Now().Add(time.Second), expires: time.Now().Add(life)}
			})
			synctest.Wait()
		}
		get("ended", time.Minute)
		get("due, but not ended", time.Hour)
		<-time.After(time.Minute)
		get("new", time.Hour)
		if _, there := m.entries["ended"]; there || len(m.entries) != 2 {
			t.Errorf("%d entries are left, want those that have not ended", len(m.entries))
		}
	})
}
