package cli

import (
	"strings"
	"testing"
)

// TestCopyLines: each line has the name of its Pod, and too long a line is cut.
func TestCopyLines(t *testing.T) {
	var out strings.Builder
	w := &lineWriter{out: &out}
	long := strings.Repeat("x", maxLogLine)
	if err := w.copyLines("broker-1", strings.NewReader("one\n"+long+"yyy\n\ntwo")); err != nil {
		t.Fatal(err)
	}
	if want := "broker-1: one\nbroker-1: " + long + "\nbroker-1: two\n"; out.String() != want {
		t.Errorf("got %d bytes, %.80q, want %d bytes", out.Len(), out.String(), len(want))
	}
}
