package clocktest_test

import (
	"testing"
	"time"

	"github.com/keyferry/keyferry/internal/clocktest"
)

func TestReadings(t *testing.T) {
	c := clocktest.New()
	for _, set := range []time.Duration{0, 10 * time.Minute, -10 * time.Minute, 24 * time.Hour, -48 * time.Hour} {
		before := c.Now()
		c.Pass(time.Minute)
		c.Set(set)
		after := c.Now()
		if got := after.Sub(before); got != time.Minute {
			t.Errorf("set by %v: %v have passed, want a minute", set, got)
		}
		if got := after.Round(0).Sub(before.Round(0)); got != time.Minute+set {
			t.Errorf("set by %v: the wall clock shows %v later", set, got)
		}
	}
}
