package memory

import (
	"math"
	"testing"
)

func TestLimit(t *testing.T) {
	for text, want := range map[string]int64{"134217728\n": 96 << 20, "max\n": math.MaxInt64, "": math.MaxInt64} {
		if got := limit(text); got != want {
			t.Errorf("memory.max %q: %d, want %d", text, got, want)
		}
	}
}
