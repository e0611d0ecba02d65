package events

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLimit(t *testing.T) {
	if got := Limit("short"); got != "short" {
		t.Errorf("got %q", got)
	}
	got := Limit(strings.Repeat("ä", 1000))
	if len(got) > 1024 || !utf8.ValidString(got) || !strings.HasSuffix(got, "ä …") {
		t.Errorf("got %d bytes: %q", len(got), got)
	}
}
