package cabundle

import (
	"bytes"
	"encoding/pem"
	"testing"
	"time"
)

// certificate returns a PEM block of a certificate with arbitrary content.
func certificate(content string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(content)})
}

func TestNext(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a, b, c := certificate("a"), certificate("b"), certificate("c")
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	steps := []struct {
		name  string
		at    time.Duration
		named []byte
		want  []byte
	}{
		{"first", 0, join([]byte("text\n"), a, a), a},
		{"changed", time.Minute, b, join(b, a)},
		{"within the overlap", 5 * time.Minute, b, join(b, a)},
		{"changed again", 6 * time.Minute, c, join(c, b, a)},
		{"overlap began anew", 15 * time.Minute, c, join(c, b, a)},
		{"after the overlap", 16 * time.Minute, c, c},
		{"overlap by the target itself", 20 * time.Minute, join(c, a), join(c, a)},
		{"changed back", 21 * time.Minute, a, join(a, c)},
	}
	var present Bundle
	for _, step := range steps {
		present = present.Next(step.named, now.Add(step.at))
		if !bytes.Equal(present.PEM(), step.want) {
			t.Errorf("%s: published %q, want %q", step.name, present.PEM(), step.want)
		}
	}
}

func TestPublishedByAPredecessor(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a, b := certificate("a"), certificate("b")
	taken := Published(a).Next(b, now)
	if want := append(bytes.Clone(b), a...); !bytes.Equal(taken.PEM(), want) {
		t.Errorf("published %q, want %q", taken.PEM(), want)
	}
	if got := taken.Next(b, now.Add(Overlap)).PEM(); !bytes.Equal(got, b) {
		t.Errorf("after the overlap, published %q, want %q", got, b)
	}
}
