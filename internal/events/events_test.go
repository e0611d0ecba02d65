package events

import (
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
)

func TestTeller(t *testing.T) {
	var nobody *Teller
	nobody.Warn(corev1.ObjectReference{}, "A", "B", "c")
	NewTeller(nil).Warn(corev1.ObjectReference{}, "A", "B", "c")

	recorder := events.NewFakeRecorder(1000)
	teller := NewTeller(recorder)
	for range 1000 {
		teller.Warn(corev1.ObjectReference{Kind: "Pod", Name: "web-0"}, "CredentialRefused", "Issue", "100%s of it")
	}
	if got := len(recorder.Events); got < atOnce || got > 2*atOnce {
		t.Errorf("told %d of 1000", got)
	}
	if got := <-recorder.Events; got != "Warning CredentialRefused 100%s of it" {
		t.Errorf("told %q", got)
	}
}

func TestLimit(t *testing.T) {
	if got := Limit("short"); got != "short" {
		t.Errorf("got %q", got)
	}
	got := Limit(strings.Repeat("ä", 1000))
	if len(got) > 1024 || !utf8.ValidString(got) || !strings.HasSuffix(got, "ä …") {
		t.Errorf("got %d bytes: %q", len(got), got)
	}
}
