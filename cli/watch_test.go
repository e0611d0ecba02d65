package cli

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestWatch: through a pipe, a text is printed if it differs from the one before.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	texts := []string{"a\n", "a\n", "b\n", "c\n"}
	next := make(chan time.Time, len(texts))
	for range texts {
		next <- time.Time{}
	}
	var out strings.Builder
	err := watch(ctx, &out, next, func() (string, error) {
		text := texts[0]
		if texts = texts[1:]; len(texts) == 0 {
			cancel() // as Ctrl-C does: what was being read then is not printed
		}
		return text, nil
	})
	if want := "a\n\nb\n"; err != nil || out.String() != want {
		t.Errorf("got %q, %v, want %q", out.String(), err, want)
	}
	failed := errors.New("no cluster")
	if err := watch(t.Context(), &out, next, func() (string, error) { return "", failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
}
